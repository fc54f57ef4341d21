//! A result as a test report, as build servers read it.

use std::fmt::Write as _;

use super::{escaped, words};
use crate::result::{Outcome, RunResult};

/// The result as JUnit XML: a test case for the run itself, which is in error if the run is INVALID, and one for each SLO,
/// which has failed if it was broken.
pub fn junit(result: &RunResult) -> String {
    let invalid = result.verdict.outcome == Outcome::Invalid;
    let broken = result.slos.iter().filter(|slo| !slo.kept).count();
    let seconds = result.info.elapsed_seconds;
    let target = escaped(&words::target(&result.info.plan));
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuites name=\"procession load\" tests=\"{tests}\" failures=\"{broken}\" errors=\"{errors}\" time=\"{seconds:.3}\">\n  \
         <testsuite name=\"{target}\" tests=\"{tests}\" failures=\"{broken}\" errors=\"{errors}\" time=\"{seconds:.3}\" \
         timestamp=\"{moment}\">\n",
        tests = result.slos.len() + 1,
        errors = usize::from(invalid),
        moment = words::moment(result.info.started_at).replace(' ', "T"),
    );
    let _ = write!(
        xml,
        "    <testcase classname=\"{target}\" name=\"the run is valid\" time=\"{seconds:.3}\""
    );
    if invalid {
        let reasons: Vec<String> = result
            .verdict
            .reasons
            .iter()
            .map(|reason| {
                format!(
                    "{}: {}, {}; {}",
                    reason.what, reason.figure, reason.limit, reason.cure
                )
            })
            .collect();
        let _ = write!(
            xml,
            ">\n      <error type=\"INVALID\" message=\"{}\">{}</error>\n    </testcase>\n",
            escaped(&words::meaning(result)),
            escaped(&reasons.join("\n"))
        );
    } else {
        xml.push_str("/>\n");
    }
    for slo in &result.slos {
        let name = escaped(&slo.slo);
        let figure = escaped(&slo.figure);
        let _ = write!(
            xml,
            "    <testcase classname=\"{target}\" name=\"{name}\" time=\"{seconds:.3}\""
        );
        if slo.kept {
            xml.push_str("/>\n");
        } else {
            let _ = write!(
                xml,
                ">\n      <failure type=\"SLO\" message=\"{name} was {figure}\">{name} was {figure}</failure>\n    \
                 </testcase>\n"
            );
        }
    }
    xml.push_str("  </testsuite>\n</testsuites>\n");
    xml
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn an_invalid_run_is_an_error_and_a_broken_slo_a_failure() {
        sample::golden("junit-pass.xml", &junit(&sample::good()));
        sample::golden("junit-invalid.xml", &junit(&sample::bad()));
    }

    #[test]
    fn texts_of_users_cannot_break_the_file() {
        let mut result = sample::good();
        result.slos[0].slo = "p99<1s for \"<&>\u{1}\"".to_owned();
        let xml = junit(&result);
        assert!(
            xml.contains("p99&lt;1s for &quot;&lt;&amp;&gt;\u{fffd}&quot;"),
            "{xml}"
        );
    }
}
