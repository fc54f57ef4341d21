//! Adding up what the workers have counted.

use super::environment::environment;
use super::usage::CoreTicks;
use super::Member;
use crate::histogram::Histogram;
use crate::now_ns;
use crate::plan::{Plan, Target};
use crate::record::{read_text, Datagram, Head, Region, StepTotals};
use crate::result::{
    judge, Environment, ErrorCount, ErrorKind, Evidence, Latency, LatencySummary, Phases, RunInfo, RunResult,
    RunState, Second, StatusCount, StepKind, StepResult, TcpResult, Totals, UdpResult, Verdict, WorkerResult,
    SCHEMA_VERSION,
};
use crate::schedule::Schedule;
use crate::slo::evaluate;
use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// So many stretches of time are kept. When there are more, pairs of them are joined.
const MOST_SECONDS: usize = 7200;
/// A second is fetched when it has been over for so long: a worker that was about to count in it has done so.
const SETTLE_NS: u64 = 100_000_000;
/// So many seconds that are over are fetched once more when they are older: a worker that stood still comes to know only later
/// when what lay there for it had arrived. Fewer than those that workers keep.
const YOUNG_SECONDS: usize = 8;
/// How often the kernel is asked what all cores do: where there are many, that takes a millisecond.
const CORES_INTERVAL_NS: u64 = 400_000_000;

/// What the controlling process keeps beside the shared memory.
#[derive(Debug)]
pub(super) struct Collector {
    environment: Environment,
    started_at: f64,
    series: Series,
    /// The last ones, in which workers may still count something.
    young: VecDeque<Second>,
    next_second: u32,
    cores_at_start: Option<CoreTicks>,
    cores_looked_ns: u64,
    idle_share: Option<f64>,
}

/// Where the run stands.
pub(super) struct Progress<'a> {
    pub plan: &'a Plan,
    pub region: &'a Region,
    pub members: &'a [Member],
    pub state: RunState,
    pub start_ns: u64,
    pub load_end_ns: Option<u64>,
    pub now_ns: u64,
}

#[derive(Default)]
struct Sums {
    response: Histogram,
    service: Histogram,
    lag: Histogram,
    first_byte: Histogram,
    body: Histogram,
    censored: Histogram,
    ended: u64,
    failed: u64,
    late: u64,
    late_failed: u64,
}

impl Sums {
    fn add(&mut self, step: &StepTotals) {
        for (mine, theirs) in [
            (&mut self.response, &step.response),
            (&mut self.service, &step.service),
            (&mut self.lag, &step.lag),
            (&mut self.first_byte, &step.first_byte),
            (&mut self.body, &step.body),
            (&mut self.censored, &step.censored),
        ] {
            mine.merge(theirs);
        }
        self.ended += step.ended;
        self.failed += step.failed;
        self.late += step.late;
        self.late_failed += step.late_failed;
    }

    /// How many ended before the load did.
    fn in_time(&self) -> u64 {
        self.ended.saturating_sub(self.late)
    }

    /// Those of them that succeeded.
    fn good_in_time(&self) -> u64 {
        self.in_time()
            .saturating_sub(self.failed.saturating_sub(self.late_failed))
    }

    fn latency(&self, has_rate: bool) -> Latency {
        let none = Histogram::default();
        let response = LatencySummary::new(&self.response, &self.censored);
        Latency {
            service: if has_rate {
                LatencySummary::new(&self.service, &none)
            } else {
                response.clone()
            },
            lag: has_rate.then(|| LatencySummary::new(&self.lag, &none)),
            response,
            response_histogram: self.response.clone(),
            censored_histogram: self.censored.clone(),
        }
    }
}

fn summary(histogram: &Histogram) -> LatencySummary {
    LatencySummary::new(histogram, &Histogram::default())
}

impl Collector {
    pub(super) fn new(_plan: &Plan) -> Collector {
        Collector {
            environment: environment(),
            started_at: 0.0,
            series: Series::default(),
            young: VecDeque::new(),
            next_second: 0,
            cores_at_start: None,
            cores_looked_ns: 0,
            idle_share: None,
        }
    }

