//! Results for the tests of views: made of arithmetic, so that they are the same everywhere.

use std::time::Duration;

use crate::histogram::Histogram;
use crate::plan::{HttpTarget, Pacing, Plan, Target};
use crate::result::{
    Check, Environment, ErrorCount, ErrorKind, Latency, LatencySummary, Outcome, Phases, Reason, RunInfo,
    RunResult, RunState, Second, SloResult, StatusCount, StepKind, StepResult, TcpResult, Totals, Verdict,
    WorkerResult, SCHEMA_VERSION,
};

/// Times around `median_us` with a tail, the same ones each time.
fn times(count: u64, median_us: u64, seed: u64) -> Histogram {
    let mut histogram = Histogram::default();
    for n in 0..count {
        let chance = (n * 7919 + seed * 104_729) % 1000;
        let tail = if chance > 985 { 1 + (chance - 985) * 2 } else { 1 };
        let us = (median_us / 2 + median_us * chance / 1000) * tail;
        histogram.record(us * 1000);
    }
    histogram
}

fn summary(count: u64, median_us: u64) -> LatencySummary {
    LatencySummary::new(&times(count, median_us, 1), &Histogram::default())
}

fn latency(
    response: Histogram,
    censored: Histogram,
    service: LatencySummary,
    lag: Option<LatencySummary>,
) -> Latency {
    Latency {
        response: LatencySummary::new(&response, &censored),
        service,
        lag,
        response_histogram: response,
        censored_histogram: censored,
    }
}

fn step(name: &str, count: u64, errors: u64, median_us: u64) -> StepResult {
    StepResult {
        name: name.to_owned(),
        kind: StepKind::Request,
        count,
        errors,
        per_second: count as f64 / 10.0,
        successes_per_second: (count - errors) as f64 / 10.0,
        latency: latency(
            times(count, median_us, 2),
            Histogram::default(),
            summary(count, median_us),
            None,
        ),
        first_byte: summary(count, median_us * 9 / 10),
    }
}

fn worker(number: u32, pid: u32, requests: u64) -> WorkerResult {
    WorkerResult {
        number,
        pid,
        alive: true,
        requests,
        errors: 0,
        in_flight: 1,
        cpu_share: 0.21,
        cpu_wait_share: 0.004,
        restarts: 0,
        last_death: None,
        lost_in_flight: 0,
    }
}

/// A run at a constant rate that went well, with one second of trouble in its middle.
pub fn good() -> RunResult {
    let target = Target::Http(HttpTarget::get("http://127.0.0.1:8080/cart").unwrap());
    let mut plan = Plan::new(target, Pacing::constant_rate(1000.0));
    plan.processes = 2;
    plan.duration = Some(Duration::from_secs(10));
    let seconds: Vec<Second> = (0..10u32)
        .map(|start| Second {
            start,
            span: 1,
            requests: 1000,
            errors: if start == 5 { 12 } else { 0 },
            bytes_received: 250_000,
            in_flight: if start == 5 { 40 } else { 2 },
            users: if start < 5 { 8 } else { 40 },
            target_per_second: Some(1000.0),
            response: times(
                1000,
                if start == 5 {
                    40_000
                } else {
                    1_800 + 40 * u64::from(start)
                },
                u64::from(start),
            ),
        })
        .collect();
    let mut response = Histogram::default();
    seconds.iter().for_each(|second| response.merge(&second.response));
    RunResult {
        schema_version: SCHEMA_VERSION,
        state: RunState::Finished,
        info: RunInfo {
            version: "0.1.0".to_owned(),
            started_at: 1_795_656_297.0,
            elapsed_seconds: 10.004,
            measured_seconds: 10.0,
            plan,
            environment: Environment {
                host: "bench-1".to_owned(),
                kernel: "Linux 6.12.0".to_owned(),
                cpu: "A processor <of 2 cores>".to_owned(),
                cores: 2,
                most_descriptors: 1024,
                port_range: Some((32_768, 60_999)),
            },
        },
        verdict: Verdict {
            outcome: Outcome::Pass,
            reasons: Vec::new(),
            checks: vec![
                Check {
                    what: "requests were sent late (p99 of the generator's own delay)".to_owned(),
                    figure: "0.043 ms".to_owned(),
                    limit: "at most 1.000 ms".to_owned(),
                    sound: true,
                },
                Check {
                    what: "a worker used its core up".to_owned(),
                    figure: "21.0 %".to_owned(),
                    limit: "at most 85.0 %".to_owned(),
                    sound: true,
                },
            ],
        },
        totals: Totals {
            requests: 10_000,
            errors: 12,
            unfinished: 0,
            unsent: 0,
            requests_per_second: 1000.0,
            successes_per_second: 998.8,
            target_per_second: Some(1000.0),
            error_share: 0.0012,
            bytes_sent: 620_000,
            bytes_received: 2_500_000,
            connections: 40,
            mean_in_flight: 5.9,
            little_in_flight: 5.91,
            iterations: 0,
            failed_iterations: 0,
            warmup_requests: 0,
        },
        latency: latency(
            response,
            Histogram::default(),
            summary(10_000, 1_900),
            Some(summary(10_000, 20)),
        ),
        generator_delay: Some(summary(10_000, 12)),
        idle_cores: Some(0.9),
        core_wait: summary(10_000, 3),
        phases: Phases {
            dns: LatencySummary::default(),
            connect: summary(40, 90),
            tls: LatencySummary::default(),
            first_byte: summary(10_000, 1_800),
            body: summary(10_000, 30),
        },
        steps: vec![step("GET /cart", 10_000, 12, 2_000)],
        seconds,
        errors: vec![ErrorCount {
            kind: ErrorKind::Status5xx,
            count: 12,
            example: "503 Service Unavailable: \"try <again>\" & later".to_owned(),
        }],
        statuses: vec![
            StatusCount {
                status: 200,
                count: 9_988,
            },
            StatusCount {
                status: 503,
                count: 12,
            },
        ],
        workers: vec![worker(0, 4001, 5_000), worker(1, 4002, 5_000)],
        tcp: Some(TcpResult {
            samples: 120,
            retransmits: 0,
            connect_retransmits: 0,
            round_trip: summary(120, 40),
        }),
        udp: None,
        slos: vec![
            SloResult {
                slo: "p99<500ms".to_owned(),
                kept: true,
                figure: "86.5 ms".to_owned(),
            },
            SloResult {
                slo: "errors<1%".to_owned(),
                kept: true,
                figure: "0.12 %".to_owned(),
            },
        ],
    }
}

