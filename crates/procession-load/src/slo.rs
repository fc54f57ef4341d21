//! What must hold for a run to pass: the small language of `--slo`.
//!
//! ```text
//!   slo     := [ "service" ] statistic ("<" | "<=") time   [ "for" step ]     p99<500ms   service p50<=20ms
//!                                                                            (service: p50, 75, 90, 95, 99, 99.9, mean, max)
//!            | "errors" ("<" | "<=" | "=") (share | count) [ "for" step ]     errors<1%   errors=0
//!            | "rate"   (">" | ">=") number ["/s" | "/m"]  [ "for" step ]     rate>900/s  rate>=6k/m
//!   statistic := "p" number | "median" | "mean" | "max"                       p99.9
//!   time    := number ("us" | "ms" | "s" | "m")                               1.5s
//! ```
//!
//! An SLO says what should hold, so that one way of writing it makes sense for each figure. The other way is most often a
//! condition for an alarm, which would turn the verdict upside down: it is refused, with the right way round as advice.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::quantity::rate_factor;
use crate::report::{units, words};
use crate::result::{Latency, LatencySummary, RunResult, RunState, SloResult};

/// A condition that the result of a run must meet.
///
/// ```
/// use procession_load::Slo;
///
/// let slo: Slo = "p99 < 2s for GET /cart".parse()?;
/// assert_eq!(slo.step.as_deref(), Some("GET /cart"));
/// assert_eq!(slo.to_string(), "p99<2s for GET /cart");
/// assert!(slo.holds_for(1.9) && !slo.holds_for(2.0));
///
/// let error = "p99<500".parse::<Slo>().unwrap_err();
/// assert_eq!(&error.text()[error.place()], "500");
/// # Ok::<(), procession_load::SloError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(with = "String"))]
#[serde(into = "String", try_from = "String")]
pub struct Slo {
    /// Which figure is looked at.
    pub figure: Figure,
    /// How it must stand to the limit.
    pub comparison: Comparison,
    /// The limit: seconds for times, a share from 0 to 1 or a count for errors, requests per second for the rate.
    pub limit: f64,
    /// The step it is about; all of them together without one.
    pub step: Option<String>,
}

/// A figure that an SLO may be about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Figure {
    /// A statistic of the response time, which counts from the moment a request was due.
    ResponseTime(Statistic),
    /// A statistic of the service time, which counts from the moment a request was sent.
    ServiceTime(Statistic),
    /// Failed requests as a share of all that were answered or failed, from 0 to 1; or failed iterations of a scenario as
    /// a share of all, if that is more, as a function may fail without any request of its own failing.
    ErrorShare,
    /// The number of failed requests, or of failed iterations, if that is more.
    ErrorCount,
    /// Successful requests per second.
    Rate,
}

/// One number that stands for many times.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Statistic {
    /// The time that this percentage of the samples did not exceed, above 0 and at most 100.
    Percentile(f64),
    /// The arithmetic mean.
    Mean,
    /// The longest.
    Max,
}

/// How a figure must stand to its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `<`
    Below,
    /// `<=`
    AtMost,
    /// `>`
    Above,
    /// `>=`
    AtLeast,
    /// `=`
    Exactly,
}

impl Comparison {
    /// How it is written.
    pub fn sign(self) -> &'static str {
        match self {
            Self::Below => "<",
            Self::AtMost => "<=",
            Self::Above => ">",
            Self::AtLeast => ">=",
            Self::Exactly => "=",
        }
    }
}

impl Slo {
    /// Whether this value of the figure, in the unit of the limit, meets the condition. A figure that could not be
    /// measured (not a number) meets none.
    pub fn holds_for(&self, value: f64) -> bool {
        match self.comparison {
            Comparison::Below => value < self.limit,
            Comparison::AtMost => value <= self.limit,
            Comparison::Above => value > self.limit,
            Comparison::AtLeast => value >= self.limit,
            Comparison::Exactly => value == self.limit,
        }
    }
}

/// Why a text is no SLO, and where in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SloError {
    text: String,
    place: Range<usize>,
    why: String,
    help: Option<String>,
}

