//! One item's outcome as a line of the output. `schema/map-line.schema.json` says what a JSON line holds.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::host::protocol::{ItemError, Status};
use crate::inputs::Payload;

/// What became of an item.
#[derive(Debug)]
pub struct Outcome<'a> {
    /// Its index.
    pub index: u64,
    /// What the function got.
    pub input: &'a Payload,
    /// How its last attempt ended.
    pub status: Status,
    /// What the function returned, for [`Status::Ok`]; none for None.
    pub result: Option<&'a RawValue>,
    /// Whether `result` is a string holding Python's repr().
    pub result_is_repr: bool,
    /// Why there is no result.
    pub error: Option<&'a ItemError>,
    /// How long the function ran in the last attempt.
    pub seconds: Option<f64>,
    /// The worker of the last attempt.
    pub pid: Option<u32>,
    /// How often the function was tried.
    pub attempts: u32,
    /// What the function printed in the last attempt, where that is kept and anything was.
    pub output: Option<&'a str>,
}

#[derive(Serialize)]
struct JsonLine<'a> {
    index: u64,
    input: JsonInput<'a>,
    status: Status,
    // The outer option is whether the field is there, the inner one is JSON's null.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Option<&'a RawValue>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    result_is_repr: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a ItemError>,
    seconds: Option<f64>,
    pid: Option<u32>,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum JsonInput<'a> {
    Text(std::borrow::Cow<'a, str>),
    Json(Box<RawValue>),
}

/// An input as it stands in a JSON line; with `json_input` as the JSON that it is.
pub fn input_in_json(input: &Payload, json_input: bool) -> String {
    serde_json::to_string(&JsonInput::of(input, json_input)).expect("plain fields always serialize")
}

impl<'a> JsonInput<'a> {
    fn of(input: &'a Payload, json_input: bool) -> Self {
        match input {
            // A line end in JSON can only stand between its tokens, where a blank does as well.
            Payload::Text(text) if json_input => RawValue::from_string(text.replace(['\n', '\r'], " "))
                .map_or_else(|_| JsonInput::Text(text.into()), JsonInput::Json),
            other => JsonInput::Text(other.text()),
        }
    }
}

impl Outcome<'_> {
    /// The JSON line; with `json_input` the input stands in it as the JSON it is.
    pub fn json_line(&self, json_input: bool) -> Vec<u8> {
        let input = JsonInput::of(self.input, json_input);
        let line = JsonLine {
            index: self.index,
            input,
            status: self.status,
            result: (self.status == Status::Ok).then_some(self.result),
            result_is_repr: self.result_is_repr,
            error: self.error,
            seconds: self.seconds,
            pid: self.pid,
            attempts: self.attempts,
            output: self.output,
        };
        let mut text = serde_json::to_vec(&line).expect("plain fields always serialize");
        text.push(b'\n');
        text
    }

    /// The plain line: a string as it is, other values as JSON, nothing for None and for failures.
    pub fn plain_line(&self) -> Vec<u8> {
        let Some(result) = self.result else {
            return Vec::new();
        };
        let mut text = match serde_json::from_str::<String>(result.get()) {
            Ok(text) => text.into_bytes(),
            Err(_) => result.get().as_bytes().to_vec(),
        };
        text.push(b'\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome<'a>(input: &'a Payload, result: Option<&'a RawValue>) -> Outcome<'a> {
        Outcome {
            index: 4,
            input,
            status: Status::Ok,
            result,
            result_is_repr: false,
            error: None,
            seconds: Some(0.25),
            pid: Some(77),
            attempts: 1,
            output: None,
        }
    }

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn strings_are_written_as_they_are_and_other_values_as_json() {
        let input = Payload::Text("x".into());
        assert_eq!(
            outcome(&input, Some(&raw(r#""é\tb""#))).plain_line(),
            "é\tb\n".as_bytes()
        );
        assert_eq!(
            outcome(&input, Some(&raw("[1, 2.50]"))).plain_line(),
            b"[1, 2.50]\n"
        );
        assert_eq!(outcome(&input, None).plain_line(), b"");
    }

    #[test]
    fn a_json_line_is_one_line() {
        let input = Payload::Text("[1,\n 2]".into());
        let line = String::from_utf8(outcome(&input, None).json_line(true)).unwrap();
        assert_eq!(
            line,
            "{\"index\":4,\"input\":[1,  2],\"status\":\"ok\",\"result\":null,\"seconds\":0.25,\"pid\":77,\"attempts\":1}\n"
        );
    }

    #[test]
    fn a_failure_has_an_error_and_no_result() {
        let input = Payload::Text("x".into());
        let error = ItemError {
            kind: "WorkerDied".into(),
            message: "gone".into(),
            traceback: None,
            exitcode: Some(-9),
            signal: Some("SIGKILL".into()),
            limit_seconds: None,
        };
        let failed = Outcome {
            status: Status::Died,
            error: Some(&error),
            seconds: None,
            ..outcome(&input, None)
        };
        assert_eq!(
            String::from_utf8(failed.json_line(false)).unwrap(),
            "{\"index\":4,\"input\":\"x\",\"status\":\"died\",\"error\":{\"type\":\"WorkerDied\",\"message\":\"gone\",\
             \"exitcode\":-9,\"signal\":\"SIGKILL\"},\"seconds\":null,\"pid\":77,\"attempts\":1}\n"
        );
        assert_eq!(failed.plain_line(), b"");
    }
}
