//! Views of a result: text, HTML, JSON, CSV, JUnit XML and Prometheus text.
//!
//! Each is a pure function of [`RunResult`]: it measures nothing, keeps nothing and prints
//! nothing, so that a result that was written today can be looked at again tomorrow.

mod csv;
mod html;
mod junit;
mod prometheus;
mod text;
pub mod units;
pub mod words;

#[cfg(test)]
pub(crate) mod sample;

pub use csv::csv;
pub use html::html;
pub use junit::junit;
pub use prometheus::prometheus;
pub use text::{text, TextStyle};

use crate::result::RunResult;

/// The result as JSON, as `schema/result.schema.json` describes it.
pub fn json(result: &RunResult) -> String {
    // Maps with keys that are no strings, the only thing that JSON cannot say, are not part of a result.
    let mut text = serde_json::to_string(result).unwrap_or_default();
    text.push('\n');
    text
}

/// Text that can stand in XML and HTML, between tags or in an attribute. Characters that neither allows are replaced.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(c),
            c if c < ' ' || c == '\u{fffe}' || c == '\u{ffff}' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