impl SloError {
    /// The whole text that was read.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The part of [`SloError::text`], in bytes, that cannot be understood. Empty where something is missing.
    pub fn place(&self) -> Range<usize> {
        self.place.clone()
    }

    /// What to write instead, if that can be guessed.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// The text with a second line that points at the place.
    pub fn pointer(&self) -> String {
        let before = self.text[..self.place.start].chars().count();
        let marks = self.text[self.place.clone()].chars().count().max(1);
        format!("{}\n{}{}", self.text, " ".repeat(before), "^".repeat(marks))
    }
}

impl fmt::Display for SloError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for SloError {}

/// The text still to be read.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn skip_blanks(&mut self) {
        self.at = self.text.len() - self.text[self.at..].trim_start().len();
    }

    /// The longest run of characters that `wanted` accepts, and where it is.
    fn take(&mut self, wanted: impl Fn(char) -> bool) -> (&'a str, Range<usize>) {
        let rest = &self.text[self.at..];
        let length = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        let place = self.at..self.at + length;
        self.at = place.end;
        (&rest[..length], place)
    }

    /// The word or run of signs that stands here, to point at.
    fn here(&self) -> Range<usize> {
        let rest = &self.text[self.at..];
        let length = rest.find(char::is_whitespace).unwrap_or(rest.len());
        self.at..self.at + length
    }

    fn error(&self, place: Range<usize>, why: impl Into<String>) -> SloError {
        SloError {
            text: self.text.to_owned(),
            place,
            why: why.into(),
            help: None,
        }
    }
}

impl SloError {
    fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

const FIGURES: &str = "p50 to p99.99, median, mean, max, service p99, errors or rate";

/// Of service times a result has these, and not the whole distribution.
const SERVICE_PERCENTILES: [f64; 6] = [50.0, 75.0, 90.0, 95.0, 99.0, 99.9];

/// What a word at the start means.
enum Named {
    Time(Statistic),
    Errors,
    Rate,
}

fn named(word: &str) -> Option<Named> {
    Some(match word {
        "median" => Named::Time(Statistic::Percentile(50.0)),
        "mean" | "avg" | "average" => Named::Time(Statistic::Mean),
        "max" => Named::Time(Statistic::Max),
        "errors" | "error" | "failures" => Named::Errors,
        "rate" | "rps" => Named::Rate,
        _ => {
            let digits = word.strip_prefix('p')?;
            if !digits.starts_with(|c: char| c.is_ascii_digit()) {
                return None;
            }
            Named::Time(Statistic::Percentile(digits.parse().ok()?))
        }
    })
}

impl FromStr for Slo {
    type Err = SloError;