    pub(super) fn begin(&mut self) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.started_at = since.as_secs_f64();
        self.cores_at_start = CoreTicks::now();
        self.cores_looked_ns = now_ns();
    }

    /// Notes how idle the machine has been until now; not to be asked any more when no load is made.
    pub(super) fn look_at_cores(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.cores_looked_ns) < CORES_INTERVAL_NS {
            return;
        }
        self.cores_looked_ns = now_ns;
        let share = self.cores_at_start.zip(CoreTicks::now());
        self.idle_share = share
            .and_then(|(start, now)| now.idle_share_since(start))
            .or(self.idle_share);
    }

    /// Fetches the seconds that are over. Each worker keeps some of them, so this need not be punctual.
    pub(super) fn fetch_seconds(
        &mut self,
        region: &Region,
        plan: &Plan,
        start_ns: u64,
        now_ns: u64,
        all: bool,
    ) {
        let settled = if all {
            now_ns + 1_000_000_000
        } else {
            now_ns.saturating_sub(SETTLE_NS)
        };
        let over = (settled.saturating_sub(start_ns) / 1_000_000_000) as u32;
        while self.next_second < over {
            let second = read_second(region, plan, self.next_second);
            self.next_second += 1;
            if all && second.requests == 0 && self.next_second == over {
                break;
            }
            self.young.push_back(second);
        }
        let most_young = if all { 0 } else { YOUNG_SECONDS };
        while self.young.len() > most_young {
            let Some(second) = self.young.pop_front() else {
                break;
            };
            let again = read_second(region, plan, second.start);
            // Its place may have been needed for another one.
            let is_still_there = again.requests >= second.requests;
            self.series.push(if is_still_there { again } else { second });
        }
    }

    pub(super) fn result(&self, at: &Progress<'_>) -> RunResult {
        let mut series = self.series.clone();
        self.young.iter().for_each(|second| series.push(second.clone()));
        let has_rate = at.plan.pacing.has_rate();
        let times = Times::new(at);
        let steps = all_steps(at.region);
        let mut requests = Sums::default();
        for (kind, _, sums) in &steps {
            if *kind == StepKind::Request {
                requests.merge(sums);
            }
        }
        // A scenario's requests follow each other: what has a schedule is the iteration.
        let mut result = RunResult {
            schema_version: SCHEMA_VERSION,
            state: at.state,
            info: RunInfo {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                started_at: self.started_at,
                elapsed_seconds: times.elapsed,
                measured_seconds: times.measured,
                plan: at.plan.clone(),
                environment: self.environment.clone(),
            },
            verdict: Verdict::default(),
            totals: totals(at, &times, &steps, &requests),
            latency: requests.latency(has_rate),
            generator_delay: has_rate.then(|| summary(&distribution(at.region, |all| &all.delay))),
            idle_cores: self
                .idle_share
                .map(|share| share * f64::from(self.environment.cores)),
            core_wait: summary(&distribution(at.region, |all| &all.core_wait)),
            phases: Phases {
                dns: summary(&distribution(at.region, |all| &all.dns)),
                connect: summary(&distribution(at.region, |all| &all.connect)),
                tls: summary(&distribution(at.region, |all| &all.tls)),
                first_byte: summary(&requests.first_byte),
                body: summary(&requests.body),
            },
            steps: steps
                .into_iter()
                .map(|(kind, name, sums)| StepResult {
                    name,
                    kind,
                    count: sums.ended,
                    errors: sums.failed,
                    per_second: per_second(sums.in_time(), times.measured),
                    successes_per_second: per_second(sums.good_in_time(), times.measured),
                    latency: sums.latency(has_rate),
                    first_byte: summary(&sums.first_byte),
                })
                .collect(),
            seconds: series.seconds,
            errors: errors(at.region),
            statuses: statuses(at.region),
            workers: workers(at),
            tcp: tcp(at.region),
            udp: udp(at),
            slos: Vec::new(),
        };
        result.slos = evaluate(&at.plan.slos, &result);
        result.verdict = judge(&Evidence::of(&result));
        result
    }
}

/// What happened in each second, or, in long runs, in each stretch of several.
#[derive(Debug, Clone)]
struct Series {
    seconds: Vec<Second>,
    span: u32,
}

impl Default for Series {
    fn default() -> Series {
        Series {
            seconds: Vec::new(),
            span: 1,
        }
    }
}

impl Series {
    fn push(&mut self, second: Second) {
        match self.seconds.last_mut() {
            Some(last) if last.span < self.span => join(last, &second),
            _ => self.seconds.push(second),
        }
        if self.seconds.len() > MOST_SECONDS {
            self.span *= 2;
            let mut joined: Vec<Second> = Vec::with_capacity(MOST_SECONDS);
            for second in self.seconds.drain(..) {
                match joined.last_mut() {
                    Some(last) if last.span < self.span => join(last, &second),
                    _ => joined.push(second),
                }
            }
            self.seconds = joined;
        }
    }
}

impl Sums {
    fn merge(&mut self, other: &Sums) {
        for (mine, theirs) in [
            (&mut self.response, &other.response),
            (&mut self.service, &other.service),
            (&mut self.lag, &other.lag),
            (&mut self.first_byte, &other.first_byte),
            (&mut self.body, &other.body),
            (&mut self.censored, &other.censored),
        ] {
            mine.merge(theirs);
        }
        self.ended += other.ended;
        self.failed += other.failed;
        self.late += other.late;
        self.late_failed += other.late_failed;
    }
}