/// A run that went wrong in every way there is, with as much to say as a run can have.
pub fn bad() -> RunResult {
    let mut result = good();
    result.state = RunState::Stopped;
    result.info.plan.warmup = Duration::from_secs(1);
    result.verdict.outcome = Outcome::Invalid;
    result.verdict.reasons = [
        ("requests were sent late (p99 of the generator's own delay)", "12.406 ms", "at most 1.000 ms"),
        ("a worker used its core up", "99.1 %", "at most 85.0 %"),
        ("the rate was not reached", "71.2 %", "at least 99.0 %"),
        ("worker processes died", "1 times", "never"),
    ]
    .map(|(what, figure, limit)| Reason {
        what: what.to_owned(),
        figure: figure.to_owned(),
        limit: limit.to_owned(),
        cure: "use more processes than 2, or ask for less, which is a cure of more words than one line has room for"
            .to_owned(),
    })
    .into();
    let mut censored = Histogram::default();
    (0..300).for_each(|n| censored.record(2_000_000_000 + n * 1_000_000));
    result.latency.response = LatencySummary::new(&result.latency.response_histogram, &censored);
    result.latency.censored_histogram = censored;
    result.totals.unfinished = 300;
    result.totals.unsent = 2_880;
    result.totals.errors = 1_210;
    result.totals.error_share = 0.121;
    result.totals.successes_per_second = 879.0;
    result.totals.warmup_requests = 700;
    result.errors = ErrorKind::ALL
        .iter()
        .enumerate()
        .map(|(number, &kind)| ErrorCount {
            kind,
            count: 600 / (number as u64 + 1),
            example: format!("the first of its kind, number {number}, told at a length that no terminal has room for in one line"),
        })
        .collect();
    result.steps = (0..20)
        .map(|n| {
            step(
                &format!("GET /a/path/that/is/rather/long/{n}"),
                500,
                n,
                1000 * (n + 1),
            )
        })
        .collect();
    result.slos.push(SloResult {
        slo: "p99<2s for GET /a/path/that/is/rather/long/and/goes/on/for/longer/than/a/line/has/room"
            .to_owned(),
        kept: false,
        figure: "≥2.30 s".to_owned(),
    });
    result.workers[1].restarts = 1;
    result.workers[1].last_death = Some("was killed by SIGKILL".to_owned());
    result.workers[1].lost_in_flight = 3;
    result
}

/// Compares with a file of `tests/golden`. After a wanted change `UPDATE_GOLDEN=1 cargo test -p procession-load` writes
/// them anew, and the diff is for review.
pub fn golden(name: &str, actual: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, actual).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        actual, expected,
        "\n{name} differs; UPDATE_GOLDEN=1 writes it anew"
    );
}

#[test]
fn the_samples_are_those_that_the_commands_tests_and_pictures_read() {
    golden("result-good.json", &super::json(&good()));
    golden("result-bad.json", &super::json(&bad()));
}
