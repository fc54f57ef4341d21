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

mod measure;
mod read;

use std::fmt;

use serde::{Deserialize, Serialize};

pub(crate) use measure::evaluate;
pub use read::SloError;

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

/// Of service times a result has these, and not the whole distribution.
const SERVICE_PERCENTILES: [f64; 6] = [50.0, 75.0, 90.0, 95.0, 99.0, 99.9];

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

    pub(super) fn read(text: &str) -> Slo {
        text.parse()
            .unwrap_or_else(|error: SloError| panic!("{text}: {error}"))
    }

    #[test]
    fn a_figure_that_was_not_measured_meets_no_slo() {
        assert!(!read("p99<1s").holds_for(f64::NAN));
        assert!(!read("rate>0/s").holds_for(f64::NAN));
        assert!(read("errors=0").holds_for(0.0) && !read("errors=0").holds_for(1.0));
    }
}
