//! URLs against the server on loopback.

use super::{count_of, quick, servers};
use procession_load::plan::{Arrivals, HttpRequest, HttpTarget, Pacing, Plan, RateStage, Target};
use procession_load::result::{ErrorKind, RunResult, RunState};
use procession_load::server::{LoopbackServer, Served, ServerOptions, Spoil};
use procession_load::{Random, Run};
use std::time::Duration;

fn plan(server: &LoopbackServer, pacing: Pacing, processes: u32) -> Plan {
    let mut plan = Plan::new(Target::Http(HttpTarget::get(server.url()).unwrap()), pacing);
    plan.processes = processes;
    plan.timeout = Duration::from_secs(5);
    plan
}

fn run(plan: Plan) -> RunResult {
    let result = Run::start(plan).unwrap().finish().unwrap();
    assert_eq!(result.state, RunState::Finished);
    result
}

pub fn requests_are_counted_on_both_sides_alike() {
    let server = LoopbackServer::start(ServerOptions::default()).unwrap();
    for (pacing, processes) in [
        (Pacing::users(1), 1),
        (Pacing::users(64), 2),
        (Pacing::constant_rate(10_000.0), 2),
    ] {
        let before = server.served(Served::Good);
        let mut plan = plan(&server, pacing, processes);
        plan.duration = None;
        plan.iterations = Some(5_001);
        let result = run(plan);
        assert_eq!(result.totals.requests, 5_001);
        assert_eq!(result.totals.errors, 0, "{:?}", result.errors);
        assert_eq!(server.served(Served::Good) - before, 5_001);
        assert_eq!(result.statuses.len(), 1);
        assert_eq!(
            (result.statuses[0].status, result.statuses[0].count),
            (200, 5_001)
        );
        assert_eq!(
            result.seconds.iter().map(|second| second.requests).sum::<u64>(),
            5_001
        );
        assert!(result.totals.connections <= 1000);
    }
}

pub fn connections_are_new_for_each_request_if_asked_for() {
    let server = LoopbackServer::start(ServerOptions::default()).unwrap();
    let mut plan = plan(&server, Pacing::users(8), 1);
    plan.duration = None;
    plan.iterations = Some(500);
    if let Target::Http(target) = &mut plan.target {
        target.keep_alive = false;
    }
    let result = run(plan);
    assert_eq!(
        (result.totals.requests, result.totals.errors),
        (500, 0),
        "{:?}",
        result.errors
    );
    assert_eq!(result.totals.connections, 500);
    assert_eq!(result.phases.connect.count, 500);
}

pub fn a_server_that_closes_after_each_answer_is_no_error() {
    let options = ServerOptions {
        close: true,
        body_bytes: Some(300_000),
        ..ServerOptions::default()
    };
    let server = LoopbackServer::start(options).unwrap();
    let mut plan = plan(&server, Pacing::users(4), 1);
    plan.duration = None;
    plan.iterations = Some(100);
    let result = run(plan);
    assert_eq!(
        (result.totals.requests, result.totals.errors),
        (100, 0),
        "{:?}",
        result.errors
    );
    assert!(result.totals.bytes_received > 100 * 300_000);
}

pub fn a_connection_that_was_closed_while_it_was_idle_is_not_used() {
    let server = servers::closes_when_idle(Duration::from_micros(50));
    // Between two requests there is time to close, and none that the generator would sleep through otherwise.
    let pacing = Pacing::constant_rate(4_000.0);
    let target = HttpTarget::get(format!("http://{}/", server.address)).unwrap();
    let mut plan = Plan::new(Target::Http(target), pacing);
    plan.processes = 1;
    plan.duration = Some(Duration::from_secs(1));
    let result = run(plan);
    let closed = result.totals.connections;
    assert!(closed > 100, "{closed}");
    // A few may cross on the way.
    assert!(
        count_of(&result, ErrorKind::Reset) * 4 < closed,
        "{closed} connections, {:?}",
        result.errors
    );
}

