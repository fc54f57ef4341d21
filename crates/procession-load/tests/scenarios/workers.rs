//! Life and death of workers, shown with a workload that only keeps time.

use super::servers;
use procession_load::plan::{HttpTarget, Pacing, Payload, Plan, Target, TcpTarget, Until};
use procession_load::result::{ErrorKind, Outcome, RunResult, RunState, StepKind};
use procession_load::users::{Scenario, User};
use procession_load::{now_ns, ForkHooks, Phase, Run, Sample, Worker, Workload};
use std::sync::Arc;
use std::time::Duration;

/// Every request takes a millisecond, and every tenth one fails.
struct Sleeper;

impl Workload for Sleeper {
    fn run(&self, worker: &mut Worker) -> Result<(), String> {
        let step = worker.recorder().step(StepKind::Request, "sleep");
        worker.wait_for_start();
        let mut count = 0u64;
        loop {
            let now = now_ns();
            if worker.phase(now) != Phase::Running || !worker.may_begin(now) {
                worker.give_up_arrivals(step, now);
                return Ok(());
            }
            let due_ns = match worker.next_due_ns() {
                Some(due) if due > now => {
                    std::thread::sleep(Duration::from_nanos((due - now).min(20_000_000)));
                    continue;
                }
                Some(_) => {
                    let due = worker.take_arrival(now).unwrap();
                    // It is fast enough for what is asked of it, so that whatever is late is its own fault.
                    worker.recorder().delay(now.saturating_sub(due));
                    due
                }
                None if worker.take_iteration(now) => now,
                None => return Ok(()),
            };
            worker.recorder().sent(now, 5);
            std::thread::sleep(Duration::from_millis(1));
            let ended = now_ns();
            let sample = Sample {
                intended_ns: due_ns,
                sent_ns: now,
                written_ns: now,
                first_byte_ns: ended,
                ended_ns: ended,
                bytes_received: 7,
                status: 0,
            };
            count += 1;
            if count.is_multiple_of(10) {
                worker
                    .recorder()
                    .failed(step, &sample, ErrorKind::Assertion, "every tenth");
            } else {
                worker.recorder().succeeded(step, &sample);
            }
        }
    }
}

struct GivesUp;

impl Workload for GivesUp {
    fn run(&self, _: &mut Worker) -> Result<(), String> {
        Err("there is no such table".to_owned())
    }
}

fn plan(pacing: Pacing, processes: u32) -> Plan {
    let name = "sleeper".to_owned();
    let mut plan = Plan::new(Target::Custom { name }, pacing);
    plan.processes = processes;
    plan
}

pub fn every_iteration_is_counted_once() {
    let mut plan = plan(Pacing::users(3), 3);
    plan.duration = None;
    plan.iterations = Some(301);
    let result = Run::start_workload(plan, Arc::new(Sleeper), ForkHooks::default())
        .unwrap()
        .finish()
        .unwrap();
    assert_eq!(result.state, RunState::Finished);
    assert_eq!(result.totals.requests, 301);
    assert_eq!(result.totals.errors, 30);
    assert_eq!(
        (result.totals.bytes_sent, result.totals.bytes_received),
        (5 * 301, 7 * 301)
    );
    assert_eq!(result.errors[0].kind, ErrorKind::Assertion);
    assert_eq!(
        (result.errors[0].count, result.errors[0].example.as_str()),
        (30, "every tenth")
    );
    assert_eq!(result.latency.response.count, 301);
    assert!(result.latency.response.min >= 0.001);
    assert_eq!(result.steps.len(), 1);
    assert_eq!(
        result.seconds.iter().map(|second| second.requests).sum::<u64>(),
        301
    );
    assert_eq!(
        result.workers.iter().map(|worker| worker.requests).sum::<u64>(),
        301
    );
    assert!((result.totals.mean_in_flight - result.totals.little_in_flight).abs() < 0.01);
}

