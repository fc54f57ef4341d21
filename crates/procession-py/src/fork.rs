//! Forking with what the interpreter needs around it, and the supervisor's entry.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use procession::channel::Channel;
use procession::os::event::Event;
use procession::os::process::{self, Forked};
use procession::pool::supervisor::{Role, Supervisor};
use procession::pool::worker::Worker;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::pool::os_error;
use crate::worker::WorkerSeat;

/// Memory in bytes that idle blocks may keep before it goes back to the system.
pub const IDLE_CAP_BYTES: u64 = 1 << 30;

/// Forks the interpreter as `os.fork` does, hooks included.
fn fork_interpreter() -> io::Result<Forked> {
    // SAFETY: the GIL is held, and the supervisor has no second thread; the hooks put the interpreter's own locks and
    // thread state right in the child, and user hooks run as with `os.fork`.
    unsafe {
        ffi::PyOS_BeforeFork();
        let forked = process::fork();
        match forked {
            Ok(Forked::Child) => ffi::PyOS_AfterFork_Child(),
            _ => ffi::PyOS_AfterFork_Parent(),
        }
        forked
    }
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