pub fn every_kind_of_failure_is_counted_exactly() {
    let options = ServerOptions {
        spoil: Spoil {
            status_500: 5,
            reset: 4,
            never: 3,
            half: 2,
            malformed: 1,
        },
        ..ServerOptions::default()
    };
    let server = LoopbackServer::start(options).unwrap();
    for pacing in [Pacing::users(40), Pacing::constant_rate(2_000.0)] {
        let before: Vec<u64> = super::FATES.iter().map(|&fate| server.served(fate)).collect();
        let mut plan = plan(&server, pacing, 2);
        plan.duration = None;
        plan.iterations = Some(1_000);
        plan.timeout = Duration::from_millis(300);
        plan.drain = Duration::from_secs(5);
        let result = run(plan);
        let served: Vec<u64> = super::FATES
            .iter()
            .zip(before)
            .map(|(&fate, before)| server.served(fate) - before)
            .collect();
        let counted = [
            result.totals.requests - result.totals.errors,
            count_of(&result, ErrorKind::Status5xx),
            count_of(&result, ErrorKind::Reset),
            count_of(&result, ErrorKind::Timeout),
            count_of(&result, ErrorKind::Protocol),
        ];
        assert_eq!(result.totals.requests, 1_000);
        // A half response ends as a connection does that is broken off.
        assert_eq!(
            counted,
            [served[0], served[1], served[2] + served[4], served[3], served[5]]
        );
        assert_eq!(served.iter().sum::<u64>(), 1_000);
        assert_eq!(result.totals.errors, 150);
        // Timeouts are in the percentiles, at least at their limit.
        assert!(result.latency.response.p99 >= 0.3 && result.latency.response.p999 >= 0.3);
        assert!(result.errors.iter().all(|error| !error.example.is_empty()));
        let example = "no complete response within 0.3 s";
        assert!(
            result.errors.iter().any(|error| error.example == example),
            "{:?}",
            result.errors
        );
    }
}

pub fn a_refused_connection_is_told_from_other_failures() {
    let address = LoopbackServer::start(ServerOptions::default()).unwrap().address();
    let mut plan = Plan::new(
        Target::Http(HttpTarget::get(format!("http://{address}/")).unwrap()),
        Pacing::constant_rate(100.0),
    );
    plan.duration = Some(Duration::from_millis(300));
    let result = run(plan);
    assert_eq!(result.totals.requests, 30);
    assert_eq!(count_of(&result, ErrorKind::Refused), 30);
    // It says nothing of how long answers take.
    assert_eq!(result.latency.response.count, 0);
}

pub fn unfinished_requests_are_counted_as_censored() {
    let options = ServerOptions {
        spoil: Spoil {
            never: 10,
            ..Spoil::default()
        },
        ..ServerOptions::default()
    };
    let server = LoopbackServer::start(options).unwrap();
    let mut plan = plan(&server, Pacing::constant_rate(200.0), 2);
    plan.duration = Some(Duration::from_secs(1));
    plan.timeout = Duration::from_secs(60);
    plan.drain = Duration::from_millis(200);
    let result = run(plan);
    assert_eq!((result.totals.requests, result.totals.unfinished), (180, 20));
    assert_eq!(result.latency.response.count, 200);
    assert!(result.latency.response.is_censored(0.99) && !result.latency.response.is_censored(0.5));
    assert!(result.latency.response.p99 > 0.9);
}

pub fn requests_are_chosen_by_their_weights() {
    let server = LoopbackServer::start(ServerOptions::default()).unwrap();
    let mut requests = Vec::new();
    for (path, weight) in [("often", 9.0), ("rarely", 1.0)] {
        let mut request = HttpRequest::new("GET", format!("{}{path}", server.url())).unwrap();
        request.weight = weight;
        requests.push(request);
    }
    let mut plan = Plan::new(Target::Http(HttpTarget::new(requests)), Pacing::users(8));
    plan.duration = None;
    plan.iterations = Some(10_000);
    let result = run(plan);
    let counts: Vec<u64> = result.steps.iter().map(|step| step.count).collect();
    assert_eq!(result.steps[0].name, "GET /often");
    assert_eq!(counts.iter().sum::<u64>(), 10_000);
    assert!((8_700..9_300).contains(&counts[0]), "{counts:?}");
}