struct Times {
    /// From the first request to the end, or to now.
    elapsed: f64,
    /// The part of it in which what began counts.
    measured: f64,
}

impl Times {
    fn new(at: &Progress<'_>) -> Times {
        let last_ns = if at.state >= RunState::Finished {
            let ends = (0..at.region.seats())
                .map(|number| at.region.seat(number).read_head(|head| head.now_ns.load(Relaxed)));
            ends.max().filter(|&end| end > 0).unwrap_or(at.now_ns)
        } else {
            at.now_ns
        };
        let elapsed_ns = last_ns.saturating_sub(at.start_ns);
        let load_ns = at
            .load_end_ns
            .map_or(elapsed_ns, |end| end.saturating_sub(at.start_ns).min(elapsed_ns));
        let warmup = at.plan.warmup.as_secs_f64();
        Times {
            elapsed: elapsed_ns as f64 * 1e-9,
            measured: (load_ns as f64 * 1e-9 - warmup).max(0.0),
        }
    }
}

fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

fn join(into: &mut Second, next: &Second) {
    let (span, more) = (f64::from(into.span), f64::from(next.span));
    into.target_per_second = into
        .target_per_second
        .zip(next.target_per_second)
        .map(|(mine, theirs)| (mine * span + theirs * more) / (span + more));
    into.span += next.span;
    into.requests += next.requests;
    into.errors += next.errors;
    into.bytes_received += next.bytes_received;
    into.in_flight = next.in_flight;
    into.users = next.users;
    into.response.merge(&next.response);
}

fn read_second(region: &Region, plan: &Plan, number: u32) -> Second {
    let mut second = Second {
        start: number,
        span: 1,
        target_per_second: Schedule::rate_at(plan, f64::from(number) + 0.5),
        ..Second::default()
    };
    let ends = plan
        .load_duration()
        .map_or(f64::INFINITY, |duration| duration.as_secs_f64());
    if f64::from(number) >= ends {
        second.target_per_second = second.target_per_second.map(|_| 0.0);
    }
    for seat in 0..region.seats() {
        let part = region.seat(seat).read_second(number, StepKind::Request);
        second.requests += part.ended;
        second.errors += part.errors;
        second.bytes_received += part.bytes_received;
        second.in_flight += part.in_flight;
        second.users += part.users;
        second.response.merge(&part.response);
    }
    second
}

/// The steps of all workers, those of the same name together: requests, steps, iterations, each in order of appearance.
fn all_steps(region: &Region) -> Vec<(StepKind, String, Sums)> {
    let mut all: Vec<(StepKind, String, Sums)> = Vec::new();
    for seat in 0..region.seats() {
        for step in region.seat(seat).read_steps() {
            let at = all
                .iter()
                .position(|(kind, name, _)| *kind == step.kind && *name == step.name);
            let at = at.unwrap_or_else(|| {
                all.push((step.kind, step.name.clone(), Sums::default()));
                all.len() - 1
            });
            all[at].2.add(&step);
        }
    }
    all.sort_by_key(|(kind, _, _)| *kind);
    all
}

fn distribution(
    region: &Region,
    which: impl Fn(&crate::record::Distributions) -> &crate::record::Cells,
) -> Histogram {
    let mut sum = Histogram::default();
    for seat in 0..region.seats() {
        sum.merge(&region.seat(seat).read_distribution(&which));
    }
    sum
}

fn totals(at: &Progress<'_>, times: &Times, steps: &[(StepKind, String, Sums)], requests: &Sums) -> Totals {
    let heads = || (0..at.region.seats()).map(|number| at.region.seat(number));
    let sum = |read: fn(&crate::record::Head) -> u64| heads().map(|seat| seat.read_head(read)).sum::<u64>();
    let iterations = |count: fn(&Sums) -> u64| {
        let scenario = steps.iter().filter(|(kind, _, _)| *kind == StepKind::Iteration);
        scenario.map(|(_, _, sums)| count(sums)).sum::<u64>()
    };
    let unsent = sum(|head| head.unsent.load(Relaxed));
    let elapsed_ns = times.elapsed * 1e9;
    let lost = sum(|head| head.lost_in_flight.load(Relaxed));
    // What is in flight of a process that died in its seat for good was lost with it.
    let abandoned: u64 = if at.state >= RunState::Finished {
        sum(|head| head.in_flight.load(Relaxed))
    } else {
        0
    };
    let due = Schedule::due_between(
        at.plan,
        at.plan.warmup,
        at.plan.warmup + Duration::from_secs_f64(times.measured),
    );
    Totals {
        requests: requests.ended,
        errors: requests.failed,
        unfinished: requests.censored.count().saturating_sub(unsent) + lost + abandoned,
        unsent,
        requests_per_second: per_second(requests.in_time(), times.measured),
        successes_per_second: per_second(requests.good_in_time(), times.measured),
        target_per_second: due
            .filter(|_| times.measured > 0.0)
            .map(|due| due / times.measured),
        error_share: if requests.ended > 0 {
            requests.failed as f64 / requests.ended as f64
        } else {
            0.0
        },
        bytes_sent: sum(|head| head.bytes_sent.load(Relaxed)),
        bytes_received: sum(|head| head.bytes_received.load(Relaxed)),
        connections: sum(|head| head.connections.load(Relaxed)),
        mean_in_flight: if elapsed_ns > 0.0 {
            sum(|head| head.area_ns.load(Relaxed)) as f64 / elapsed_ns
        } else {
            0.0
        },
        little_in_flight: if elapsed_ns > 0.0 {
            sum(|head| head.busy_ns.load(Relaxed)) as f64 / elapsed_ns
        } else {
            0.0
        },
        iterations: iterations(|sums| sums.ended),
        failed_iterations: iterations(|sums| sums.failed),
        warmup_requests: sum(|head| head.warmup.load(Relaxed)),
    }
}