    fn from_str(text: &str) -> Result<Self, SloError> {
        let mut reader = Reader { text, at: 0 };
        reader.skip_blanks();
        if reader.at == text.len() {
            return Err(reader
                .error(text.len()..text.len(), "there is nothing to hold")
                .with_help("write a figure and its limit, such as 'p99<500ms' or 'errors<1%'"));
        }
        let is_word = |c: char| c.is_alphanumeric() || c == '.' || c == '_';
        let (mut word, mut place) = reader.take(is_word);
        let mut lower = word.to_lowercase();
        let of_service = lower == "service" || lower == "response";
        let response = lower == "response";
        if of_service {
            reader.skip_blanks();
            (word, place) = reader.take(is_word);
            lower = word.to_lowercase();
        }
        if word.is_empty() {
            place = reader.here();
        }
        let Some(named) = named(&lower) else {
            return Err(reader.error(place, format!("no figure of that name; there are {FIGURES}")));
        };
        if let Named::Time(Statistic::Percentile(percentile)) = named {
            if !(percentile > 0.0 && percentile <= 100.0) {
                return Err(reader.error(place, "a percentile is above 0 and at most 100"));
            }
        }
        if of_service && !response {
            if let Named::Time(Statistic::Percentile(percentile)) = named {
                if !SERVICE_PERCENTILES.contains(&percentile) {
                    return Err(reader.error(
                        place,
                        "of service times only p50, p75, p90, p95, p99 and p99.9 are kept",
                    ));
                }
            }
        }
        if of_service && !matches!(named, Named::Time(_)) {
            return Err(reader.error(place, "only times are told apart as service and response time"));
        }
        reader.skip_blanks();
        let before_sign = reader.at;
        let (sign, sign_place) = reader.take(|c| "<>=≤≥!".contains(c));
        let comparison = match sign {
            "<" => Comparison::Below,
            "<=" | "≤" => Comparison::AtMost,
            ">" => Comparison::Above,
            ">=" | "≥" => Comparison::AtLeast,
            "=" | "==" => Comparison::Exactly,
            _ => {
                let place = if sign.is_empty() {
                    reader.here()
                } else {
                    sign_place
                };
                return Err(reader.error(place, "expected a comparison: <, <=, > or >="));
            }
        };
        reader.skip_blanks();
        let (number_text, number_place) = reader.take(|c| c.is_ascii_digit() || c == '.' || c == '_');
        if number_text.is_empty() {
            return Err(reader.error(reader.here(), "expected a number, the limit"));
        }
        let number: f64 = number_text
            .replace('_', "")
            .parse()
            .map_err(|_| reader.error(number_place.clone(), "expected a number, the limit"))?;
        let after_number = reader.at;
        reader.skip_blanks();
        let (mut unit, mut unit_place) = reader.take(|c| c.is_alphabetic() || c == '%' || c == '/');
        if unit.eq_ignore_ascii_case("for") {
            reader.at = after_number;
            (unit, unit_place) = ("", after_number..after_number);
        }
        let turned = |better: &str| {
            format!(
                "an SLO says what should hold: {}{better}{}",
                text[..before_sign].trim(),
                text[sign_place.end..].trim()
            )
        };
        let (figure, limit) = match named {
            Named::Time(statistic) => {
                if matches!(comparison, Comparison::Above | Comparison::AtLeast) {
                    return Err(reader
                        .error(sign_place.clone(), "a time should stay below its limit")
                        .with_help(turned(if comparison == Comparison::Above {
                            "<"
                        } else {
                            "<="
                        })));
                }
                if comparison == Comparison::Exactly {
                    return Err(reader
                        .error(sign_place.clone(), "no measured time equals its limit")
                        .with_help(turned("<=")));
                }
                let factor = match unit {
                    "us" | "µs" | "μs" => 1e-6,
                    "ms" => 1e-3,
                    "s" => 1.0,
                    "m" | "min" => 60.0,
                    "" => {
                        return Err(reader
                            .error(number_place, "a time needs its unit")
                            .with_help(format!("{number_text}ms or {number_text}s")))
                    }
                    _ => return Err(reader.error(unit_place, "times come in us, ms, s or m")),
                };
                let figure = if of_service && !response {
                    Figure::ServiceTime(statistic)
                } else {
                    Figure::ResponseTime(statistic)
                };
                (figure, number * factor)
            }
            Named::Errors => {
                if matches!(comparison, Comparison::Above | Comparison::AtLeast) {
                    return Err(reader
                        .error(sign_place.clone(), "errors should stay below their limit")
                        .with_help(turned(if comparison == Comparison::Above {
                            "<"
                        } else {
                            "<="
                        })));
                }
                match unit {
                    "%" if number <= 100.0 => (Figure::ErrorShare, number / 100.0),
                    "%" => {
                        return Err(
                            reader.error(number_place.start..unit_place.end, "a share is at most 100%")
                        )
                    }
                    "" => (Figure::ErrorCount, number),
                    _ => {
                        return Err(reader
                            .error(unit_place, "errors are a share or a number")
                            .with_help("errors<1% or errors<10"))
                    }
                }
            }
            Named::Rate => {
                if !matches!(comparison, Comparison::Above | Comparison::AtLeast) {
                    let better = if comparison == Comparison::Below {
                        ">"
                    } else {
                        ">="
                    };
                    return Err(reader
                        .error(sign_place.clone(), "a rate should reach its limit")
                        .with_help(turned(better)));
                }
                let Some(factor) = rate_factor(unit) else {
                    return Err(reader
                        .error(unit_place, "rates come in /s or /m, with k or M for many")
                        .with_help("rate>900/s or rate>6k/m"));
                };
                (Figure::Rate, number * factor)
            }
        };
        let step = read_step(&mut reader)?;
        Ok(Self {
            figure,
            comparison,
            limit,
            step,
        })
    }
}

/// How each condition stands in this result.
pub(crate) fn evaluate(slos: &[Slo], result: &RunResult) -> Vec<SloResult> {
    let evaluated = |slo: &Slo| {
        let (value, figure, certain) = measured(slo, result);
        SloResult {
            slo: slo.to_string(),
            kept: certain && slo.holds_for(value),
            figure,
        }
    };
    let mut results: Vec<SloResult> = slos.iter().map(evaluated).collect();
    // Nobody wants a run to pass in which nothing succeeded. Who does, has a condition about errors that says so.
    let about_errors = |slo: &Slo| matches!(slo.figure, Figure::ErrorShare | Figure::ErrorCount);
    let something_ended = result.totals.requests > 0 || result.totals.iterations > 0;
    if something_ended && result.state >= RunState::Finished && !slos.iter().any(about_errors) {
        let unspoken = evaluated(&Slo {
            figure: Figure::ErrorShare,
            comparison: Comparison::Below,
            limit: 1.0,
            step: None,
        });
        results.extend((!unspoken.kept).then_some(unspoken));
    }
    results
}

/// Failed iterations and all, of a scenario as a whole.
fn iterations(slo: &Slo, result: &RunResult) -> (u64, u64) {
    match slo.step {
        None => (result.totals.failed_iterations, result.totals.iterations),
        Some(_) => (0, 0),
    }
}

/// The figure that a condition is about, in the unit of its limit and as a text, and whether it is more than a lower bound.
fn measured(slo: &Slo, result: &RunResult) -> (f64, String, bool) {
    let totals = &result.totals;
    let seconds = result.info.measured_seconds;
    let (requests, errors, latency) = match &slo.step {
        None => (totals.requests, totals.errors, &result.latency),
        Some(name) => match result.steps.iter().find(|step| step.name == *name) {
            Some(step) => (step.count, step.errors, &step.latency),
            None => return (f64::NAN, "no such step".to_owned(), false),
        },
    };
    match slo.figure {
        Figure::ResponseTime(statistic) => time(statistic, &latency.response, Some(latency)),
        Figure::ServiceTime(statistic) => time(statistic, &latency.service, None),
        Figure::ErrorShare => {
            let (failed, all) = iterations(slo, result);
            if requests == 0 && all == 0 {
                return (f64::NAN, "no requests".to_owned(), false);
            }
            let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
            let share = share(errors, requests).max(share(failed, all));
            (share, units::percent(share), true)
        }
        Figure::ErrorCount => {
            let errors = errors.max(iterations(slo, result).0);
            (errors as f64, units::grouped(errors), true)
        }
        Figure::Rate => {
            let rate = (requests - errors.min(requests)) as f64 / seconds;
            (rate, units::per_second(rate), true)
        }
    }
}

fn time(statistic: Statistic, summary: &LatencySummary, whole: Option<&Latency>) -> (f64, String, bool) {
    if summary.count == 0 {
        return (f64::NAN, "no requests".to_owned(), false);
    }
    let (share, seconds) = match statistic {
        Statistic::Mean => (1.0, summary.mean),
        Statistic::Max => (1.0, summary.max),
        Statistic::Percentile(percentile) => {
            let share = percentile / 100.0;
            let seconds = match whole {
                Some(latency) => latency.quantile(share).seconds,
                None => {
                    let kept = [
                        summary.p50,
                        summary.p75,
                        summary.p90,
                        summary.p95,
                        summary.p99,
                        summary.p999,
                    ];
                    let at = SERVICE_PERCENTILES.iter().position(|&known| known == percentile);
                    at.map_or(f64::NAN, |at| kept[at])
                }
            };
            (share, seconds)
        }
    };
    // The mean grows with every request that is still unfinished, the longest time too.
    let censored = summary.is_censored(share);
    (seconds, words::at_least(seconds, censored), !censored)
}

fn read_step(reader: &mut Reader<'_>) -> Result<Option<String>, SloError> {
    reader.skip_blanks();
    if reader.at == reader.text.len() {
        return Ok(None);
    }
    let place = reader.here();
    let (word, _) = reader.take(|c| !c.is_whitespace());
    if !word.eq_ignore_ascii_case("for") {
        let mut error = reader.error(place, "the condition ends before this");
        if word.starts_with([',', '&', ';']) || word.eq_ignore_ascii_case("and") {
            error = error.with_help("one condition each: --slo 'p99<500ms' 'errors<1%'");
        } else {
            error = error.with_help("a condition for one step ends in its name: 'p99<2s for GET /cart'");
        }
        return Err(error);
    }
    let step = reader.text[reader.at..].trim();
    if step.is_empty() {
        return Err(reader.error(
            reader.text.len()..reader.text.len(),
            "expected the name of a step after `for`",
        ));
    }
    Ok(Some(step.to_owned()))
}

/// A number as short as it can be without losing anything.
fn short(value: f64) -> String {
    // What was written with a factor comes back with its rounding error; eleven digits are more than anyone writes.
    let rounded: f64 = format!("{value:.11e}").parse().unwrap_or(value);
    format!("{rounded}")
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ResponseTime(statistic) => write!(f, "{statistic}"),
            Self::ServiceTime(statistic) => write!(f, "service {statistic}"),
            Self::ErrorShare | Self::ErrorCount => f.write_str("errors"),
            Self::Rate => f.write_str("rate"),
        }
    }
}

