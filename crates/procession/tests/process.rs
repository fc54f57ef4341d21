//! Processes as users of the crate meet them.
//!
//! The test harness has threads, so closures are forked despite of them here: they keep to what is allowed then.

mod support;

use procession::os::process as os;
use procession::process::ProcessBuilder;
use procession::{active_children, current, Process, State};
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use support::{alone, sleep_for_ever, telegraph, wait_until, PATIENCE};

fn forked() -> ProcessBuilder {
    // SAFETY: tests run one at a time, so the other threads are waiting; the closures use nothing of theirs.
    unsafe { Process::builder().fork_despite_threads() }
}

fn started(builder: ProcessBuilder, function: impl FnOnce() + Send + 'static) -> Process {
    let process = builder.target(function);
    process.start().unwrap();
    process
}

/// How a process looks to the system: gone, or ended and not yet reaped by whoever has adopted it.
fn has_ended(pid: u32) -> bool {
    matches!(os::process_state(pid), None | Some('Z' | 'X'))
}

#[test]
fn closure_has_what_it_captured_and_its_outcome_is_the_exit_code() {
    let _alone = alone();
    let (mut out, reports) = telegraph();
    let numbers = vec![1, 2, 3];
    let process = forked().target(move || {
        write!(out, "{numbers:?}").unwrap();
        3
    });
    process.start().unwrap();
    assert_eq!(process.join().unwrap().code(), Some(3));
    assert_eq!(reports.read_to_end(), "[1, 2, 3]");
    let failing = forked().target(|| Err::<(), _>("no luck"));
    failing.start().unwrap();
    assert_eq!(failing.join().unwrap().code(), Some(1));
}

#[test]
fn panic_ends_only_the_child_and_with_101() {
    let _alone = alone();
    let process = started(forked(), || panic!("deliberate"));
    assert_eq!(process.join().unwrap().code(), Some(101));
    assert!(format!("{process}").ends_with("stopped exitcode=101>"));
}

#[test]
fn each_way_of_dying_is_told_apart() {
    let _alone = alone();
    let exits = started(forked(), || std::process::exit(7));
    let aborts = started(forked(), || std::process::abort());
    let killed = started(forked(), sleep_for_ever);
    killed.kill().unwrap();
    let terminated = started(forked(), sleep_for_ever);
    terminated.terminate().unwrap();
    let status = |process: &Process| process.join().unwrap().to_string();
    assert_eq!(status(&exits), "exited with code 7");
    assert!(status(&aborts).starts_with("was killed by SIGABRT"), "{aborts}");
    assert_eq!(status(&killed), "was killed by SIGKILL");
    assert_eq!(status(&terminated), "was killed by SIGTERM");
    assert_eq!(killed.join().unwrap().exit_code_like_python(), -9);
    for process in [exits, aborts, killed, terminated] {
        process.kill().unwrap();
        process.suspend().unwrap();
        process.resume().unwrap();
        assert!(!process.is_alive());
    }
}

#[test]
fn processes_are_named_and_know_who_they_are() {
    let _alone = alone();
    let (mut out, reports) = telegraph();
    let process = forked().target(move || {
        let me = current();
        let child = forked().target(|| ());
        child.start().unwrap();
        child.join().unwrap();
        writeln!(
            out,
            "{} {} {} {}",
            me.name(),
            me.pid(),
            me.parent_pid(),
            child.name()
        )
        .unwrap();
    });
    assert!(process.name().starts_with("Process-"));
    process.start().unwrap();
    let (name, pid) = (process.name().to_owned(), process.pid().unwrap());
    let me = std::process::id();
    assert_eq!(reports.read_to_end(), format!("{name} {pid} {me} {name}:1\n"));
    assert!(process.join().unwrap().success());
    assert_eq!(current().name(), "MainProcess");
    assert_eq!(forked().name("gloryroad1").target(|| ()).name(), "gloryroad1");
}

#[test]
fn process_prints_as_in_python() {
    let _alone = alone();
    let process = forked().name("p").daemon(true).target(sleep_for_ever);
    let me = std::process::id();
    assert_eq!(
        format!("{process:?}"),
        format!("<Process name='p' parent={me} initial daemon>")
    );
    process.start().unwrap();
    let pid = process.pid().unwrap();
    assert_eq!(
        format!("{process}"),
        format!("<Process name='p' pid={pid} parent={me} started daemon>")
    );
    process.kill().unwrap();
    process.join().unwrap();
    let text = format!("<Process name='p' pid={pid} parent={me} stopped exitcode=-SIGKILL daemon>");
    assert_eq!(format!("{process}"), text);
}

