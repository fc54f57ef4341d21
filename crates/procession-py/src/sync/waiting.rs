//! Waiting without the GIL, and what is told about it.

use std::sync::Mutex;

use procession::os::process::{heeded_signals, SIGINT};
use procession::sync::waits::{About, Deadlock, For, Waiting};
use procession::sync::{Identity, Stir};
use pyo3::intern;
use pyo3::prelude::*;

pub use crate::pool::duration as limit;
use crate::raw::errors;

/// Has Python's signal handlers run if a signal came: to this thread as it slept, or, unseen, just before it did.
pub fn stir(now: Stir) -> PyResult<()> {
    let me = Identity::current();
    if now.interrupted || me == me.main_thread() {
        Python::attach(|py| py.check_signals())
    } else {
        Ok(())
    }
}

/// Who waits, and where.
pub fn about() -> About {
    Python::attach(about_now)
}

/// The same; of a thread that outlives the interpreter nobody needs to know.
pub fn about_if_running() -> About {
    Python::try_attach(about_now).unwrap_or_default()
}

fn about_now(py: Python<'_>) -> About {
    About {
        process: process_name(py).unwrap_or_else(|_| "a process".into()),
        place: place(py).unwrap_or_default(),
        what: String::new(),
        deaf_to_signals: is_deaf(py).unwrap_or(false),
    }
}

/// Whether no handler of a signal runs the user's code. Ctrl-C is none: it ends what it interrupts.
fn is_deaf(py: Python<'_>) -> PyResult<bool> {
    let heeded = heeded_signals();
    if heeded.iter().any(|&signal| signal != SIGINT) {
        return Ok(false);
    }
    if heeded.is_empty() {
        return Ok(true);
    }
    let signals = py.import(intern!(py, "signal"))?;
    let handler = signals.call_method1(intern!(py, "getsignal"), (SIGINT,))?;
    Ok(handler.is(&signals.getattr(intern!(py, "default_int_handler"))?))
}

fn process_name(py: Python<'_>) -> PyResult<String> {
    let process = py
        .import(intern!(py, "multiprocessing.process"))?
        .getattr(intern!(py, "current_process"))?
        .call0()?;
    process.getattr(intern!(py, "name"))?.extract()
}

/// The line of the user's code that is being run: the innermost one outside of this package and the standard library's.
fn place(py: Python<'_>) -> PyResult<String> {
    let mut frame = py
        .import(intern!(py, "sys"))?
        .getattr(intern!(py, "_getframe"))?
        .call0()?;
    loop {
        let file: String = frame
            .getattr(intern!(py, "f_code"))?
            .getattr(intern!(py, "co_filename"))?
            .extract()?;
        let line: u32 = frame.getattr(intern!(py, "f_lineno"))?.extract()?;
        let ours = frame
            .getattr(intern!(py, "f_globals"))?
            .get_item(intern!(py, "__name__"))
            .and_then(|name| name.extract::<String>())
            .is_ok_and(|name| name.starts_with("procession.") || name.starts_with("multiprocessing."));
        let outer = frame.getattr(intern!(py, "f_back"))?;
        if !ours || outer.is_none() {
            let name = file.rsplit('/').next().unwrap_or(&file);
            return Ok(format!("{name}:{line}"));
        }
        frame = outer;
    }
}

/// The error of a wait that would never have ended.
pub fn deadlock_error(py: Python<'_>, deadlock: &Deadlock) -> PyErr {
    let members: Vec<_> = deadlock
        .members
        .iter()
        .map(|m| {
            let what = Some(&m.about.what);
            let (lock, queue) = match m.what_for {
                For::Lock { .. } => (what, None),
                For::Process => (None, None),
                For::Item | For::Room | For::Done => (None, what),
            };
            (
                &m.about.process,
                m.pid,
                m.thread,
                &m.about.place,
                lock,
                queue,
                m.holder_pid,
            )
        })
        .collect();
    errors(py, "deadlock", (deadlock.to_string(), members))
}

/// Tells that a lock was taken over from a dead owner.
pub fn tell_of_death(py: Python<'_>, lock: String, owner: Identity) {
    let told = py
        .import(intern!(py, "procession.synchronize"))
        .and_then(|module| {
            module
                .getattr(intern!(py, "_tell_of_death"))?
                .call1((lock, owner.pid()))
        });
    if let Err(error) = told {
        error.write_unraisable(py, None);
    }
}

/// A wait for a process that others can see until it is over. See `wait_for_process`.
#[pyclass(frozen, module = "procession._native")]
#[derive(Debug)]
pub struct ProcessWait {
    waiting: Mutex<Option<Waiting>>,
}

#[pymethods]
impl ProcessWait {
    /// The wait is over.
    fn end(&self) {
        drop(self.waiting.lock().unwrap_or_else(|e| e.into_inner()).take());
    }
}

/// Says that the calling thread waits for the end of this process, without a time limit, so that it is found to be a deadlock
/// if that process waits for a lock that the caller holds, or a queue that it alone could serve. None if this process has
/// no locks and no queues.
#[pyfunction]
pub fn wait_for_process(pid: u32) -> Option<ProcessWait> {
    if !procession::sync::waits::may_wait() {
        return None;
    }
    let waiting = Waiting::for_process(pid, &about())?;
    Some(ProcessWait {
        waiting: Mutex::new(Some(waiting)),
    })
}
