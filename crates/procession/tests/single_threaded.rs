//! What can only be shown by programs of their own, with a single thread: `fork`, and what happens at the end of `main`.
//!
//! Run without arguments (or by name) this program runs itself once per scenario, and looks at the output and the exit code.

mod support;

use procession::os::process as os;
use procession::queue::{Queue, QueueError};
use procession::sync::{Condition, Mutex, Semaphore, SharedLock};
use procession::{current, fork, Fork, Process};
use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

struct Scenario {
    name: &'static str,
    program: fn(),
    output: &'static str,
    exit_code: i32,
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "fork_returns_twice",
        program: || {
            print!("once ");
            match fork().unwrap() {
                Fork::Child => {
                    print!("{} ", current().name());
                }
                Fork::Parent(child) => {
                    child.join().unwrap();
                    assert_eq!(Fork::Child.pid(), 0);
                    print!("parent");
                }
            }
        },
        output: "once Process-1 parent",
        exit_code: 0,
    },
    Scenario {
        name: "forked_copy_that_returns_from_main_is_waited_for",
        program: || {
            if let Fork::Child = fork().unwrap() {
                std::thread::sleep(Duration::from_millis(100));
                println!(
                    "child, parent {}",
                    if os::parent_pid() == 1 { "is gone" } else { "waits" }
                );
            }
        },
        output: "child, parent waits\n",
        exit_code: 0,
    },
    Scenario {
        name: "sibling_is_a_child_of_its_makers_parent",
        program: || {
            if !os::can_clone_sibling() {
                print!("[Some(1), Some(2)]");
                return;
            }
            let me = std::process::id();
            // SAFETY: this program has one thread.
            if let os::Forked::Child = unsafe { os::fork() }.unwrap() {
                let generation = os::generation();
                // SAFETY: as above.
                let code = match unsafe { os::clone_sibling() } {
                    Ok(os::Forked::Parent(_)) => 1,
                    Ok(os::Forked::Child)
                        if os::parent_pid() == me
                            && os::thread_number() == std::process::id()
                            && os::generation() != generation =>
                    {
                        2
                    }
                    Ok(os::Forked::Child) => 3,
                    Err(_) => 4,
                };
                os::exit_now(code);
            }
            let mut codes = [0; 2].map(|_| os::wait_any_child(false).unwrap().unwrap().1.code());
            codes.sort();
            print!("{codes:?}");
        },
        output: "[Some(1), Some(2)]",
        exit_code: 0,
    },
    Scenario {
        name: "end_of_main_waits_for_processes_and_terminates_daemons",
        program: || {
            Process::new(|| {
                std::thread::sleep(Duration::from_millis(100));
                print!("waited for");
            })
            .start()
            .unwrap();
            Process::builder()
                .daemon(true)
                .target(support::sleep_for_ever)
                .start()
                .unwrap();
        },
        output: "waited for",
        exit_code: 0,
    },
    Scenario {
        name: "panic_in_main_waits_for_processes_too",
        program: || {
            Process::new(|| {
                std::thread::sleep(Duration::from_millis(100));
                print!("waited for");
            })
            .start()
            .unwrap();
            panic!("deliberate");
        },
        output: "waited for",
        exit_code: 101,
    },
    Scenario {
        name: "nothing_is_printed_twice_and_nothing_is_lost",
        program: || {
            print!("a");
            let process = Process::new(|| print!("b"));
            process.start().unwrap();
            process.join().unwrap();
            print!("c");
        },
        output: "abc",
        exit_code: 0,
    },
    Scenario {
        name: "child_never_goes_on_in_the_code_of_its_parent",
        program: || {
            struct Loud(&'static str);
            impl Drop for Loud {
                fn drop(&mut self) {
                    println!("{} {}", self.0, current().name());
                }
            }
            let _loud = Loud("dropped in");
            let process = Process::new(|| panic!("deliberate"));
            process.start().unwrap();
            assert_eq!(process.join().unwrap().code(), Some(101));
        },
        output: "dropped in MainProcess\n",
        exit_code: 0,
    },
    Scenario {
        name: "joined_thread_does_not_forbid_a_fork",
        program: || {
            for _ in 0..200 {
                std::thread::spawn(|| ()).join().unwrap();
                let process = Process::new(|| ());
                process.start().unwrap();
                process.join().unwrap();
            }
        },
        output: "",
        exit_code: 0,
    },
    Scenario {
        name: "guards_that_a_child_inherits_change_and_release_nothing",
        program: || {
            let mutex = Mutex::new(1).unwrap();
            let lock = SharedLock::new(true, "test").unwrap();
            let semaphore = Semaphore::new(1).unwrap();
            let guard = lock.lock().unwrap();
            let mut value = mutex.lock().unwrap();
            let permit = semaphore.acquire();
            match fork().unwrap() {
                Fork::Child => {
                    *value = 2;
                    drop((guard, value, permit));
                    assert!(mutex.try_lock().is_none() && lock.try_lock().is_err());
                    assert!(semaphore.try_acquire().is_none());
                    print!("child ");
                }
                Fork::Parent(child) => {
                    assert!(child.join().unwrap().success());
                    drop((guard, value, permit));
                    assert!(lock.try_lock().is_ok() && semaphore.try_acquire().is_some());
                    print!("{}", *mutex.lock().unwrap());
                }
            }
        },
        output: "child 1",
        exit_code: 0,
    },
    Scenario {
        name: "guard_that_a_child_inherits_cannot_wait",
        program: || {
            let (mutex, condition) = (Mutex::new(1).unwrap(), Condition::new().unwrap());
            let value = mutex.lock().unwrap();
            match fork().unwrap() {
                Fork::Child => drop(condition.wait(value)),
                Fork::Parent(child) => {
                    assert_eq!(child.join().unwrap().code(), Some(101));
                    drop(value);
                    assert!(!condition.notify_one());
                    print!("{}", *mutex.lock().unwrap());
                }
            }
        },
        output: "1",
        exit_code: 0,
    },
    Scenario {
        name: "queue_that_nobody_else_has_is_a_deadlock_and_one_that_a_thread_has_is_none",
        program: || {
            let queue = Queue::<u32>::new().unwrap();
            let Err(QueueError::Deadlock(deadlock)) = queue.get() else {
                panic!("nobody could have put anything");
            };
            assert!(
                deadlock.to_string().contains("Queue made at single_threaded.rs:"),
                "{deadlock}"
            );
            assert!(
                deadlock.to_string().ends_with(", which no other process has"),
                "{deadlock}"
            );
            let sender = queue.clone();
            let thread = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(1500));
                sender.put(&7).unwrap();
            });
            print!("{} {}", deadlock.members.len(), queue.get().unwrap());
            thread.join().unwrap();
        },
        output: "1 7",
        exit_code: 0,
    },
    Scenario {
        name: "processes_that_wait_for_queues_of_each_other_are_a_deadlock",
        program: || {
            let (one, two) = (Queue::<u32>::new().unwrap(), Queue::<u32>::new().unwrap());
            let (take, give) = (one.clone(), two.clone());
            let process = Process::new(move || match take.get() {
                Err(QueueError::Deadlock(deadlock)) => give.put(&(deadlock.members.len() as u32)).unwrap(),
                item => give.put(&item.unwrap()).unwrap(),
            });
            process.start().unwrap();
            match two.get() {
                Err(QueueError::Deadlock(deadlock)) => {
                    one.put(&(deadlock.members.len() as u32)).unwrap();
                    print!("{} ", two.get().unwrap());
                }
                item => print!("{} ", item.unwrap()),
            }
            print!("{}", process.join().unwrap().success());
        },
        output: "2 true",
        exit_code: 0,
    },
    Scenario {
        name: "joined_process_that_waits_for_room_is_told_of_the_deadlock",
        program: || {
            let queue = Queue::bounded(1).unwrap();
            queue.put(&1).unwrap();
            let sender = queue.clone();
            let process = Process::new(move || match sender.put(&2) {
                Err(QueueError::Deadlock(deadlock)) => print!("{} ", deadlock.members.len()),
                put => panic!("{put:?}"),
            });
            process.start().unwrap();
            print!("{}", process.join().unwrap().success());
            assert_eq!(queue.get().unwrap(), 1);
        },
        output: "2 true",
        exit_code: 0,
    },
    Scenario {
        name: "queue_that_one_has_who_sleeps_is_no_deadlock",
        program: || {
            let queue = Queue::<u32>::new().unwrap();
            let sender = queue.clone();
            let process = Process::new(move || {
                // Whoever sleeps may put something afterwards.
                std::thread::sleep(Duration::from_millis(1500));
                sender.put(&8).unwrap();
            });
            process.start().unwrap();
            print!("{}", queue.get().unwrap());
            process.join().unwrap();
        },
        output: "8",
        exit_code: 0,
    },
    Scenario {
        name: "task_needs_init",
        program: || {
            assert!(Process::task::<greet>((1,))
                .start()
                .unwrap_err()
                .to_string()
                .contains("procession::init()"));
        },
        output: "",
        exit_code: 0,
    },
    Scenario {
        name: "task_begins_in_init_and_sees_the_same_arguments",
        program: || {
            procession::init();
            let process = Process::task::<greet>((1,));
            process.start().unwrap();
            assert_eq!(process.join().unwrap().code(), Some(2));
        },
        output:
            "hello from Process-1, a task_begins_in_init_and_sees_the_same_arguments in single_threaded\n",
        exit_code: 0,
    },
];