#[test]
fn fork_beside_threads_is_refused_with_the_reason() {
    let _alone = alone();
    let process = Process::new(|| ());
    let error = process.start().unwrap_err();
    assert!(error.is_unsupported());
    assert!(
        error.to_string().contains("fork would copy only the calling one"),
        "{error}"
    );
    assert_eq!(process.state(), State::Initial);
    assert!(procession::fork().unwrap_err().is_unsupported());
}

#[test]
fn calls_out_of_order_are_refused() {
    let _alone = alone();
    let process = forked().target(|| ());
    assert!(process.join().unwrap_err().is_not_started());
    assert!(process.kill().unwrap_err().is_not_started());
    assert!(process.pidfd().unwrap_err().is_not_started());
    assert_eq!(
        (process.exit_status(), process.pid(), process.is_alive()),
        (None, None, false)
    );
    process.start().unwrap();
    assert!(process.start().unwrap_err().is_already_started());
    process.join().unwrap();
    assert!(process.start().unwrap_err().is_already_started());
}

#[test]
fn inherited_handle_is_of_no_use_in_a_child() {
    let _alone = alone();
    let sibling = started(forked(), sleep_for_ever);
    let handle = sibling.clone();
    let process = forked().target(move || {
        let refused = handle.join().unwrap_err().is_not_owner() && handle.kill().unwrap_err().is_not_owner();
        u8::from(!(refused && handle.state() == State::Unknown && active_children().is_empty()))
    });
    process.start().unwrap();
    assert!(process.join().unwrap().success());
    assert!(sibling.is_alive());
    sibling.kill().unwrap();
    sibling.join().unwrap();
}

#[test]
fn join_with_a_timeout_gives_up_and_may_be_repeated() {
    let _alone = alone();
    let process = started(forked(), sleep_for_ever);
    assert_eq!(process.join_timeout(Duration::ZERO).unwrap(), None);
    let begin = Instant::now();
    assert_eq!(process.join_timeout(Duration::from_millis(50)).unwrap(), None);
    assert!(begin.elapsed() >= Duration::from_millis(50));
    process.kill().unwrap();
    assert_eq!(
        process.join_timeout(Duration::MAX).unwrap().unwrap().signal(),
        Some(9)
    );
}

#[test]
fn many_threads_may_join_one_process() {
    let _alone = alone();
    let process = started(forked(), sleep_for_ever);
    let waiting: Vec<_> = (0..8)
        .map(|_| process.clone())
        .map(|handle| thread::spawn(move || handle.join()))
        .collect();
    process.kill().unwrap();
    for thread in waiting {
        assert_eq!(thread.join().unwrap().unwrap().signal(), Some(9));
    }
}

#[test]
fn states_follow_the_life_of_a_process() {
    let _alone = alone();
    let process = forked().target(sleep_for_ever);
    assert_eq!(process.state(), State::Initial);
    process.start().unwrap();
    wait_until("it sleeps", || process.state() == State::Blocked);
    process.suspend().unwrap();
    assert_eq!(process.state(), State::Suspended);
    process.resume().unwrap();
    wait_until("it sleeps again", || process.state() == State::Blocked);
    process.kill().unwrap();
    let status = process.join().unwrap();
    assert_eq!(process.state(), State::Ended(status));
    let busy = started(forked(), || loop {
        std::hint::spin_loop();
    });
    wait_until("it runs", || busy.state() == State::Running);
    busy.kill().unwrap();
    busy.join().unwrap();
}

#[test]
fn suspended_process_can_be_terminated() {
    let _alone = alone();
    let process = started(forked(), sleep_for_ever);
    process.suspend().unwrap();
    process.terminate().unwrap();
    assert_eq!(process.join().unwrap().signal(), Some(os::SIGTERM));
}

#[test]
fn stop_kills_what_ignores_the_request() {
    let _alone = alone();
    let (mut out, mut reports) = telegraph();
    let process = started(forked(), move || {
        os::ignore_signal(os::SIGTERM).unwrap();
        writeln!(out, "ready").unwrap();
        sleep_for_ever();
    });
    assert_eq!(reports.line(), "ready");
    assert_eq!(
        process.stop(Duration::from_millis(50)).unwrap().signal(),
        Some(os::SIGKILL)
    );
    let polite = started(forked(), sleep_for_ever);
    assert_eq!(polite.stop(PATIENCE).unwrap().signal(), Some(os::SIGTERM));
}