impl fmt::Display for Statistic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percentile(percentile) => write!(f, "p{percentile}"),
            Self::Mean => f.write_str("mean"),
            Self::Max => f.write_str("max"),
        }
    }
}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.figure, self.comparison.sign())?;
        match self.figure {
            Figure::ResponseTime(_) | Figure::ServiceTime(_) => match self.limit {
                limit if limit >= 1.0 => write!(f, "{}s", short(limit))?,
                limit if limit >= 1e-3 => write!(f, "{}ms", short(limit * 1e3))?,
                limit => write!(f, "{}us", short(limit * 1e6))?,
            },
            Figure::ErrorShare => write!(f, "{}%", short(self.limit * 100.0))?,
            Figure::ErrorCount => write!(f, "{}", short(self.limit))?,
            Figure::Rate => write!(f, "{}/s", short(self.limit))?,
        }
        if let Some(step) = &self.step {
            write!(f, " for {step}")?;
        }
        Ok(())
    }
}

impl From<Slo> for String {
    fn from(slo: Slo) -> Self {
        slo.to_string()
    }
}

impl TryFrom<String> for Slo {
    type Error = SloError;

    fn try_from(text: String) -> Result<Self, SloError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Slo {
        text.parse()
            .unwrap_or_else(|error: SloError| panic!("{text}: {error}"))
    }

