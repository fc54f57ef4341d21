//! The lines that go between this process and the Python host; told in prose in `README.md` beside this file.

use std::path::PathBuf;

use procession_load::result::RunResult;
use procession_load::Slo;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The version of the protocol. Any change that an older peer would misread raises it.
pub const PROTOCOL_VERSION: u32 = 1;

/// What this process writes to the host.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// First line: which function, and what to do with it.
    Hello(Box<Hello>),
    /// One input.
    Item {
        /// Names the item in the result.
        index: u64,
        /// What the function gets.
        #[serde(flatten)]
        input: ItemInput,
    },
    /// All items of a measurement are there: run them.
    Measure {},
    /// End the load test early, in order; said twice, at once.
    Stop {},
}

/// The text of an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemInput {
    /// As it is.
    Text(String),
    /// A name that is not UTF-8, in hexadecimal digits; Python decodes it as it decodes all names of the system.
    NameHex(String),
}

/// The first line to the host.
#[derive(Debug, Clone, Serialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`].
    pub protocol: u32,
    /// Version of this crate, for error texts.
    pub version: &'static str,
    /// The source file, or the module.
    pub place: HelloPlace,
    /// Name of the function there; for a load test it may be empty: the file's only scenario.
    pub function: String,
    /// Whether inputs are JSON.
    pub json: bool,
    /// Whether each input is a list of arguments.
    pub star: bool,
    /// `fork`, `spawn`, `forkserver`, or none for the running Python's default.
    pub start_method: Option<&'static str>,
    /// Which job this host has.
    pub job: Job,
}

/// Where the function is defined.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HelloPlace {
    /// A source file.
    File(String),
    /// A module that Python can import.
    Module(String),
}

impl Hello {
    /// The function as the command line names it.
    pub fn names(&self) -> String {
        let (HelloPlace::File(place) | HelloPlace::Module(place)) = &self.place;
        match self.function.as_str() {
            "" => place.clone(),
            function => format!("{place}:{function}"),
        }
    }
}

/// What a host is started for.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// Run items as they come, in a pool.
    Map {
        /// Size of the pool.
        processes: usize,
        /// Limit for each task.
        timeout_seconds: Option<f64>,
        /// Limit for the memory of each worker.
        memory_limit_bytes: Option<u64>,
        /// What becomes of what the function prints: `inherit`, `lines` or `capture`.
        output: &'static str,
    },
    /// Take all items, then time them once.
    Measure {
        /// Size of the pool, or none for a plain loop in the host itself.
        processes: Option<usize>,
    },
    /// Run the function as a virtual user.
    Load(Box<LoadJob>),
}

/// What the command line says about a load test, as the arguments of Python's `procession.load()`. What it does not say is
/// left to the function's own defaults.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoadJob {
    /// How many users; at a rate, at most.
    pub users: Option<u32>,
    /// Iterations per second.
    pub rate: Option<f64>,
    /// `constant` or `poisson`.
    pub arrivals: Option<&'static str>,
    /// Such as `30s:100,120s:500`.
    pub stages: Option<String>,
    /// The shortest and the longest time that a user waits between two iterations.
    pub think_seconds: Option<(f64, f64)>,
    /// How long new iterations begin.
    pub duration: Option<f64>,
    /// How many iterations at most.
    pub iterations: Option<u64>,
    /// What does not count at the beginning, in seconds.
    pub warmup: Option<f64>,
    /// The limit for each request, in seconds.
    pub timeout: Option<f64>,
    /// How many worker processes.
    pub processes: Option<usize>,
    /// `async`, `thread` or `process`.
    pub vuser: Option<&'static str>,
    /// What must hold.
    pub slo: Option<Vec<Slo>>,
    /// What random choices begin with.
    pub seed: u64,
    /// Whether any certificate is taken.
    pub insecure: bool,
    /// Certificates that are trusted instead of the system's.
    pub cacert: Option<PathBuf>,
    /// Our own certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// Whether requests go over HTTP/2.
    pub http2: bool,
    /// How many redirects of a request are followed.
    pub redirects: Option<u32>,
    /// Whether the tester has said that targets elsewhere are theirs to test.
    pub own_target: bool,
}