/// A process with a shell, which has children in the background, one of them in a session of its own.
fn start_family() -> (Process, Vec<u32>, u32) {
    let (mut out, mut reports) = telegraph();
    let process = started(forked(), move || {
        let script = "sleep 1000 & echo $!; sh -c 'sleep 1000 & echo $!; wait' & setsid sh -c 'echo $$; exec sleep 1000' & wait";
        let mut shell = Command::new("sh")
            .args(["-c", script])
            .stdout(out.try_clone().unwrap())
            .spawn()
            .unwrap();
        writeln!(out, "{}", shell.id()).unwrap();
        drop(out);
        shell.wait().unwrap();
    });
    let pids: Vec<u32> = (0..4).map(|_| reports.line().parse().unwrap()).collect();
    let (others, inside): (Vec<u32>, Vec<u32>) = {
        wait_until("the session has begun", || {
            pids.iter().any(|&pid| session(pid) == Some(pid))
        });
        pids.iter().partition(|&&pid| session(pid) == Some(pid))
    };
    (process, inside, others[0])
}

fn session(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(3)?.parse().ok()
}

fn end_stranger(pid: u32) {
    let pidfd = os::pidfd_open(pid).unwrap();
    os::pidfd_send_signal(&pidfd, os::SIGKILL).unwrap();
    os::wait_until_ended(&pidfd, None).unwrap();
}

#[test]
fn kill_ends_the_whole_tree_but_not_other_sessions() {
    let _alone = alone();
    let (process, descendants, stranger) = start_family();
    process.kill().unwrap();
    assert_eq!(process.join().unwrap().signal(), Some(os::SIGKILL));
    wait_until("descendants have ended", || {
        descendants.iter().all(|&pid| has_ended(pid))
    });
    assert!(!has_ended(stranger));
    end_stranger(stranger);
}

#[test]
fn terminate_suspend_and_resume_reach_the_whole_tree() {
    let _alone = alone();
    let (process, descendants, stranger) = start_family();
    let all_are = |states: &str| {
        descendants
            .iter()
            .all(|&pid| os::process_state(pid).is_some_and(|s| states.contains(s)))
    };
    process.suspend().unwrap();
    assert!(all_are("T"));
    process.resume().unwrap();
    wait_until("all go on", || all_are("SR"));
    process.terminate().unwrap();
    assert_eq!(process.join().unwrap().signal(), Some(os::SIGTERM));
    wait_until("descendants have ended", || {
        descendants.iter().all(|&pid| has_ended(pid))
    });
    end_stranger(stranger);
}

#[test]
fn tree_that_keeps_forking_is_killed_whole() {
    let _alone = alone();
    let (mut out, mut reports) = telegraph();
    let process = started(forked(), move || {
        writeln!(out, "ready").unwrap();
        let script = "while :; do sh -c 'sleep 0.01 & sleep 0.01' & sleep 0.001; done";
        Command::new("sh")
            .args(["-c", script])
            .stdout(out)
            .status()
            .unwrap();
    });
    assert_eq!(reports.line(), "ready");
    thread::sleep(Duration::from_millis(100));
    process.kill().unwrap();
    process.join().unwrap();
    // All of them had the other end open.
    assert_eq!(reports.read_to_end(), "");
}

#[test]
fn process_dies_with_its_parent_however_that_ends() {
    let _alone = alone();
    let (mut out, mut reports) = telegraph();
    let parent = started(forked(), move || {
        let child = started(forked(), sleep_for_ever);
        writeln!(out, "{}", child.pid().unwrap()).unwrap();
        sleep_for_ever();
    });
    let grandchild: u32 = reports.line().parse().unwrap();
    let pidfd = os::pidfd_open(grandchild).unwrap();
    // Younger siblings have a copy of everything the parent of the grandchild does not close.
    let sibling = started(forked(), sleep_for_ever);
    parent.send_signal(os::SIGKILL).unwrap();
    assert_eq!(parent.join().unwrap().signal(), Some(9));
    assert!(os::wait_until_ended(&pidfd, Some(Instant::now() + PATIENCE / 2)).unwrap());
    assert!(sibling.is_alive());
    sibling.kill().unwrap();
    sibling.join().unwrap();
}

#[test]
fn end_of_a_process_terminates_daemons_and_waits_for_the_others() {
    let _alone = alone();
    let (mut out, reports) = telegraph();
    let process = started(forked(), move || {
        let mut late = out.try_clone().unwrap();
        started(forked(), move || {
            thread::sleep(Duration::from_millis(100));
            late.write_all(b"waited for").unwrap();
        });
        let daemon = started(forked().daemon(true), sleep_for_ever);
        writeln!(out, "{}", daemon.pid().unwrap()).unwrap();
    });
    assert!(process.join().unwrap().success());
    let text = reports.read_to_end();
    let (daemon, rest) = text.split_once('\n').unwrap();
    assert!(has_ended(daemon.parse().unwrap()));
    assert_eq!(rest, "waited for");
}