pub fn killed_worker_is_replaced_and_its_counts_are_kept() {
    let mut plan = plan(Pacing::constant_rate(200.0), 2);
    plan.duration = Some(Duration::from_secs(2));
    let mut run = Run::start_workload(plan, Arc::new(Sleeper), ForkHooks::default()).unwrap();
    run.wait(Duration::from_millis(700)).unwrap();
    let before = run.snapshot().unwrap();
    assert!(before.totals.requests > 0);
    let victim = run.worker_pids()[1];
    procession::os::process::kill(victim, procession::os::process::SIGKILL).unwrap();
    let result = run.finish().unwrap();
    // One request may have been in flight in the worker that was killed; every other one was made, by it or its successor.
    let (ended, lost) = (
        result.totals.requests + result.totals.unsent,
        result.totals.unfinished,
    );
    assert!((399..=400).contains(&ended), "{ended}");
    assert!(ended + lost >= 400 && lost <= 1, "{ended} + {lost}");
    assert_eq!(result.workers[1].restarts, 1);
    assert_ne!(result.workers[1].pid, victim);
    assert!(result.workers[1].last_death.as_ref().unwrap().contains("SIGKILL"));
    assert_eq!(result.verdict.outcome, Outcome::Invalid);
    let reasons: Vec<&str> = result
        .verdict
        .reasons
        .iter()
        .map(|reason| reason.what.as_str())
        .collect();
    assert!(reasons.contains(&"worker processes died"), "{reasons:?}");
}

pub fn workload_that_gives_up_ends_the_run() {
    let error =
        Run::start_workload(plan(Pacing::users(1), 1), Arc::new(GivesUp), ForkHooks::default()).unwrap_err();
    assert_eq!(error.to_string(), "there is no such table");
}

pub fn stopped_run_still_reports() {
    let mut run =
        Run::start_workload(plan(Pacing::users(2), 2), Arc::new(Sleeper), ForkHooks::default()).unwrap();
    assert!(!run.wait(Duration::from_millis(300)).unwrap());
    run.stop();
    let result = run.finish().unwrap();
    assert_eq!(result.state, RunState::Stopped);
    assert!(result.totals.requests > 10);
    assert!(result.info.elapsed_seconds < 5.0);
}

pub fn held_up_generator_is_not_believed() {
    let mut plan = plan(Pacing::constant_rate(200.0), 1);
    plan.duration = Some(Duration::from_secs(2));
    let mut run = Run::start_workload(plan, Arc::new(Sleeper), ForkHooks::default()).unwrap();
    run.wait(Duration::from_millis(300)).unwrap();
    // As if it had no CPU for a while.
    let worker = run.worker_pids()[0];
    procession::os::process::kill(worker, procession::os::process::SIGSTOP).unwrap();
    std::thread::sleep(Duration::from_millis(400));
    procession::os::process::kill(worker, procession::os::process::SIGCONT).unwrap();
    let result = run.finish().unwrap();
    // What was due in the meantime was made up for, and its waiting is in the response times.
    assert_eq!(result.totals.requests, 400);
    assert!(result.latency.response.p95 > 0.1);
    assert!(result.latency.service.p95 < 0.1);
    assert!(result.generator_delay.unwrap().p99 > 0.1);
    assert_eq!(result.verdict.outcome, Outcome::Invalid);
    let reason = &result.verdict.reasons[0];
    assert!(reason.what.contains("sent late"), "{reason:?}");
    assert!(!reason.cure.is_empty());
}

/// What a response waits for that reads it late is not the response's time: the kernel knows when it came.
pub fn what_ends_after_the_load_is_no_throughput() {
    let server = servers::tcp(|stream| servers::answer_http1(stream, Duration::from_millis(600)));
    let target = HttpTarget::get(format!("http://{}/", server.address)).unwrap();
    let mut plan = Plan::new(Target::Http(target), Pacing::users(4));
    plan.duration = Some(Duration::from_secs(1));
    plan.slos = vec!["rate>5/s".parse().unwrap(), "rate>5/s for GET /".parse().unwrap()];
    let result = Run::start(plan).unwrap().finish().unwrap();
    // Each user has an answer before the end, and a second one after it.
    assert!(result.totals.requests > 4, "{:?}", result.totals);
    assert!(result.totals.successes_per_second <= 4.0, "{:?}", result.totals);
    for slo in result.slos {
        assert!(!slo.kept, "{slo:?}");
    }
}

pub fn a_rate_lasts_for_all_of_its_time() {
    let server = servers::tcp(|stream| servers::answer_http1(stream, Duration::ZERO));
    let url = format!("http://{}/", server.address);
    // Two requests, the last one long before the end.
    let pacing = Pacing::constant_rate(2.0);
    let duration = Duration::from_millis(900);
    let mut plan = Plan::new(
        Target::Http(HttpTarget::get(url.clone()).unwrap()),
        pacing.clone(),
    );
    plan.duration = Some(duration);
    let of_url = Run::start(plan).unwrap().finish().unwrap();
    let of_user = Scenario::new("visit", |user: User| async move { user.get("/").await.map(drop) })
        .base_url(&url)
        .pacing(pacing)
        .duration(duration)
        .run()
        .unwrap();
    for result in [of_url, of_user] {
        assert_eq!((result.totals.requests, result.totals.errors), (2, 0));
        assert!(result.info.elapsed_seconds >= 0.9, "{:?}", result.info);
        assert!(
            (result.info.measured_seconds - 0.9).abs() < 1e-6,
            "{:?}",
            result.info
        );
    }
}