/// When the rate's curve has reached this number of arrivals, in seconds; never, if it ends before.
fn reached(pacing: &Pacing, arrivals: f64) -> f64 {
    let (start, stages) = match pacing {
        Pacing::Rate { per_second, .. } => return arrivals / per_second,
        Pacing::RateStages { start, stages, .. } => (start, stages),
        _ => unreachable!("users have no rate"),
    };
    let (mut left, mut rate, mut passed) = (arrivals, *start, 0.0);
    for stage in stages {
        let seconds = stage.duration.as_secs_f64();
        let all = (rate + stage.per_second) / 2.0 * seconds;
        if left < all {
            // Of a trapezium that rises, or falls, by `slope` a second.
            let slope = (stage.per_second - rate) / seconds;
            return passed + ((rate * rate + 2.0 * slope * left).sqrt() - rate) / slope;
        }
        (left, rate, passed) = (left - all, stage.per_second, passed + seconds);
    }
    f64::INFINITY
}

/// When requests are due, in seconds, over all workers: computed here once more, from what the documentation says.
fn arrivals(pacing: &Pacing, duration: f64, workers: u64) -> Vec<f64> {
    let mut all = Vec::new();
    for worker in 0..workers {
        let mut position = 0.0;
        for taken in 0.. {
            if pacing.is_random() {
                position += Random::new(0, worker << 40 | taken).exponential() * workers as f64;
            } else {
                position = (worker + taken * workers) as f64;
            }
            let due = reached(pacing, position);
            if due >= duration {
                break;
            }
            all.push(due);
        }
    }
    all.sort_unstable_by(f64::total_cmp);
    all
}

/// The server stands still in the middle: what the schedule says must be what is reported, whatever shares it.
pub fn a_stall_is_seen_whole() {
    let (after, hold, duration) = if quick() {
        (1.2, 0.4, 3.0)
    } else {
        (14.0, 2.0, 24.0)
    };
    let stage = |per_second: f64| RateStage {
        duration: Duration::from_secs_f64(duration / 2.0),
        per_second,
    };
    let stages = |arrivals: Arrivals| Pacing::RateStages {
        start: 40.0,
        stages: vec![stage(160.0), stage(40.0)],
        arrivals,
        most_in_flight: Pacing::DEFAULT_MOST_IN_FLIGHT,
    };
    let mut pacings = vec![Pacing::constant_rate(100.0)];
    if !quick() {
        pacings.extend([
            Pacing::poisson(200.0),
            stages(Arrivals::Constant),
            stages(Arrivals::Poisson),
        ]);
    }
    for processes in if quick() { vec![2] } else { vec![1, 2, 4] } {
        for pacing in &pacings {
            let server = LoopbackServer::start(ServerOptions {
                stall: Some((Duration::from_secs_f64(after), Duration::from_secs_f64(hold))),
                ..ServerOptions::default()
            })
            .unwrap();
            let mut plan = plan(&server, pacing.clone(), processes);
            plan.duration = Some(Duration::from_secs_f64(duration));
            let result = run(plan);

            let due = arrivals(pacing, duration, processes.into());
            assert_eq!(
                result.totals.requests,
                due.len() as u64,
                "{processes} processes, {pacing:?}"
            );
            let end = due[0] + after + hold;
            let mut times: Vec<f64> = due
                .iter()
                .map(|&due| {
                    if due > end - hold && due < end {
                        end - due
                    } else {
                        0.0
                    }
                })
                .collect();
            times.sort_unstable_by(f64::total_cmp);
            let truth = |share: f64| times[(share * times.len() as f64).ceil() as usize - 1];
            let latency = &result.latency.response;
            for (share, got) in [(0.95, latency.p95), (0.99, latency.p99)] {
                let truth = truth(share);
                assert!(
                    (got - truth).abs() <= 0.05 * truth.max(hold / 2.0),
                    "{processes} processes, {pacing:?}: p{share} is {got}, not {truth}"
                );
            }
            assert!(latency.max <= hold * 1.2 + 0.1);
            assert_eq!(result.totals.errors, 0);
        }
    }
}