#[test]
fn dropped_handle_neither_ends_nor_loses_the_process() {
    let _alone = alone();
    let (mut out, mut reports) = telegraph();
    drop(started(forked().name("dropped"), move || {
        writeln!(out, "still here").unwrap();
        sleep_for_ever();
    }));
    assert_eq!(reports.line(), "still here");
    let found = active_children();
    assert_eq!(found.iter().map(Process::name).collect::<Vec<_>>(), ["dropped"]);
    found[0].kill().unwrap();
    drop(found);
    wait_until("it was reaped", || active_children().is_empty());
    assert_eq!(os::children_of(std::process::id()), [0; 0]);
}

#[test]
fn pidfd_tells_an_event_loop_of_the_end() {
    let _alone = alone();
    let process = started(forked(), sleep_for_ever);
    let soon = || Some(Instant::now() + Duration::from_millis(20));
    assert!(!os::wait_until_ended(process.pidfd().unwrap(), soon()).unwrap());
    process.kill().unwrap();
    assert!(os::wait_until_ended(process.pidfd().unwrap().as_fd(), None).unwrap());
    process.join().unwrap();
}

#[test]
fn standard_input_of_a_child_is_empty() {
    let _alone = alone();
    let process = forked().target(|| io::stdin().read(&mut [0; 8]).map_or(9, |length| length as i32));
    process.start().unwrap();
    assert!(process.join().unwrap().success());
}

#[test]
fn handlers_and_blocked_signals_of_the_parent_do_not_keep_a_child_alive() {
    let _alone = alone();
    os::install_noop_handler(os::SIGTERM).unwrap();
    let mask = os::block_all_signals();
    let process = started(forked(), sleep_for_ever);
    os::restore_signal_mask(&mask);
    process.terminate().unwrap();
    let status = process.join().unwrap();
    os::set_signal_default(os::SIGTERM).unwrap();
    assert_eq!(status.signal(), Some(os::SIGTERM));
}

#[test]
fn status_taken_by_somebody_else_is_found_or_reported_as_lost() {
    let _alone = alone();
    let process = started(forked(), || std::process::exit(5));
    os::wait_pidfd(process.pidfd().unwrap(), false).unwrap();
    match process.join() {
        Ok(status) => assert_eq!(status.code(), Some(5)),
        Err(error) => assert!(error.is_status_lost(), "{error}"),
    }
}

#[test]
fn start_that_fails_can_be_repeated() {
    let _alone = alone();
    let process = forked().target(|| ());
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(32),
            ..limit
        },
    )
    .unwrap();
    let hoarded: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    let error = process.start().unwrap_err();
    drop(hoarded);
    setrlimit(Resource::Nofile, limit).unwrap();
    assert!(error.io_error().is_some(), "{error:?}");
    assert_eq!(process.state(), State::Initial);
    process.start().unwrap();
    assert!(process.join().unwrap().success());
}

// Tasks begin in the test of this name, in a new copy of this program.
#[test]
fn tasks_begin_here() {
    procession::init();
}

fn task_builder() -> ProcessBuilder {
    procession::init();
    Process::builder().arguments(["tasks_begin_here", "--exact", "--nocapture"])
}

fn report(path: String, text: String) -> io::Result<()> {
    let me = current();
    std::fs::write(
        path,
        format!(
            "{text} {} {} {} {}",
            me.name(),
            me.pid(),
            me.parent_pid(),
            me.is_daemon()
        ),
    )
}
procession::task!(report: fn(String, String) -> io::Result<()>);

fn misbehave(way: u8) -> u8 {
    match way {
        0 => panic!("deliberate"),
        1 => std::process::abort(),
        2 => sleep_for_ever(),
        _ => {}
    }
    way
}
procession::task!(misbehave: fn(u8) -> u8);

#[test]
fn task_runs_in_a_new_program_with_its_arguments() {
    let _alone = alone();
    let path = std::env::temp_dir().join(format!("procession-{}", std::process::id()));
    let path = path.to_str().unwrap().to_owned();
    // More than a socket holds.
    let text = "x".repeat(3_000_000);
    let process = task_builder()
        .name("writer")
        .daemon(true)
        .task::<report>((path.clone(), text.clone()));
    process.start().unwrap();
    assert!(process.join().unwrap().success());
    let written = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let (pid, me) = (process.pid().unwrap(), std::process::id());
    assert!(written == format!("{text} writer {pid} {me} true"));
}