/// What the host writes to this process.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// First line.
    Hello {
        /// The host's [`PROTOCOL_VERSION`].
        protocol: u32,
        /// Version of the Python package.
        version: String,
        /// Version of Python, such as `3.13.0`.
        python: String,
    },
    /// The function is loaded and, for a map, the pool runs: items may come.
    Ready {},
    /// The host could not do its job, and ends.
    Fatal {
        /// For programs.
        kind: FatalKind,
        /// What was wrong, and where.
        message: String,
        /// The traceback, where there is one.
        traceback: Option<String>,
        /// What to do.
        help: Option<String>,
    },
    /// An attempt at an item is over.
    Result(Box<ItemReport>),
    /// A measurement is over.
    Measured {
        /// Wall time of the whole run.
        seconds: f64,
        /// How much of that the host's main thread computed or waited for a core (for a pool, without its workers).
        busy_seconds: f64,
    },
    /// What a load test has come to so far.
    Progress(Box<RunResult>),
    /// What it came to.
    Finished(Box<RunResult>),
}

/// Why a host ends without having done its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FatalKind {
    /// This Python has no `procession` that can be imported.
    NoPackage,
    /// The two sides speak different versions of the protocol.
    Version,
    /// The function cannot be had: no file, an error on import, no such name, not callable.
    Function,
    /// The pool could not be made, or broke.
    Pool,
    /// A task of a measurement failed.
    Task,
}

/// How an attempt at an item ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The function returned.
    Ok,
    /// The function raised.
    Error,
    /// The worker process ended while it ran the function.
    Died,
    /// The function ran longer than the limit, and its process was killed.
    TimedOut,
    /// The input could not be read, so the function was not called.
    BadInput,
}

/// An attempt at an item.
#[derive(Debug, Deserialize)]
pub struct ItemReport {
    /// The item's index.
    pub index: u64,
    /// How it ended.
    pub status: Status,
    /// What the function returned, for [`Status::Ok`]; absent or `null` for None.
    pub result: Option<Box<RawValue>>,
    /// Whether `result` is a string holding Python's repr().
    #[serde(default)]
    pub result_is_repr: bool,
    /// Why there is no result.
    pub error: Option<ItemError>,
    /// How long the function ran, where that is known.
    pub seconds: Option<f64>,
    /// The worker that ran it, where that is known.
    pub pid: Option<u32>,
    /// What the function had printed, where that is kept and anything was.
    pub output: Option<String>,
}

/// Why an item has no result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemError {
    /// Name of the exception's class.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its text.
    pub message: String,
    /// Its traceback, where the function raised it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceback: Option<String>,
    /// Exit code of a worker that died, negative for a signal's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exitcode: Option<i32>,
    /// Name of the signal that killed a worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// The limit that a task ran over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_seconds: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_objects_with_one_key() {
        let item = Request::Item {
            index: 7,
            input: ItemInput::Text("a\nb".into()),
        };
        assert_eq!(
            serde_json::to_string(&item).unwrap(),
            r#"{"item":{"index":7,"text":"a\nb"}}"#
        );
        let item = Request::Item {
            index: 8,
            input: ItemInput::NameHex("ff".into()),
        };
        assert_eq!(
            serde_json::to_string(&item).unwrap(),
            r#"{"item":{"index":8,"name_hex":"ff"}}"#
        );
        assert_eq!(
            serde_json::to_string(&Request::Measure {}).unwrap(),
            r#"{"measure":{}}"#
        );
        assert_eq!(
            serde_json::to_string(&Request::Stop {}).unwrap(),
            r#"{"stop":{}}"#
        );
    }

    #[test]
    fn results_pass_through_untouched() {
        let line = r#"{"result":{"index":3,"status":"ok","result":{"b":12345678901234567890123,"a":1.10},"seconds":0.5,"pid":9}}"#;
        let Report::Result(report) = serde_json::from_str(line).unwrap() else {
            panic!()
        };
        assert_eq!(
            report.result.unwrap().get(),
            r#"{"b":12345678901234567890123,"a":1.10}"#
        );
        assert_eq!(
            (report.index, report.status, report.pid),
            (3, Status::Ok, Some(9))
        );
    }

    #[test]
    fn none_arrives_as_an_absent_result() {
        let line = r#"{"result":{"index":3,"status":"ok","result":null}}"#;
        let Report::Result(report) = serde_json::from_str(line).unwrap() else {
            panic!()
        };
        assert!(report.result.is_none());
    }
}
