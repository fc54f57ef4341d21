//! The programs in `examples/` run and print what they promise.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Builds the examples once, and runs one of them.
fn run(name: &str, arguments: &[&str]) -> String {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        let program = env::current_exe().unwrap();
        let profile_directory = program.parent().unwrap().parent().unwrap();
        let profile = match profile_directory.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            other => other,
        };
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--examples", "--profile", profile]);
        // Another set of features would be another build of everything.
        if cfg!(feature = "crash-points") {
            build.args(["--features", "crash-points"]);
        }
        build
            .arg("--manifest-path")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        build.arg("--target-dir").arg(profile_directory.parent().unwrap());
        assert!(build.status().unwrap().success(), "the examples cannot be built");
        profile_directory.join("examples")
    });
    // A bound far beyond what they need, should one hang.
    let mut command = Command::new("timeout");
    command
        .args(["--signal=KILL", "60"])
        .arg(directory.join(name))
        .args(arguments);
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let (stdout, stderr) = (
        String::from_utf8(stdout).unwrap(),
        String::from_utf8_lossy(&stderr).into_owned(),
    );
    assert!(status.success(), "{name} ended with {status}: {stdout}{stderr}");
    assert_eq!(stderr, "", "{name}");
    stdout
}

/// The number that follows this text.
fn number_after(text: &str, label: &str) -> u32 {
    let rest = text
        .split(label)
        .nth(1)
        .unwrap_or_else(|| panic!("no {label:?} in {text}"));
    rest.chars()
        .take_while(char::is_ascii_digit)
        .collect::<String>()
        .parse()
        .unwrap()
}

#[test]
fn fork_prints_both_sides() {
    let text = run("fork", &[]);
    let (child, parent) = (
        number_after(&text, "child process ("),
        number_after(&text, "my parent is "),
    );
    assert_eq!(
        (
            number_after(&text, "I ("),
            number_after(&text, "created a child process (")
        ),
        (parent, child)
    );
    let numbers: Vec<&str> = text.lines().filter(|line| line.parse::<u32>().is_ok()).collect();
    assert_eq!(numbers.len(), 3, "{text}");
    assert_eq!(numbers[0], parent.to_string());
    assert!(
        numbers.contains(&"0") && numbers.contains(&child.to_string().as_str()),
        "{text}"
    );
}

#[test]
fn five_workers_run_one_after_the_other() {
    let text = run("five_workers", &[]);
    let expected: String = (0..5)
        .map(|i| format!("Process-{} starting\nworker {i}\nProcess end.\n", i + 1))
        .collect();
    let list = text.strip_prefix(&expected).unwrap_or_else(|| panic!("{text}"));
    assert_eq!(list.matches("stopped exitcode=0>").count(), 5, "{list}");
    assert!(list.starts_with("[<Process name='Process-1' pid="), "{list}");
}

#[test]
fn five_workers_run_side_by_side_with_names() {
    let text = run("five_workers", &["side-by-side", "xm"]);
    for i in 0..5 {
        assert!(
            text.contains(&format!("xm{i} starting\n")) && text.contains(&format!("worker {i}\n")),
            "{text}"
        );
    }
}

