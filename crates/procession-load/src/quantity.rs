//! Rates, durations, counts and stages as people write them: `200/s`, `6k/m`, `1m30s`, `10k`, `30s:100,2m:500`.
//!
//! The command and the Python package read them here, so that the same text means the same everywhere.

use std::time::Duration;

use crate::plan::{RateStage, UserStage};

/// A rate per second, such as `200/s`, `6k/m` or `200`, which is per second.
///
/// ```
/// assert_eq!(procession_load::quantity::rate("6k/m"), Ok(100.0));
/// assert!(procession_load::quantity::rate("fast").is_err());
/// ```
///
/// # Errors
///
/// What was expected, as a fragment of a sentence.
pub fn rate(text: &str) -> Result<f64, String> {
    let expected = || "expected a rate such as 200/s, 6k/m or 0.5/s".to_owned();
    let (number, unit) = split(text.trim());
    let number: f64 = number.parse().map_err(|_| expected())?;
    let factor = rate_factor(unit.trim()).ok_or_else(expected)?;
    if number <= 0.0 {
        return Err("expected a rate above 0".to_owned());
    }
    Ok(number * factor)
}

/// Requests per second for each 1 of this unit.
pub(crate) fn rate_factor(unit: &str) -> Option<f64> {
    let (many, per) = unit.split_once('/').unwrap_or((unit, "s"));
    let many = match many {
        "" => 1.0,
        many => multiple(many)?,
    };
    let seconds = match per {
        "s" | "sec" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Some(many / seconds)
}

fn multiple(letter: &str) -> Option<f64> {
    match letter {
        "k" | "K" => Some(1e3),
        "M" => Some(1e6),
        _ => None,
    }
}

/// The number that a text begins with, and the rest.
fn split(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len()),
    )
}

/// A duration, such as `30s`, `5m`, `1h30m`, `500ms` or `30`, which are seconds.
///
/// ```
/// use std::time::Duration;
///
/// assert_eq!(procession_load::quantity::duration("1m30s"), Ok(Duration::from_secs(90)));
/// ```
///
/// # Errors
///
/// What was expected, as a fragment of a sentence.
pub fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a duration such as 30s, 5m, 1h30m or 500ms".to_owned();
    let mut rest = text.trim();
    let mut seconds = 0.0;
    let mut parts = 0;
    while !rest.is_empty() {
        let (number, after) = split(rest);
        let number: f64 = number.parse().map_err(|_| expected())?;
        let length = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(length);
        let factor = match unit.trim() {
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" | "sec" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            "" if parts == 0 => 1.0,
            _ => return Err(expected()),
        };
        seconds += number * factor;
        parts += 1;
        rest = next;
    }
    if parts == 0 {
        return Err(expected());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| expected())
}

/// A number of things, such as `1000`, `10k` or `2M`.
///
/// ```
/// assert_eq!(procession_load::quantity::count("10k"), Ok(10_000));
/// ```
///
/// # Errors
///
/// What was expected, as a fragment of a sentence.
pub fn count(text: &str) -> Result<u64, String> {
    let expected = || "expected a whole number such as 1000, 10k or 2M".to_owned();
    let (number, unit) = split(text.trim());
    if unit.is_empty() {
        return number.parse().map_err(|_| expected());
    }
    let number: f64 = number.parse().map_err(|_| expected())?;
    let product = number * multiple(unit.trim()).ok_or_else(expected)?;
    if product.fract() != 0.0 || product > 1e15 {
        return Err(expected());
    }
    Ok(product as u64)
}

/// A load that changes.
#[derive(Debug, Clone, PartialEq)]
pub enum Stages {
    /// Of users.
    Users(Vec<UserStage>),
    /// Of requests per second.
    Rate(Vec<RateStage>),
}