fn greet(code: i32) -> i32 {
    let command = std::fs::read_to_string("/proc/self/comm").unwrap();
    let argument = std::env::args().nth(2).unwrap();
    println!(
        "hello from {}, a {argument} in {}",
        current().name(),
        command.trim()
    );
    code + 1
}
procession::task!(greet: fn(i32) -> i32);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == "--scenario") {
        let scenario = SCENARIOS
            .iter()
            .find(|scenario| scenario.name == arguments[1])
            .unwrap();
        (scenario.program)();
        return ExitCode::SUCCESS;
    }
    let flag = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let filters: Vec<_> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let chosen = |name: &str| {
        let fits = |filter: &&String| {
            if flag("--exact") {
                name == **filter
            } else {
                name.contains(filter.as_str())
            }
        };
        // As the usual harness: none of the tests is marked as ignored.
        !flag("--ignored") && (filters.is_empty() || filters.iter().any(fits))
    };
    if flag("--list") {
        SCENARIOS
            .iter()
            .filter(|scenario| chosen(scenario.name))
            .for_each(|scenario| println!("{}: test", scenario.name));
        return ExitCode::SUCCESS;
    }
    let mut failures = 0;
    for scenario in SCENARIOS.iter().filter(|scenario| chosen(scenario.name)) {
        match show(scenario) {
            Ok(()) => println!("test {} ... ok", scenario.name),
            Err(problem) => {
                println!("test {} ... FAILED: {problem}", scenario.name);
                failures += 1;
            }
        }
    }
    ExitCode::from(u8::from(failures > 0))
}

fn show(scenario: &Scenario) -> Result<(), String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--scenario", scenario.name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let pidfd = os::pidfd_open(child.id()).unwrap();
    if !os::wait_until_ended(&pidfd, Some(Instant::now() + support::PATIENCE)).unwrap() {
        os::pidfd_send_signal(&pidfd, os::SIGKILL).unwrap();
    }
    // Whatever was left behind would keep the pipes open.
    let result = child.wait_with_output().unwrap();
    let (output, code) = (String::from_utf8_lossy(&result.stdout), result.status.code());
    if output == scenario.output && code == Some(scenario.exit_code) {
        return Ok(());
    }
    let _ = std::io::stderr().write_all(&result.stderr);
    Err(format!(
        "printed {output:?} and ended with {code:?}, expected {:?} and {}",
        scenario.output, scenario.exit_code
    ))
}