    #[test]
    fn what_fingers_write_is_understood() {
        let cases = [
            ("p99<500ms", "p99<500ms"),
            ("P99.9 <= 1.5 s", "p99.9<=1.5s"),
            ("median<20ms", "p50<20ms"),
            ("avg<250us", "mean<250us"),
            ("max<1m", "max<60s"),
            ("service p50<5ms", "service p50<5ms"),
            ("response p50<5ms", "p50<5ms"),
            ("errors<1%", "errors<1%"),
            ("errors<0.1 %", "errors<0.1%"),
            ("errors=0", "errors=0"),
            ("errors == 0", "errors=0"),
            ("rate>900/s", "rate>900/s"),
            ("rate>=6k/m", "rate>=100/s"),
            ("rps>1_000", "rate>1000/s"),
            ("p99<2s for GET /cart?a=b c", "p99<2s for GET /cart?a=b c"),
            ("errors<5 for login", "errors<5 for login"),
            (" p99≤2s ", "p99<=2s"),
        ];
        for (written, canonical) in cases {
            assert_eq!(read(written).to_string(), canonical);
        }
    }

    #[test]
    fn an_error_points_at_the_place_and_says_what_to_write() {
        let cases: &[(&str, &str, &str, Option<&str>)] = &[
            ("", "", "there is nothing to hold", Some("write a figure and its limit, such as 'p99<500ms' or 'errors<1%'")),
            ("q99<1s", "q99", "no figure of that name; there are p50 to p99.99, median, mean, max, service p99, errors or rate", None),
            ("<1s", "<1s", "no figure of that name; there are p50 to p99.99, median, mean, max, service p99, errors or rate", None),
            ("p101<1s", "p101", "a percentile is above 0 and at most 100", None),
            ("p99", "", "expected a comparison: <, <=, > or >=", None),
            ("p99 under 1s", "under", "expected a comparison: <, <=, > or >=", None),
            ("p99<", "", "expected a number, the limit", None),
            ("p99<fast", "fast", "expected a number, the limit", None),
            ("p99<1.2.3s", "1.2.3", "expected a number, the limit", None),
            ("p99<500", "500", "a time needs its unit", Some("500ms or 500s")),
            ("p99<500 for GET /", "500", "a time needs its unit", Some("500ms or 500s")),
            ("p99<500%", "%", "times come in us, ms, s or m", None),
            ("p99>500ms", ">", "a time should stay below its limit", Some("an SLO says what should hold: p99<500ms")),
            ("p99=1s for x", "=", "no measured time equals its limit", Some("an SLO says what should hold: p99<=1s for x")),
            ("errors>1%", ">", "errors should stay below their limit", Some("an SLO says what should hold: errors<1%")),
            ("errors<150%", "150%", "a share is at most 100%", None),
            ("errors<10ms", "ms", "errors are a share or a number", Some("errors<1% or errors<10")),
            ("rate<900/s", "<", "a rate should reach its limit", Some("an SLO says what should hold: rate>900/s")),
            ("rate>9ms", "ms", "rates come in /s or /m, with k or M for many", Some("rate>900/s or rate>6k/m")),
            ("p99<1s, errors<1%", ",", "the condition ends before this", Some("one condition each: --slo 'p99<500ms' 'errors<1%'")),
            ("p99<1s GET /", "GET", "the condition ends before this", Some("a condition for one step ends in its name: 'p99<2s for GET /cart'")),
            ("p99<1s for ", "", "expected the name of a step after `for`", None),
            ("service p98<1s", "p98", "of service times only p50, p75, p90, p95, p99 and p99.9 are kept", None),
            ("service errors<1%", "errors", "only times are told apart as service and response time", None),
        ];
        for (text, place, why, help) in cases {
            let error = text.parse::<Slo>().unwrap_err();
            assert_eq!(
                (&text[error.place()], error.to_string().as_str(), error.help()),
                (*place, *why, *help),
                "{text}"
            );
        }
    }