impl std::fmt::Display for Stages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let texts: Vec<String> = match self {
            Self::Users(stages) => stages
                .iter()
                .map(|stage| format!("{}s:{}", stage.duration.as_secs_f64(), stage.users))
                .collect(),
            Self::Rate(stages) => stages
                .iter()
                .map(|stage| format!("{}s:{}/s", stage.duration.as_secs_f64(), stage.per_second))
                .collect(),
        };
        f.write_str(&texts.join(","))
    }
}

/// Stages, such as `30s:100,2m:500`: within 30 s to 100 users, then within 2 min to 500. With `/s` or `/m` behind the
/// numbers (`30s:100/s,2m:500/s`) they are stages of a rate. A stage of no length is a jump: `0s:50,30s:50`.
///
/// ```
/// use procession_load::quantity::{stages, Stages};
///
/// assert!(matches!(stages("30s:100,2m:500"), Ok(Stages::Users(stages)) if stages[1].users == 500));
/// assert!(matches!(stages("30s:100/s"), Ok(Stages::Rate(_))));
/// ```
///
/// # Errors
///
/// What was expected, and in which stage.
pub fn stages(text: &str) -> Result<Stages, String> {
    let mut users = Vec::new();
    let mut rates = Vec::new();
    for stage in text.split(',').map(str::trim) {
        let wrong = |why: &str| format!("in the stage {stage:?}: {why}");
        let Some((length, goal)) = stage.split_once(':') else {
            return Err(wrong(
                "expected DURATION:USERS or DURATION:RATE, such as 30s:100 or 30s:100/s",
            ));
        };
        let length = duration(length).map_err(|why| wrong(&why))?;
        let goal = goal.trim();
        if goal.contains('/') {
            let per_second = if goal.starts_with("0/") {
                0.0
            } else {
                rate(goal).map_err(|why| wrong(&why))?
            };
            rates.push(RateStage {
                duration: length,
                per_second,
            });
        } else {
            let goal = count(goal).map_err(|why| wrong(&why))?;
            let goal = u32::try_from(goal).map_err(|_| wrong("that many users are too many"))?;
            users.push(UserStage {
                duration: length,
                users: goal,
            });
        }
        if !users.is_empty() && !rates.is_empty() {
            return Err(wrong(
                "the stages before it are of the other kind; all are of users, or all of a rate (100/s)",
            ));
        }
    }
    Ok(if rates.is_empty() {
        Stages::Users(users)
    } else {
        Stages::Rate(rates)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_people_write_is_understood() {
        assert_eq!(rate("200"), Ok(200.0));
        assert_eq!(rate("1.5k/s"), Ok(1500.0));
        assert_eq!(rate("60/m"), Ok(1.0));
        assert_eq!(rate("3600/h"), Ok(1.0));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(count("2M"), Ok(2_000_000));
        assert_eq!(count("1.5k"), Ok(1500));
        let Ok(Stages::Rate(found)) = stages("0s:50/s, 1m:0/s") else {
            panic!()
        };
        assert_eq!((found[0].per_second, found[1].per_second), (50.0, 0.0));
        for text in ["30s:100,120s:500", "0s:50/s,60s:0.5/s"] {
            assert_eq!(stages(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused_with_an_example() {
        for text in ["", "fast", "-1", "0", "1/x", "1..2/s", "5 apples"] {
            assert!(rate(text).is_err(), "{text}");
        }
        for text in ["", "s", "1x", "10s5", "1e9999s", "99999999999999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["", "k", "1.5", "1.0005k", "-3", "10G"] {
            assert!(count(text).is_err(), "{text}");
        }
        assert_eq!(
            stages("30s:100,2m"),
            Err(
                "in the stage \"2m\": expected DURATION:USERS or DURATION:RATE, such as 30s:100 or 30s:100/s"
                    .to_owned()
            )
        );
        assert!(stages("30s:100,2m:5/s").is_err_and(|why| why.contains("of the other kind")));
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_readers(text in "[0-9.:,/a-zA-Zµé ]{0,16}") {
            let _ = (rate(&text), duration(&text), count(&text), stages(&text));
        }
    }
}