#[test]
fn tasks_are_started_from_any_thread_and_their_endings_told_apart() {
    let _alone = alone();
    let run = |way| {
        thread::spawn(move || {
            let process = task_builder().task::<misbehave>((way,));
            process.start().unwrap();
            if way == 2 {
                process.kill().unwrap();
            }
            process.join().unwrap().exit_code_like_python()
        })
    };
    let threads: Vec<_> = [0, 1, 2, 42].into_iter().map(run).collect();
    let codes: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(codes, [101, -6, -9, 42]);
}

#[test]
fn task_dies_with_its_parent() {
    let _alone = alone();
    let (mut out, mut reports) = telegraph();
    let parent = started(forked(), move || {
        let child = task_builder().task::<misbehave>((2,));
        child.start().unwrap();
        writeln!(out, "{}", child.pid().unwrap()).unwrap();
        sleep_for_ever();
    });
    let pidfd = os::pidfd_open(reports.line().parse().unwrap()).unwrap();
    assert!(!os::wait_until_ended(&pidfd, Some(Instant::now() + Duration::from_millis(50))).unwrap());
    parent.send_signal(os::SIGKILL).unwrap();
    parent.join().unwrap();
    assert!(os::wait_until_ended(&pidfd, Some(Instant::now() + PATIENCE / 2)).unwrap());
}

#[test]
fn program_that_does_not_call_init_is_told_so() {
    let _alone = alone();
    let process = task_builder()
        .arguments(["no_test_of_this_name", "--exact", "--quiet"])
        .task::<misbehave>((3,));
    let error = process.start().unwrap_err();
    assert!(error.is_worker_died(), "{error:?}");
    assert_eq!(error.exit_status().unwrap().code(), Some(0));
    assert!(error.to_string().contains("procession::init()"), "{error}");
}

// Stands for a program that does something long before it calls init().
#[test]
fn slow_to_begin() {
    if std::env::var_os("PROCESSION_TASK").is_some() {
        sleep_for_ever();
    }
}

#[test]
fn task_that_does_not_begin_in_time_is_killed() {
    let _alone = alone();
    let builder = task_builder()
        .arguments(["slow_to_begin", "--exact"])
        .start_timeout(Duration::from_millis(200));
    let process = builder.task::<misbehave>((3,));
    let error = process.start().unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!("starting process {} took longer than 200ms", process.name())
    );
    assert_eq!(process.state(), State::Initial);
}

#[test]
fn process_beyond_its_time_is_ended_with_its_whole_tree() {
    let _alone = alone();
    let (mut out, mut reports) = telegraph();
    let stuck = started(forked().timeout(Duration::from_millis(200)), move || {
        // Deaf, and so is its child.
        os::ignore_signal(os::SIGTERM).unwrap();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        writeln!(out, "{}", child.id()).unwrap();
        drop(out);
        child.wait().unwrap();
    });
    assert!(!stuck.timed_out());
    let child = reports.line().parse().unwrap();
    assert_eq!(stuck.join().unwrap().signal(), Some(os::SIGKILL));
    assert!(stuck.timed_out());
    wait_until("the descendant has ended", || has_ended(child));
}

#[test]
fn process_that_stands_still_does_not_escape_its_limit() {
    let _alone = alone();
    let still = started(forked().timeout(Duration::from_millis(100)), || {
        os::kill(std::process::id(), os::SIGSTOP).unwrap();
    });
    assert!(!still.join().unwrap().success());
    assert!(still.timed_out());
}

#[test]
fn process_within_its_time_knows_nothing_of_its_keeper() {
    let _alone = alone();
    let (mut out, mut reports) = telegraph();
    let quick = started(forked().timeout(Duration::from_secs(60)), move || {
        writeln!(out, "{:?}", os::children_of(std::process::id())).unwrap();
        assert!(os::is_no_child(&os::wait_any_child(true).unwrap_err()));
    });
    assert!(quick.join().unwrap().success());
    assert!(!quick.timed_out());
    let keeper = reports.line().trim_matches(['[', ']']).parse().unwrap();
    wait_until("the keeper has ended", || has_ended(keeper));
}

#[test]
fn task_has_a_time_limit_too() {
    let _alone = alone();
    let stuck = task_builder()
        .timeout(Duration::from_millis(100))
        .task::<misbehave>((2,));
    stuck.start().unwrap();
    assert!(!stuck.join().unwrap().success());
    assert!(stuck.timed_out());
}
