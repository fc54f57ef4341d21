//! What the command prints, word for word: help, errors, summary, table, plot and chart.
//!
//! The texts are in `tests/golden`. After a wanted change, `UPDATE_GOLDEN=1 cargo test -p procession-cli` writes them
//! anew, and the diff is for review. Nothing here starts Python.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn golden(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    // No line ends with blanks, also where clap aligns columns.
    let lines: Vec<&str> = actual.lines().map(str::trim_end).collect();
    let actual = lines.join("\n") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &actual).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        actual,
        expected,
        "\n{} differs; UPDATE_GOLDEN=1 writes it anew",
        path.display()
    );
}

fn help_of(subcommand: &[&str]) -> String {
    let mut command = procession_cli::command().term_width(100);
    command.build();
    let mut found = &mut command;
    for name in subcommand {
        found = found.find_subcommand_mut(name).unwrap();
    }
    found.render_long_help().to_string()
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_procession"))
        .args(arguments)
        .env_remove("VIRTUAL_ENV")
        .env("NO_COLOR", "1")
        .output()
        .unwrap()
}

/// The error that these arguments bring, with the exit code.
fn error_of(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "",
        "errors belong to standard error"
    );
    format!(
        "$ procession {}\n{}exit code {}\n\n",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr),
        output.status.code().unwrap()
    )
}

#[test]
fn help_says_what_each_option_does_and_when_you_want_it() {
    golden("help.txt", &help_of(&[]));
    golden("help-map.txt", &help_of(&["map"]));
    golden("help-bench.txt", &help_of(&["bench"]));
    golden("help-top.txt", &help_of(&["top"]));
    golden("help-ps.txt", &help_of(&["ps"]));
    golden("help-load.txt", &help_of(&["load"]));
}

#[test]
fn fingers_that_come_from_other_load_testers_are_told_what_to_write() {
    let url = "http://127.0.0.1:1/";
    let cases: &[&[&str]] = &[
        &["load", "-t", "12", "-c", "400", "-d", "30s", url],
        &["load", "-d", "30s", "-c", "10", url],
        &["load", "-n", "1000", "-z", "10s", url],
        &["load", "-c", url],
        &["load", "-c", "0", url],
        &["load", "-n", "10", "-c", "100", url],
        &["load", "-c", "5", "-u", "5", url],
        &["load", "localhost:8080/cart"],
        &["load", "ftp://127.0.0.1/"],
        &["load", "ws://127.0.0.1/"],
        &["load", "tcp://127.0.0.1"],
        &["load", "-q", "fast", url],
        &["load", "--arrivals", "poisson", url],
        &["load", "-s", "30s:100,2m", url],
        &["load", "-s", "30s:100", "-z", "10s", url],
        &["load", "--think", "1s", "-q", "10/s", url],
        &["load", "-H", "Accept", url],
        &["load", "-d", "@no-such-file", url],
        &["load", "--slo", "p99<500", "--", url],
        &["load", "--slo", "p99>500ms", "errors<1%", url],
        &["load", "--curl", "curl --proxy x http://127.0.0.1/"],
        &["load", "--send", "PING", url],
        &["load", "tcp://127.0.0.1:9", "--send", r"\q"],
        &["load", "--http2", "-c", "1", "--streams", "0", url],
        &["load", "--cert", "a.pem", url],
        &["load", "-c", "50", "http://192.0.2.1/"],
        &["load", "-q", "51/s", "http://shop.example/"],
        &["load", "-o", "result.yaml", url],
        &["load", "-o", "no-such-folder/result.json", url],
        &["load", "--show", "no-such-file.json"],
        &["load", "--warmup", "10s", url],
        &["load", "--rat", "10/s", url],
    ];
    golden(
        "load-usage-errors.txt",
        &cases.iter().map(|case| error_of(case)).collect::<String>(),
    );
}

#[test]
fn usage_errors_name_the_argument_and_what_was_expected() {
    let cases: &[&[&str]] = &[
        &["map", "count.py", "a.txt"],
        &["map", ":words", "a.txt"],
        &["map", "count.py:words"],
        &["map", "count.py:words", "-", "a.txt"],
        &["map", "count.py:words", "--processes", "0", "a.txt"],
        &["map", "count.py:words", "--processes", "1000000", "a.txt"],
        &["map", "count.py:words", "--processes", "two", "a.txt"],
        &["map", "count.py:words", "--timeout", "0", "a.txt"],
        &["map", "count.py:words", "--timeout", "2s", "a.txt"],
        &["map", "count.py:words", "--retries", "-1", "a.txt"],
        &["map", "count.py:words", "--start-method", "thread", "a.txt"],
        &["map", "count.py:words", "--star", "a.txt"],
        &["map", "count.py:words", "--orderd", "a.txt"],
        &["map", "count.py:words", "--glob", "a[", "--quiet"],
        &["bench", "count.py:words"],
        &["bench", "count.py:words", "--rounds", "0", "a.txt"],
        &["bench", "count.py:words", "--range", "3", "a.txt"],
        &["bench", "count.py:words", "--range", "0"],
        &["mop", "count.py:words"],
    ];
    golden(
        "usage-errors.txt",
        &cases.iter().map(|case| error_of(case)).collect::<String>(),
    );
}

#[test]
fn errors_at_the_start_say_what_to_do() {
    let cases: &[&[&str]] = &[
        &["map", "count.py:words", "--glob", "no-such-folder/*.txt"],
        &[
            "map",
            "count.py:words",
            "--output",
            "no-such-folder/out.txt",
            "a.txt",
        ],
        &["map", "count.py:words", "--python", "no-such-python", "a.txt"],
        &[
            "bench",
            "count.py:words",
            "--export-json",
            "no-such-folder/out.json",
            "a.txt",
        ],
    ];
    golden(
        "start-errors.txt",
        &cases.iter().map(|case| error_of(case)).collect::<String>(),
    );
}

#[test]
fn a_program_that_is_no_python_with_procession_is_reported_as_such() {
    // `true` takes any arguments and ends, as an interpreter that cannot start does.
    let output = run(&["map", "count.py:words", "--python", "true", "a.txt"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3));
    assert!(
        text.contains("Python at true exited with code 0 before it had loaded the function"),
        "{text}"
    );
}

#[test]
fn the_version_is_the_crates() {
    let output = run(&["--version"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("procession {}\n", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn no_arguments_show_the_help_as_a_usage_error() {
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Usage: procession"));
}

#[test]
fn every_file_the_documentation_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files: [PathBuf; 5] = [
        root.join("src/host/README.md"),
        root.join("src/host/bootstrap.py"),
        root.join("schema/map-line.schema.json"),
        root.join("schema/bench.schema.json"),
        root.join("../../python/procession/_command_host.py"),
    ];
    for file in files {
        assert!(file.is_file(), "{}", file.display());
    }
}
