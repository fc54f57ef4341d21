//! Requests a URL as fast as it can for some seconds, and prints what that cost: what `make bench-load` compares with rivals.
//!
//! `bench_url URL CONNECTIONS SECONDS [PROCESSES] [keep|close|h2:STREAMS|rate:PER_SECOND|wakes:PER_SECOND]`
//!
//! With `wakes` it requests nothing, and only wakes up whenever a request would be due: what no generator can do without
//! that sends each request at its moment.

use procession::os::time::sleep_until_ns;
use procession_load::plan::{HttpTarget, HttpVersion, Pacing, Plan, Target};
use procession_load::Run;
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u32| arguments.get(at).map_or(Ok(default), |text| text.parse::<u32>());
    let mut target = HttpTarget::get(arguments.first().ok_or("which URL?")?)?;
    target.tls.insecure = true;
    let (connections, seconds, processes) = (number(1, 64)?, number(2, 5)?, number(3, 1)?);
    if let Some(("wakes", per_second)) = arguments.get(4).and_then(|mode| mode.split_once(':')) {
        return wake(per_second.parse()?, seconds);
    }
    let mut pacing = Pacing::users(connections);
    match arguments.get(4).map_or("keep", String::as_str).split_once(':') {
        Some(("h2", streams)) => {
            target.version = HttpVersion::Http2;
            target.streams = streams.parse()?;
        }
        Some(("rate", per_second)) => {
            pacing = Pacing::constant_rate(per_second.parse()?);
            if let Pacing::Rate { most_in_flight, .. } = &mut pacing {
                *most_in_flight = connections;
            }
        }
        _ => target.keep_alive = arguments.get(4).is_none_or(|mode| mode != "close"),
    }
    let mut plan = Plan::new(Target::Http(target), pacing);
    plan.processes = processes;
    plan.duration = Some(Duration::from_secs(seconds.into()));
    let result = Run::start(plan)?.finish()?;
    let cpu_seconds: f64 =
        result.workers.iter().map(|worker| worker.cpu_share).sum::<f64>() * result.info.elapsed_seconds;
    println!(
        "requests {} errors {} seconds {:.3} per_second {:.0} per_cpu_second {:.0} p50_us {:.1} p99_us {:.1} delay_p99_us {:.1}",
        result.totals.requests,
        result.totals.errors,
        result.info.elapsed_seconds,
        result.totals.requests_per_second,
        result.totals.requests as f64 / cpu_seconds,
        result.latency.response.p50 * 1e6,
        result.latency.response.p99 * 1e6,
        result.generator_delay.map_or(0.0, |delay| delay.p99 * 1e6),
    );
    for reason in result.verdict.reasons {
        println!("INVALID {}: {} ({})", reason.what, reason.figure, reason.limit);
    }
    for error in result.errors {
        println!("{} {}: {}", error.count, error.kind, error.example);
    }
    Ok(())
}

fn wake(per_second: u64, seconds: u32) -> Result<(), Box<dyn std::error::Error>> {
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1))?;
    let start_ns = procession_load::now_ns();
    let count = per_second * u64::from(seconds);
    for number in 1..=count {
        sleep_until_ns(start_ns + number * 1_000_000_000 / per_second);
    }
    println!("requests {count} errors 0 of none");
    Ok(())
}
