//! Whole runs of `procession load`: against the server that is part of it, and against servers of this file that
//! misbehave. Each takes a second or two; no time is asserted from above.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use procession_load::result::{ErrorKind, Outcome, RunResult, RunState};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_procession"));
    command
        .arg("load")
        .args(arguments)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

/// A folder of this test's own, gone when it is.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("procession-load-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn result(path: &str) -> RunResult {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A server with a thread for each connection, which answers the n-th request of all with `answer(n)`; an empty answer closes
/// the connection. It lives as long as the test's process.
fn server(answer: fn(usize, &str) -> String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let served = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        for stream in listener.incoming() {
            let served = served.clone();
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                loop {
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") {
                        if reader.read_line(&mut head).unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let length = head
                        .lines()
                        .find_map(|line| {
                            line.to_ascii_lowercase()
                                .strip_prefix("content-length:")?
                                .trim()
                                .parse()
                                .ok()
                        })
                        .unwrap_or(0);
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body).unwrap();
                    head.push_str(&String::from_utf8_lossy(&body));
                    let number = served.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    let answer = answer(number, &head);
                    if answer.is_empty() || stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn good() -> String {
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned()
}

#[test]
fn without_a_target_it_tests_its_own_server_and_ends_in_a_verdict() {
    let folder = Folder::new("own");
    let json = folder.file("run.json");
    let output = run(&["-z", "2s", "-q", "100/s", "-P", "1", "-o", &json]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let result = result(&json);
    // Whether the machine is idle enough for a PASS is not for this test to say; that verdict and exit code agree, is.
    let (word, code) = match result.verdict.outcome {
        Outcome::Pass => ("PASS", 0),
        Outcome::Fail => ("FAIL", 99),
        Outcome::Invalid => ("INVALID", 98),
    };
    assert!(text.starts_with(word), "{text}");
    assert_eq!(output.status.code(), Some(code));
    assert_eq!((result.state, result.totals.errors), (RunState::Finished, 0));
    assert_eq!(
        result.totals.requests + result.totals.unfinished + result.totals.unsent,
        200
    );
    let lines = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        lines
            .lines()
            .any(|line| line.contains("p99") && line.contains("no errors")),
        "{lines}"
    );
}

#[test]
fn every_form_of_the_result_is_written_and_can_be_made_again_from_the_json() {
    let folder = Folder::new("forms");
    let forms = ["json", "html", "csv", "xml", "prom"];
    let files: Vec<String> = forms
        .iter()
        .map(|form| folder.file(&format!("run.{form}")))
        .collect();
    let mut arguments = vec!["-z", "1s", "-q", "100/s", "-P", "1", "--quiet"];
    files.iter().for_each(|file| arguments.extend(["-o", file]));
    let output = run(&arguments);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let again: Vec<String> = forms
        .iter()
        .map(|form| folder.file(&format!("again.{form}")))
        .collect();
    let mut arguments = vec!["--show", &files[0]];
    again.iter().for_each(|file| arguments.extend(["-o", file]));
    let shown = run(&arguments);
    assert_eq!(
        (shown.stdout, shown.status.code()),
        (output.stdout, output.status.code())
    );
    for (file, again) in files.iter().zip(&again) {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(
            !text.is_empty() && text == std::fs::read_to_string(again).unwrap(),
            "{file}"
        );
    }
}

#[test]
fn a_broken_slo_is_a_fail_with_its_own_exit_code_also_behind_the_url() {
    let address = server(|number, _| {
        if number % 2 == 0 {
            good()
        } else {
            "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_owned()
        }
    });
    let folder = Folder::new("slo");
    let json = folder.file("run.json");
    let url = format!("http://{address}/");
    let output = run(&[
        "-n",
        "40",
        "-c",
        "2",
        "-o",
        &json,
        "--slo",
        "errors<10%",
        "p50<5s",
        &url,
    ]);
    let result = result(&json);
    assert_eq!((result.totals.requests, result.totals.errors), (40, 20));
    let error = &result.errors[0];
    assert_eq!((error.kind, error.count), (ErrorKind::Status5xx, 20));
    let kept: Vec<bool> = result.slos.iter().map(|slo| slo.kept).collect();
    assert_eq!(kept, [false, true]);
    assert_eq!(result.slos[0].figure, "50.0 %");
    // On a machine that is too busy to tell, the run is INVALID, which counts for more.
    assert!(
        [Some(99), Some(98)].contains(&output.status.code()),
        "{:?}",
        output.status
    );
}

#[test]
fn what_is_sent_is_what_was_asked_for() {
    let address = server(|_, request| {
        let wanted = request.starts_with("PUT /cart?a=1 HTTP/1.1\r\n")
            && request.to_ascii_lowercase().contains("\r\nx-name: a b\r\n")
            && request.ends_with("\r\n\r\nhello");
        if wanted {
            good()
        } else {
            "HTTP/1.1 400 Other\r\nContent-Length: 0\r\n\r\n".to_owned()
        }
    });
    let folder = Folder::new("sent");
    let json = folder.file("run.json");
    let url = format!("http://{address}/cart?a=1");
    run(&[
        "-n",
        "4",
        "-c",
        "2",
        "-o",
        &json,
        "-m",
        "PUT",
        "-H",
        "X-Name: a b",
        "-d",
        "hello",
        &url,
    ]);
    assert_eq!(
        (result(&json).totals.requests, result(&json).totals.errors),
        (4, 0)
    );
    let curl = format!("curl -X PUT '{url}' -H 'X-Name: a b' --data-raw hello");
    run(&["-n", "4", "-c", "2", "-o", &json, "--curl", &curl]);
    assert_eq!(
        (result(&json).totals.requests, result(&json).totals.errors),
        (4, 0)
    );
    assert_eq!(result(&json).steps[0].name, "PUT /cart");
    // Our own header takes the place of the command's, and what -d reads from a file is sent without its line ends.
    let body = folder.file("body.txt");
    std::fs::write(&body, "hel\r\nlo\n").unwrap();
    let curl = format!("curl -X PUT '{url}' -H 'X-Name: other' -d @{body}");
    run(&["-n", "1", "-o", &json, "--curl", &curl, "-H", "x-name: a b"]);
    assert_eq!(
        (result(&json).totals.requests, result(&json).totals.errors),
        (1, 0)
    );
}

#[test]
fn urls_of_a_file_are_chosen_by_their_weights() {
    let address = server(|_, _| good());
    let folder = Folder::new("urls");
    let (urls, json) = (folder.file("urls.txt"), folder.file("run.json"));
    let lines = format!("\u{feff}# two of them\n3 http://{address}/often\n1 POST http://{address}/seldom\n");
    std::fs::write(&urls, lines).unwrap();
    run(&[
        "-n",
        "400",
        "-c",
        "2",
        "--seed",
        "1",
        "-o",
        &json,
        &format!("@{urls}"),
    ]);
    let result = result(&json);
    let count = |name: &str| {
        result
            .steps
            .iter()
            .find(|step| step.name == name)
            .map_or(0, |step| step.count)
    };
    assert_eq!(count("GET /often") + count("POST /seldom"), 400);
    assert!(
        (200..400).contains(&count("GET /often")),
        "{}",
        count("GET /often")
    );
}

#[test]
fn a_server_that_is_not_there_is_an_error_of_its_kind_and_not_a_hang() {
    // Bound and not listening any more: nobody else gets this port in the meantime, as far as that can be had.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let folder = Folder::new("refused");
    let json = folder.file("run.json");
    let output = run(&["-n", "5", "-c", "1", "-o", &json, &format!("http://{address}/")]);
    let result = result(&json);
    // Where nothing succeeded nothing passes.
    assert_ne!(result.verdict.outcome, Outcome::Pass);
    assert_ne!(output.status.code(), Some(0));
    assert_eq!(result.totals.errors, 5);
    assert_eq!(result.errors[0].kind, ErrorKind::Refused);
}

fn started(arguments: &[&str]) -> Child {
    command(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Waits for the first line of a run that is under way.
fn first_line(child: &mut Child) -> BufReader<std::process::ChildStderr> {
    let mut reader = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.contains("p99"), "{line}");
    reader
}

#[test]
fn an_interrupted_run_still_reports() {
    let folder = Folder::new("interrupted");
    let json = folder.file("run.json");
    let mut child = started(&["-z", "60s", "-q", "100/s", "-P", "1", "-o", &json]);
    let mut errors = first_line(&mut child);
    signal(&child, "-INT");
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    errors.read_to_string(&mut String::new()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(text.contains("stopped after"), "{text}");
    let result = result(&json);
    assert_eq!(result.state, RunState::Stopped);
    assert!(result.totals.requests > 0);
}

#[test]
fn a_second_interrupt_quits_at_once_and_leaves_nobody_behind() {
    // Answers nothing, so that ending in order would take its second.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut child = started(&["-z", "60s", "-c", "2", "-P", "2", "-t", "50s", &url]);
    let workers = || {
        let path = format!("/proc/{0}/task/{0}/children", child.id());
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while workers().len() < 2 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    let pids = workers();
    assert_eq!(pids.len(), 2);
    // Both handlers are there before the workers are.
    signal(&child, "-INT");
    thread::sleep(Duration::from_millis(400));
    signal(&child, "-INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    for pid in pids {
        let gone = || std::fs::metadata(format!("/proc/{pid}")).is_err();
        while !gone() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        assert!(gone(), "worker {pid} is still there");
    }
}

#[test]
fn output_that_nobody_reads_ends_the_command_quietly() {
    let mut child = started(&["-z", "1s", "-q", "50/s", "-P", "1", "--quiet"]);
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