fn errors(region: &Region) -> Vec<ErrorCount> {
    let mut errors: Vec<ErrorCount> = ErrorKind::ALL
        .into_iter()
        .filter_map(|kind| {
            let (mut count, mut example) = (0, String::new());
            for seat in 0..region.seats() {
                region.seat(seat).read_head(|head| {
                    count += head.error_counts[kind as usize].load(Relaxed);
                    if example.is_empty() {
                        example = read_text(&head.examples[kind as usize]);
                    }
                });
            }
            (count > 0).then_some(ErrorCount { kind, count, example })
        })
        .collect();
    errors.sort_by_key(|error| std::cmp::Reverse(error.count));
    errors
}

fn statuses(region: &Region) -> Vec<StatusCount> {
    (0..crate::record::STATUSES)
        .filter_map(|status| {
            let count = (0..region.seats())
                .map(|seat| {
                    region
                        .seat(seat)
                        .read_head(|head| head.statuses[status].load(Relaxed))
                })
                .sum();
            (count > 0).then_some(StatusCount {
                status: status as u16,
                count,
            })
        })
        .collect()
}

fn workers(at: &Progress<'_>) -> Vec<WorkerResult> {
    let share = |part: u64, whole: u64| {
        if whole > 0 {
            part as f64 / whole as f64
        } else {
            0.0
        }
    };
    (0..at.region.seats())
        .zip(at.members)
        .map(|(number, member)| {
            at.region.seat(number).read_head(|head| WorkerResult {
                number,
                pid: head.pid.load(Relaxed),
                alive: !member.done && member.process.is_alive(),
                requests: head.ended.load(Relaxed),
                errors: head.failed.load(Relaxed),
                in_flight: head.in_flight.load(Relaxed),
                cpu_share: share(head.cpu_ns.load(Relaxed), head.active_ns.load(Relaxed)),
                cpu_wait_share: share(head.cpu_wait_ns.load(Relaxed), head.active_ns.load(Relaxed)),
                restarts: member.restarts,
                last_death: member.last_death.clone(),
                lost_in_flight: head.lost_in_flight.load(Relaxed),
            })
        })
        .collect()
}

fn tcp(region: &Region) -> Option<TcpResult> {
    let sum = |read: fn(&crate::record::Head) -> u64| {
        (0..region.seats())
            .map(|number| region.seat(number).read_head(read))
            .sum::<u64>()
    };
    let samples = sum(|head| head.tcp_samples.load(Relaxed));
    (samples > 0).then(|| TcpResult {
        samples,
        retransmits: sum(|head| head.retransmits.load(Relaxed)),
        connect_retransmits: sum(|head| head.connect_retransmits.load(Relaxed)),
        round_trip: summary(&distribution(region, |all| &all.round_trip)),
    })
}

fn udp(at: &Progress<'_>) -> Option<UdpResult> {
    if !matches!(at.plan.target, Target::Udp(_)) {
        return None;
    }
    let sum = |read: &dyn Fn(&Head) -> u64| {
        let seats = 0..at.region.seats();
        seats
            .map(|number| at.region.seat(number).read_head(read))
            .sum::<u64>()
    };
    let count = |what: Datagram| sum(&|head| head.udp[what as usize].load(Relaxed));
    Some(UdpResult {
        sent: count(Datagram::Sent),
        received: count(Datagram::Received),
        lost: count(Datagram::Lost),
        reordered: count(Datagram::Reordered),
        duplicates: count(Datagram::Duplicate),
        jitter_seconds: match sum(&|head| head.jitters.load(Relaxed)) {
            0 => 0.0,
            jitters => sum(&|head| head.jitter_ns.load(Relaxed)) as f64 / jitters as f64 * 1e-9,
        },
    })
}
