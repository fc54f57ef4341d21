//! Forking with what the interpreter needs around it, and the supervisor's entry.

use std::borrow::Cow;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use procession::channel::Channel;
use procession::os::event::Event;
use procession::os::process::{self, Forked, Readiness};
use procession::os::socket;
use procession::pool::supervisor::{Role, Supervisor};
use procession::pool::worker::Worker;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::pool::os_error;
use crate::worker::WorkerSeat;

/// Memory in bytes that idle blocks may keep before it goes back to the system.
pub const IDLE_CAP_BYTES: u64 = 1 << 30;

/// Forks the interpreter as `os.fork` does, hooks included, by this call.
///
/// # Safety
///
/// The GIL is held, and there is no second thread.
unsafe fn fork_by(fork: unsafe fn() -> io::Result<Forked>) -> io::Result<Forked> {
    // SAFETY: the hooks put the interpreter's own locks and thread state right in the child, and user hooks run as with
    // `os.fork`; the caller keeps the rest.
    unsafe {
        ffi::PyOS_BeforeFork();
        let forked = fork();
        match forked {
            Ok(Forked::Child) => ffi::PyOS_AfterFork_Child(),
            _ => ffi::PyOS_AfterFork_Parent(),
        }
        forked
    }
}

fn fork_interpreter() -> io::Result<Forked> {
    // SAFETY: the GIL is held, and the supervisor has no second thread.
    unsafe { fork_by(process::fork) }
}

/// Clones the interpreter, which has one thread only, for its parent; 0 in the new process.
#[pyfunction]
pub fn clone_sibling(py: Python<'_>) -> PyResult<u32> {
    let _ = py;
    if process::thread_count() != Some(1) {
        return Err(os_error(io::ErrorKind::Unsupported.into()));
    }
    // SAFETY: the GIL is held, and there is no second thread.
    match unsafe { fork_by(process::clone_sibling) } {
        Ok(Forked::Child) => Ok(0),
        Ok(Forked::Parent(pid)) => Ok(pid),
        Err(e) => Err(os_error(e)),
    }
}

/// Whether this interpreter could clone itself for its parent: it has one thread, and the kernel tells what it takes.
#[pyfunction]
pub fn can_clone_sibling() -> bool {
    process::thread_count() == Some(1) && process::can_clone_sibling()
}

