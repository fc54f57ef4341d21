//! What all views say in the same words.

use std::time::Duration;

use super::units;
use crate::plan::{Arrivals, Pacing, Plan, Target};
use crate::result::{ErrorKind, Outcome, RunResult, RunState, SloResult};

/// What was called, such as `http://127.0.0.1:8080/` or `POST http://127.0.0.1/cart`.
pub fn target(plan: &Plan) -> String {
    match &plan.target {
        Target::Http(http) => match http.requests.as_slice() {
            [] => "nothing".to_owned(),
            [one] if one.method == "GET" => one.url.clone(),
            [one] => format!("{} {}", one.method, one.url),
            many => format!("{} and {} more", many[0].url, many.len() - 1),
        },
        Target::Tcp(tcp) => format!("tcp://{}", tcp.address),
        Target::Udp(udp) => format!("udp://{}", udp.address),
        Target::Custom { name } => name.clone(),
    }
}

/// Whether the users of this plan are connections that somebody asked for, or users of a scenario.
pub fn users(plan: &Plan, count: u64) -> String {
    let noun = match plan.target {
        Target::Custom { .. } => "user",
        Target::Http(_) | Target::Tcp(_) | Target::Udp(_) => "connection",
    };
    units::counted(count, noun)
}

/// When it was called, such as `1,000/s for 10.0 s` or `64 connections until 10,000 requests`.
pub fn pacing(plan: &Plan) -> String {
    let arrivals = |arrivals: &Arrivals| match arrivals {
        Arrivals::Constant => "",
        Arrivals::Poisson => " as a Poisson process",
    };
    let mut text = match &plan.pacing {
        Pacing::Users { users: count, .. } => users(plan, u64::from(*count)),
        Pacing::Rate {
            per_second,
            arrivals: how,
            ..
        } => {
            format!("{}{}", units::per_second(*per_second), arrivals(how))
        }
        Pacing::UserStages { start, stages, .. } => {
            let stages = stages
                .iter()
                .map(|stage| format!(" → {} in {}", stage.users, length(stage.duration)))
                .collect::<String>();
            format!("users {start}{stages}")
        }
        Pacing::RateStages {
            start,
            stages,
            arrivals: how,
            ..
        } => {
            let stages = stages
                .iter()
                .map(|stage| {
                    format!(
                        " → {} in {}",
                        units::per_second(stage.per_second),
                        length(stage.duration)
                    )
                })
                .collect::<String>();
            format!("{}{stages}{}", units::per_second(*start), arrivals(how))
        }
    };
    if let Some(duration) = plan.duration {
        text += &format!(" for {}", length(duration));
    }
    if let Some(iterations) = plan.iterations {
        let noun = match plan.target {
            Target::Custom { .. } => "iteration",
            Target::Http(_) | Target::Tcp(_) | Target::Udp(_) => "request",
        };
        text += &format!(" until {}", units::counted(iterations, noun));
    }
    text
}

/// A duration that somebody chose: `10 s`, not `10.0 s`.
pub fn length(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds.fract() == 0.0 && seconds < 60.0 {
        format!("{seconds} s")
    } else if seconds.fract() == 0.0 && (seconds % 60.0) == 0.0 && seconds < 3600.0 {
        format!("{} min", seconds / 60.0)
    } else {
        units::seconds(seconds)
    }
}

/// The verdict in a word, as it is also searched for in logs. Of a run that goes on: how far it is.
pub fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "PASS",
        Outcome::Fail => "FAIL",
        Outcome::Invalid => "INVALID",
    }
}

/// What the verdict means, in a sentence without its full stop.
pub fn meaning(result: &RunResult) -> String {
    match result.verdict.outcome {
        Outcome::Pass if result.slos.is_empty() => "the figures can be trusted; no SLO was given".to_owned(),
        Outcome::Pass | Outcome::Fail => kept(&result.slos),
        Outcome::Invalid => "the figures say more about this machine than about the target".to_owned(),
    }
}

fn kept(slos: &[SloResult]) -> String {
    let broken = slos.iter().filter(|slo| !slo.kept).count();
    match (broken, slos.len()) {
        (0, 1) => "the SLO was kept".to_owned(),
        (0, all) => format!("{all} SLOs, all of them kept"),
        (1, 1) => "the SLO was broken".to_owned(),
        (broken, all) => format!(
            "{broken} of {all} SLOs {} broken",
            if broken == 1 { "was" } else { "were" }
        ),
    }
}

/// How far a run has come.
pub fn state(state: RunState) -> &'static str {
    match state {
        RunState::Starting => "starting",
        RunState::WarmingUp => "warming up",
        RunState::Running => "running",
        RunState::Draining => "waiting for the last requests",
        RunState::Finished => "finished",
        RunState::Stopped => "stopped early",
    }
}

/// How a request can fail, as people say it.
pub fn error(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Dns => "name not found",
        ErrorKind::Refused => "refused",
        ErrorKind::Reset => "reset",
        ErrorKind::Tls => "TLS",
        ErrorKind::ConnectTimeout => "connect timeout",
        ErrorKind::Timeout => "timeout",
        ErrorKind::Protocol => "protocol",
        ErrorKind::Status4xx => "status 4xx",
        ErrorKind::Status5xx => "status 5xx",
        ErrorKind::Assertion => "not as expected",
        ErrorKind::Script => "script",
        ErrorKind::Lost => "lost",
        ErrorKind::Generator => "this machine",
        ErrorKind::Network => "network",
    }
}

/// A percentile's time with its unit, `≥` before it if unfinished requests could raise it.
pub fn at_least(seconds: f64, censored: bool) -> String {
    format!("{}{}", if censored { "≥" } else { "" }, units::seconds(seconds))
}

/// Seconds since 1970 as a date and time of day (UTC), such as `2026-11-26 01:24:57`.
pub fn moment(seconds_since_1970: f64) -> String {
    let whole = seconds_since_1970.max(0.0) as u64;
    let (days, second_of_day) = (whole / 86_400, whole % 86_400);
    // Counted in 400-year eras that begin on a first of March, so that leap days are the last of their year.
    let from_march_0000 = days + 719_468;
    let (era, day_of_era) = (from_march_0000 / 146_097, from_march_0000 % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}",
        second_of_day / 3600,
        second_of_day / 60 % 60,
        second_of_day % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates_also_around_leap_days() {
        let cases = [
            (0.0, "1970-01-01 00:00:00"),
            (951_782_399.0, "2000-02-28 23:59:59"),
            (951_782_400.9, "2000-02-29 00:00:00"),
            (1_709_251_200.0, "2024-03-01 00:00:00"),
            (1_795_656_297.0, "2026-11-26 01:24:57"),
        ];
        for (seconds, text) in cases {
            assert_eq!(moment(seconds), text);
        }
    }

    #[test]
    fn chosen_lengths_are_said_as_they_were_chosen() {
        let cases = [
            (0.5, "500 ms"),
            (10.0, "10 s"),
            (120.0, "2 min"),
            (90.0, "1 min 30 s"),
            (7200.0, "2 h 00 min"),
        ];
        for (seconds, text) in cases {
            assert_eq!(length(Duration::from_secs_f64(seconds)), text);
        }
    }
}