    #[test]
    fn the_pointer_stands_under_the_place() {
        let error = "p99<500 for x".parse::<Slo>().unwrap_err();
        assert_eq!(error.pointer(), "p99<500 for x\n    ^^^");
        let error = "p99".parse::<Slo>().unwrap_err();
        assert_eq!(error.pointer(), "p99\n   ^");
    }

    #[test]
    fn a_figure_that_was_not_measured_meets_no_slo() {
        assert!(!read("p99<1s").holds_for(f64::NAN));
        assert!(!read("rate>0/s").holds_for(f64::NAN));
        assert!(read("errors=0").holds_for(0.0) && !read("errors=0").holds_for(1.0));
    }

    #[test]
    fn conditions_are_measured_by_what_they_name() {
        let result = crate::report::sample::bad();
        let cases = [
            ("p50<3ms", true, "2.11 ms"),
            ("p50<2ms", false, "2.11 ms"),
            // What was unfinished at the end could be anything above.
            ("p99<5s", false, "≥2.19 s"),
            ("mean<5s", false, "≥70.0 ms"),
            ("service p99<30ms", true, "25.5 ms"),
            ("errors<12%", false, "12.1 %"),
            ("errors<=1210", true, "1,210"),
            // Failures are no throughput.
            ("rate>=879/s", true, "879/s"),
            ("rate>900/s", false, "879/s"),
            ("errors=3 for GET /a/path/that/is/rather/long/3", true, "3"),
            ("rate>49/s for GET /a/path/that/is/rather/long/3", true, "49.7/s"),
            ("p99<1s for GET /elsewhere", false, "no such step"),
        ];
        for (text, kept, figure) in cases {
            let found = &evaluate(&[read(text)], &result)[0];
            assert_eq!((found.kept, found.figure.as_str()), (kept, figure), "{text}");
        }
    }