/// What a program executed now would inherit, as bytes to compare, if that can be told.
#[pyfunction]
pub fn circumstances(py: Python<'_>) -> Option<Cow<'static, [u8]>> {
    let _ = py;
    process::circumstances().map(Cow::Owned)
}

/// Sends an order with descriptors to a template and returns its answer, a pid or a negative error number: `None` if the
/// template is gone, or has not answered in so many seconds. No signal handler runs meanwhile, so that no process comes
/// about that nobody knows of.
#[pyfunction]
pub fn order(
    py: Python<'_>,
    line: RawFd,
    number: u64,
    text: &[u8],
    descriptors: Vec<RawFd>,
    seconds: f64,
) -> PyResult<Option<i64>> {
    // SAFETY: the caller's descriptors stay open for the call.
    let line = unsafe { BorrowedFd::borrow_raw(line) };
    let descriptors: Vec<_> = descriptors
        .into_iter()
        // SAFETY: as above.
        .map(|descriptor| unsafe { BorrowedFd::borrow_raw(descriptor) })
        .collect();
    let message = [number.to_string().as_bytes(), b"\n", text].concat();
    py.detach(|| match socket::send(line, &message, &descriptors) {
        Ok(()) => await_answer(line, number, seconds),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    })
    .map_err(os_error)
}

/// Returns the answer to an order that was sent before, if it comes, as `order` does.
#[pyfunction]
pub fn late_answer(py: Python<'_>, line: RawFd, number: u64, seconds: f64) -> PyResult<Option<i64>> {
    // SAFETY: the caller's descriptor stays open for the call.
    let line = unsafe { BorrowedFd::borrow_raw(line) };
    py.detach(|| await_answer(line, number, seconds))
        .map_err(os_error)
}

fn await_answer(line: BorrowedFd<'_>, number: u64, seconds: f64) -> io::Result<Option<i64>> {
    let deadline = Instant::now() + Duration::from_secs_f64(seconds);
    while process::wait_ready(line, Readiness::Readable, Some(deadline))? {
        let answer = match socket::receive(line, false) {
            Ok((answer, _)) if answer.is_empty() => return Ok(None),
            Ok((answer, _)) => answer,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        // The template and its clone both tell: what was told twice is passed over the next time.
        let mut words = std::str::from_utf8(&answer).unwrap_or_default().split(' ');
        if words.next().and_then(|word| word.parse().ok()) == Some(number) {
            return Ok(words.next().and_then(|word| word.parse().ok()));
        }
    }
    Ok(None)
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionReset)
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the descriptors were made for this process, inherited or received, and are handed over here.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Supervises a pool on these descriptors: shared memory, results' event, line to the caller, caller's pidfd.
///
/// Returns a seat in each worker, and `None` in the supervisor when the pool is over.
#[pyfunction]
pub fn supervise(
    py: Python<'_>,
    memory: RawFd,
    results: RawFd,
    control: RawFd,
    caller: RawFd,
) -> PyResult<Option<WorkerSeat>> {
    let _ = py;
    let channel = Arc::new(Channel::open(owned(memory), IDLE_CAP_BYTES).map_err(os_error)?);
    let supervisor = Supervisor {
        channel,
        results: Event::from_fd(owned(results)),
        control: owned(control),
        caller: owned(caller),
    };
    match supervisor.run(&mut fork_interpreter) {
        Ok(Role::Over) => Ok(None),
        Ok(Role::Worker {
            seat,
            channel,
            results,
            output,
        }) => {
            // Ctrl-C is the caller's affair. A handler that does nothing, not "ignore": programs that a task starts
            // would inherit the latter.
            process::install_noop_handler(2).map_err(os_error)?;
            Ok(Some(WorkerSeat::new(Worker::new(channel, results, seat, output))))
        }
        Err(e) => Err(os_error(e)),
    }
}

/// Reports on these descriptors that a pool's supervisor could not be started, and why.
#[pyfunction]
pub fn report_broken(memory: RawFd, results: RawFd, text: &str) -> PyResult<()> {
    let channel = Channel::open(owned(memory), IDLE_CAP_BYTES).map_err(os_error)?;
    procession::pool::worker::report_broken(&channel, &Event::from_fd(owned(results)), text);
    Ok(())
}

/// Reads what the caller has put into a pool's shared memory with `_stash`.
#[pyfunction]
pub fn read_stash(
    py: Python<'_>,
    memory: RawFd,
    block: u32,
    len: usize,
) -> PyResult<Py<pyo3::types::PyBytes>> {
    // SAFETY: the descriptor stays the caller's; only a duplicate is used up here.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(memory) };
    let channel = Channel::open(fd.try_clone_to_owned()?, IDLE_CAP_BYTES).map_err(os_error)?;
    let arena = channel.arena();
    let block = arena
        .check(block)
        .filter(|b| len as u64 <= b.capacity())
        .ok_or_else(|| pyo3::exceptions::PyRuntimeError::new_err("the pool's shared memory is garbled"))?;
    // SAFETY: the length fits into the block, which the caller does not touch after handing its number out.
    let bytes = unsafe { std::slice::from_raw_parts(arena.start(block), len) };
    Ok(pyo3::types::PyBytes::new(py, bytes).unbind())
}

/// The CPUs that this process may use: its affinity, and its control group's quota rounded up.
#[pyfunction]
pub fn usable_cpus() -> usize {
    let allowed = process::available_cpus();
    match process::cgroup_cpus() {
        Some(quota) => allowed.min((quota.ceil() as usize).max(1)),
        None => allowed,
    }
}