#[test]
fn files_are_read_in_turn_and_side_by_side() {
    let directory = env::temp_dir().join(format!("procession-examples-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let paths = ["x.txt", "y.txt"].map(|name| directory.join(name).to_str().unwrap().to_owned());
    for path in &paths {
        std::fs::write(path, format!("this is {path}")).unwrap();
    }
    let arguments = [paths[0].as_str(), paths[1].as_str()];
    let in_turn = run("read_files_in_turn", &arguments);
    let side_by_side = run("read_files_side_by_side", &arguments);
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(
        in_turn,
        format!("this is {}\nthis is {}\nDone!\n", paths[0], paths[1])
    );
    let mut lines: Vec<&str> = side_by_side.lines().collect();
    assert_eq!(lines.pop(), Some("Done!"));
    lines.sort_unstable();
    assert_eq!(
        lines,
        [format!("this is {}", paths[0]), format!("this is {}", paths[1])]
    );
}

#[test]
fn sleeper_tells_who_is_whose_parent() {
    let text = run("sleeper", &["0.1"]);
    assert_eq!(
        number_after(&text, "Parent Process ID# "),
        number_after(&text, "the major process: ")
    );
    let position = |part: &str| text.find(part).unwrap_or_else(|| panic!("no {part:?} in {text}"));
    assert!(position("bob will sleep for 0.1 seconds") < position("after child process join"));
    assert!(position("about to join") < position("after child process join"));
}

#[test]
fn stress_template_asks_its_server() {
    let text = run("stress_template", &["0.1"]);
    assert!(
        text.contains("<!DOCTYPE html><html\n") && text.contains("><title>/buy</title>\n"),
        "{text}"
    );
    assert!(
        text.ends_with("gloryroad1 exited with code 0\ngloryroad2 exited with code 0\ndone!\n"),
        "{text}"
    );
}

#[test]
fn tasks_greet() {
    let text = run("task", &[]);
    for name in ["ann", "bob"] {
        assert_eq!(
            text.matches(&format!("greeter of {name}: hello, {name}\n"))
                .count(),
            2,
            "{text}"
        );
    }
    assert_eq!(text.matches("it exited with code 0\n").count(), 2, "{text}");
}

#[test]
fn pool_and_one_process_agree_and_are_timed() {
    let text = run("one_process_or_many", &["40"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].contains(" processes: ") && lines[1].starts_with("1 process: "),
        "{text}"
    );
    assert!(lines[2].starts_with("speed-up: "), "{text}");
}

#[test]
fn workers_tell_who_they_are_and_a_closed_pool_refuses() {
    let text = run("which_worker", &[]);
    let told: Vec<u32> = (0..8u32).map(|x| x * x).collect();
    let mut heard: Vec<u32> = text
        .lines()
        .filter_map(|line| line.strip_prefix("pid: ")?.split_once(' ')?.1.parse().ok())
        .collect();
    heard.sort_unstable();
    assert_eq!(heard, told, "{text}");
    let end = "[0, 1, 4, 9, 16, 25, 36, 49]\nError: the pool is closed: it takes no more tasks\nDone\n";
    assert!(text.ends_with(end), "{text}");
}

#[test]
fn async_result_comes_later_than_a_short_wait() {
    let text = run("async_result", &[]);
    let expected =
        "100\n[0, 1, 4, 9, 16, 25, 36, 49, 64, 81]\nnot yet: the task took longer than 200ms\nnow: 100\n";
    assert_eq!(text, expected);
}

#[test]
fn async_tasks_are_done_side_by_side() {
    let text = run("async_side_by_side", &["0.2"]);
    assert_eq!(text.matches("\n100\n100\n100\n").count(), 1, "{text}");
    assert_eq!(text.matches("work: ").count(), 13, "{text}");
    assert!(text.ends_with("[0, 1, 4, 9, 16, 25, 36, 49, 64, 81]\n"), "{text}");
}

#[test]
fn several_arguments_travel_as_a_tuple() {
    let text = run("several_arguments", &[]);
    assert!(
        text.contains("\n40\n") && text.ends_with("[2, 12, 30]\n"),
        "{text}"
    );
}

#[test]
fn two_jobs_are_done_by_a_pool_or_by_processes() {
    for program in ["two_jobs_by_pool", "two_jobs_by_processes"] {
        let text = run(program, &[]);
        let expected = "15511210043330985984000000\nsleep long time!\nProcess end.\n";
        assert_eq!(text, expected, "{program}");
    }
}

#[test]
fn benchmark_prints_json_lines() {
    let text = run("bench_map", &["1", "apply of"]);
    let (start, end) = (
        "{\"name\": \"apply of u64, one after the other\", \"per_second\": ",
        "}\n",
    );
    let number = text.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
    assert!(
        number.is_some_and(|number| number.parse::<u64>().unwrap() > 0),
        "{text}"
    );
}