    #[test]
    fn a_run_in_which_nothing_succeeds_fails_unless_its_conditions_say_otherwise() {
        let mut result = crate::report::sample::good();
        result.state = RunState::Finished;
        assert_eq!(evaluate(&[], &result), []);
        result.totals.errors = result.totals.requests;
        let found = evaluate(&[read("rate>0/s")], &result);
        assert_eq!((found[1].slo.as_str(), found[1].kept), ("errors<100%", false));
        assert_eq!(evaluate(&[read("errors<=100%")], &result).len(), 1);
        // How it ends is known at the end.
        result.state = RunState::Running;
        assert_eq!(evaluate(&[], &result), []);
    }

    #[test]
    fn a_scenario_without_requests_has_errors_too() {
        let mut result = crate::report::sample::good();
        result.totals = crate::result::Totals {
            iterations: 200,
            failed_iterations: 3,
            ..Default::default()
        };
        let found = evaluate(&[read("errors<1%"), read("errors<=3")], &result);
        assert_eq!((found[0].kept, found[0].figure.as_str()), (false, "1.50 %"));
        assert!(found[1].kept);
    }

    fn any_slo() -> impl Strategy<Value = Slo> {
        let statistic = prop_oneof![
            (1u32..=10_000).prop_map(|hundredths| Statistic::Percentile(f64::from(hundredths) / 100.0)),
            Just(Statistic::Mean),
            Just(Statistic::Max),
        ];
        let below = prop_oneof![Just(Comparison::Below), Just(Comparison::AtMost)];
        let above = prop_oneof![Just(Comparison::Above), Just(Comparison::AtLeast)];
        let condition = prop_oneof![
            (statistic, any::<bool>(), below.clone(), 1u64..100_000_000).prop_map(
                |(statistic, service, sign, micros)| {
                    let kept =
                        !matches!(statistic, Statistic::Percentile(p) if !SERVICE_PERCENTILES.contains(&p));
                    let figure = if service && kept {
                        Figure::ServiceTime(statistic)
                    } else {
                        Figure::ResponseTime(statistic)
                    };
                    (figure, sign, micros as f64 / 1e6)
                }
            ),
            (below.clone(), 0u32..=10_000).prop_map(|(sign, hundredths)| (
                Figure::ErrorShare,
                sign,
                f64::from(hundredths) / 10_000.0
            )),
            (below, 0u32..1_000_000).prop_map(|(sign, count)| (Figure::ErrorCount, sign, f64::from(count))),
            (above, 0u32..10_000_000).prop_map(|(sign, rate)| (Figure::Rate, sign, f64::from(rate))),
        ];
        (
            condition,
            proptest::option::of("[A-Z]{3,4} /[a-z0-9/?=&%<> ]{0,12}[a-z]"),
        )
            .prop_map(|((figure, comparison, limit), step)| Slo {
                figure,
                comparison,
                limit,
                step,
            })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_it_was(slo in any_slo()) {
            let again = read(&slo.to_string());
            prop_assert_eq!(&again.figure, &slo.figure);
            prop_assert_eq!(again.comparison, slo.comparison);
            prop_assert_eq!(&again.step, &slo.step);
            prop_assert!((again.limit - slo.limit).abs() <= slo.limit.abs() * 1e-9, "{} {}", again.limit, slo.limit);
            prop_assert_eq!(again.to_string(), slo.to_string());
        }

        #[test]
        fn no_text_breaks_the_reader(text in "\\PC{0,40}") {
            if let Err(error) = text.parse::<Slo>() {
                // Both would panic if the place were outside of the text or within a character.
                prop_assert!(error.text().get(error.place()).is_some());
                prop_assert!(!error.pointer().is_empty() && !error.to_string().is_empty());
            }
        }

        #[test]
        fn nothing_that_almost_is_one_breaks_the_reader(
            text in "(service |p99|p|errors|rate|max| ){1,3}(<|>|=|≤|!){0,2} ?[0-9._]{0,5} ?(ms|s|%|/s|k/m|µs|for|é){0,2}( for .{0,5})?"
        ) {
            if let Err(error) = text.parse::<Slo>() {
                prop_assert!(error.text().get(error.place()).is_some());
                prop_assert!(!error.pointer().is_empty());
            }
        }
    }
}
