//! An SLO is read from what fingers write, or refused with the place, the reason and what to write instead.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::{Comparison, Figure, Slo, Statistic, SERVICE_PERCENTILES};
use crate::quantity::rate_factor;

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

#[cfg(test)]
mod tests {
    use super::super::tests::read;
    use super::*;
    use proptest::prelude::*;

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
