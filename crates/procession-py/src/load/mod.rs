//! Virtual users that are Python functions.
//!
//! ```text
//!    host process:   LoadRun ── forks ──► worker processes, each with one LoadProcess
//!    worker:         LoadProcess ──► LoadEngine (one for each thread of users) ──► User, HttpClient, TcpClient, UdpClient
//! ```
//!
//! Everything that takes time is an operation of the crew ([`procession_load::users`]): a plain function blocks on it with
//! the GIL released, a coroutine awaits a [`wait::Wait`], which the engine itself resumes, or asyncio does.

mod counter;
mod engine;
mod host;
mod http;
mod process;
mod raw;
mod response;
mod user;
mod wait;

pub use counter::SharedCounter;
pub use engine::LoadEngine;
pub use host::{check_slo, load_report, parse_duration, parse_rate, parse_stages, plan_defaults, LoadRun};
pub use http::HttpClient;
pub use process::{load_think, LoadProcess, Step};
pub use raw::{TcpClient, TcpConnection, UdpClient, UdpSocket};
pub use response::HttpResponse;
pub use user::User;
pub use wait::Wait;

use procession_load::result::ErrorKind;
use procession_load::users::Failure;
use pyo3::create_exception;
use pyo3::exceptions::{PyAssertionError, PyBaseException, PyException, PyValueError};
use pyo3::prelude::*;

create_exception!(
    procession.load,
    RequestError,
    PyException,
    "A request that failed. It is counted; `kind` says as what."
);
create_exception!(
    procession.load,
    ExpectationFailed,
    PyAssertionError,
    "A response that is not what was expected."
);
create_exception!(
    procession.load,
    UserStopped,
    PyBaseException,
    "The run has ended, and with it this virtual user. Not to be caught."
);

/// The exception for a failure.
pub fn failure_error(py: Python<'_>, failure: &Failure) -> PyErr {
    let error = RequestError::new_err(failure.text.clone());
    let _ = error.value(py).setattr("kind", failure.kind.name());
    error
}

pub fn stopped() -> PyErr {
    UserStopped::new_err("the load test has ended")
}

/// A time limit in seconds as an argument, in nanoseconds.
pub fn limit_ns(seconds: Option<f64>) -> PyResult<Option<u64>> {
    match seconds {
        None => Ok(None),
        Some(seconds) if seconds > 0.0 && seconds < 1e9 => Ok(Some((seconds * 1e9) as u64)),
        Some(_) => Err(PyValueError::new_err(
            "timeout must be a positive number of seconds",
        )),
    }
}

/// What an exception of a user's function counts as.
pub fn failure_of(py: Python<'_>, error: &Bound<'_, PyAny>) -> (Failure, bool) {
    let text = describe(error);
    if error.is_instance_of::<RequestError>() {
        let kind = error
            .getattr("kind")
            .and_then(|kind| kind.extract::<String>())
            .unwrap_or_default();
        let kind = ErrorKind::ALL
            .into_iter()
            .find(|known| known.name() == kind)
            .unwrap_or(ErrorKind::Script);
        // What could not be asked for at all was no request, so nobody has counted it.
        return (Failure::new(kind, text), kind != ErrorKind::Script);
    }
    let is_counted = error
        .getattr_opt("_is_counted")
        .ok()
        .flatten()
        .is_some_and(|counted| counted.is_truthy().unwrap_or(false));
    let kind = if error
        .is_instance(&py.get_type::<PyAssertionError>())
        .unwrap_or(false)
    {
        ErrorKind::Assertion
    } else {
        ErrorKind::Script
    };
    (Failure::new(kind, text), is_counted)
}

/// Type, text and place of an exception, in one line.
fn describe(error: &Bound<'_, PyAny>) -> String {
    let kind = error
        .get_type()
        .name()
        .map_or_else(|_| "exception".into(), |name| name.to_string());
    let said = error
        .str()
        .map_or_else(|_| String::new(), |text| text.to_string());
    let mut text = if said.is_empty() {
        kind
    } else {
        format!("{kind}: {said}")
    };
    if let Some((file, line)) = place(error) {
        let file = file.rsplit('/').next().unwrap_or("");
        text.push_str(&format!(" ({file}:{line})"));
    }
    text
}

fn place(error: &Bound<'_, PyAny>) -> Option<(String, u32)> {
    let mut frame = error.getattr("__traceback__").ok()?;
    if frame.is_none() {
        return None;
    }
    while let Ok(next) = frame.getattr("tb_next") {
        if next.is_none() {
            break;
        }
        frame = next;
    }
    let line = frame.getattr("tb_lineno").ok()?.extract().ok()?;
    let file = frame
        .getattr("tb_frame")
        .ok()?
        .getattr("f_code")
        .ok()?
        .getattr("co_filename")
        .ok()?
        .extract()
        .ok()?;
    Some((file, line))
}