pub fn held_up_reader_makes_no_response_slow() {
    let answer_time = Duration::from_millis(300);
    let server = servers::tcp(move |stream| servers::answer_http1(stream, answer_time));
    let url = format!("http://{}/", server.address);
    let exchange = TcpTarget {
        address: server.address.to_string(),
        send: Payload(b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        until: Until::Delimiter(Payload(b"ok".to_vec())),
        keep_alive: true,
    };
    let pacing = Pacing::constant_rate(20.0);
    let planned = |target: Target| {
        let mut plan = Plan::new(target, pacing.clone());
        plan.processes = 1;
        plan.duration = Some(Duration::from_secs(3));
        Run::start(plan).unwrap().finish().unwrap()
    };
    let by_hand = || {
        Scenario::new("visit", |user: User| async move { user.get("/").await.map(drop) })
            .base_url(&url)
            .pacing(pacing.clone())
            .duration(Duration::from_secs(3))
            .plan(|plan| plan.processes = 1)
            .run()
            .unwrap()
    };
    let runs: [(&str, &dyn Fn() -> RunResult); 3] = [
        ("HTTP", &|| {
            planned(Target::Http(HttpTarget::get(url.clone()).unwrap()))
        }),
        ("TCP", &|| planned(Target::Tcp(exchange.clone()))),
        ("a user", &by_hand),
    ];
    for (name, run) in runs {
        let (tester, others) = (
            std::process::id(),
            procession::os::process::children_of(std::process::id()),
        );
        let hold_up = procession::Process::new(move || {
            std::thread::sleep(Duration::from_secs(1));
            let is_worker = |pid: &u32| *pid != std::process::id() && !others.contains(pid);
            let worker = procession::os::process::children_of(tester)
                .into_iter()
                .find(is_worker)
                .unwrap();
            procession::os::process::kill(worker, procession::os::process::SIGSTOP).unwrap();
            std::thread::sleep(Duration::from_millis(1_500));
            procession::os::process::kill(worker, procession::os::process::SIGCONT).unwrap();
        });
        hold_up.start().unwrap();
        let result = run();
        hold_up.join().unwrap();
        assert_eq!(
            (result.totals.requests, result.totals.errors),
            (60, 0),
            "{name}: {:?}",
            result.errors
        );
        assert_eq!(
            result.seconds.iter().map(|second| second.requests).sum::<u64>(),
            60,
            "{name}"
        );
        // Some were in flight when it began, and came while nobody was there to read them.
        assert!(
            result.latency.service.max < 1.0,
            "{name}: {}",
            result.latency.service.max
        );
        // What was due meanwhile was late, and that is not hidden.
        assert!(
            result.latency.response.max > 1.0,
            "{name}: {}",
            result.latency.response.max
        );
    }
}

pub fn killed_controller_leaves_no_worker_behind() {
    let (read, write) = std::io::pipe().unwrap();
    let controller = procession::Process::new(move || {
        let mut write = write;
        let run =
            Run::start_workload(plan(Pacing::users(2), 2), Arc::new(Sleeper), ForkHooks::default()).unwrap();
        let pids: Vec<String> = run.worker_pids().iter().map(u32::to_string).collect();
        std::io::Write::write_all(&mut write, format!("{}\n", pids.join(" ")).as_bytes()).unwrap();
        run.finish().unwrap();
    });
    controller.start().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(read), &mut line).unwrap();
    let workers: Vec<u32> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(workers.len(), 2);
    let alive = |pid: &u32| procession::os::process::process_state(*pid).is_some_and(|state| state != 'Z');
    assert!(workers.iter().all(alive));
    procession::os::process::kill(controller.pid().unwrap(), procession::os::process::SIGKILL).unwrap();
    controller.join().unwrap();
    let patience = std::time::Instant::now() + Duration::from_secs(10);
    while workers.iter().any(alive) && std::time::Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!workers.iter().any(alive), "workers outlived their controller");
}
