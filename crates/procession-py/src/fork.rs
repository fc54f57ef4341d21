//! Forking with what the interpreter needs around it, and the supervisor's entry.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
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

/// How many threads this process has, if the kernel tells.
#[pyfunction]
pub fn thread_count() -> Option<usize> {
    process::thread_count()
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

/// The descriptors that a supervisor needs.
pub struct Line {
    /// The pool's shared memory.
    pub memory: RawFd,
    /// The event that the caller awaits.
    pub results: RawFd,
    /// The supervisor's end of the line to the caller.
    pub control: RawFd,
    /// The caller's pidfd.
    pub caller: RawFd,
}

impl Line {
    fn supervisor(self) -> io::Result<Supervisor> {
        Ok(Supervisor {
            channel: Arc::new(Channel::open(owned(self.memory), IDLE_CAP_BYTES)?),
            results: Event::from_fd(owned(self.results)),
            control: owned(self.control),
            caller: owned(self.caller),
        })
    }
}

/// What a worker runs on; `None` in the supervisor whose pool is over.
fn seat_of(role: Role) -> PyResult<Option<WorkerSeat>> {
    let Role::Worker {
        seat,
        channel,
        results,
        output,
    } = role
    else {
        return Ok(None);
    };
    // Ctrl-C is the caller's affair. A handler that does nothing, not "ignore": programs that a task starts would inherit
    // the latter.
    process::install_noop_handler(2).map_err(os_error)?;
    Ok(Some(WorkerSeat::new(Worker::new(channel, results, seat, output))))
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
    let line = Line {
        memory,
        results,
        control,
        caller,
    };
    let supervisor = line.supervisor().map_err(os_error)?;
    seat_of(supervisor.run(&mut fork_interpreter).map_err(os_error)?)
}

/// Forks a pool's supervisor. In the caller this returns its pid, in each worker that it forks a seat and a duplicate of the
/// caller's pidfd.
///
/// Between the two forks no Python code runs, nor any hook of the interpreter: the supervisor stays as the caller was when it
/// forked, so that each worker comes out of it as if the caller had forked it at that moment, its locks and thread state are
/// put right once, and nobody waits for that to be done in the supervisor as well. What the caller alone may hold open would
/// be closed by such a hook; therefore it is named here, and the supervisor has something else in its place, as the hooks that
/// close it are yet to run in the workers.
pub fn fork_supervisor(py: Python<'_>, line: Line, callers_own: &[RawFd]) -> PyResult<AfterFork> {
    let _ = py;
    // Made here, where an error reaches somebody.
    let null = File::open("/dev/null").map_err(os_error)?;
    // SAFETY: the descriptor stays open for the call.
    let caller = unsafe { BorrowedFd::borrow_raw(line.caller) };
    let sentinel = socket::duplicate(caller)
        .and_then(socket::above_standard)
        .map_err(os_error)?;
    // SAFETY: the GIL is held. Other threads do not exist in the child; what they held is put right by the hook that runs in
    // each worker, and by libc's own for `malloc`. The supervisor uses nothing else of theirs.
    let forked = unsafe {
        ffi::PyOS_BeforeFork();
        process::fork()
    };
    match forked {
        Ok(Forked::Child) => {}
        other => {
            // SAFETY: it belongs to the hook before the fork.
            unsafe { ffi::PyOS_AfterFork_Parent() };
            return match other {
                Ok(Forked::Parent(pid)) => Ok(AfterFork::Caller(pid)),
                Err(e) => Err(os_error(e)),
                Ok(Forked::Child) => unreachable!("seen above"),
            };
        }
    }
    for &number in callers_own {
        // SAFETY: their owners let go of them in this process's children, and do nothing in this process.
        let _ = unsafe { process::replace(number, null.as_fd()) };
    }
    drop(null);
    let role = line.supervisor().and_then(|supervisor| {
        // SAFETY: the supervisor has no second thread.
        supervisor.run(&mut || unsafe { process::fork() })
    });
    match role {
        Ok(role @ Role::Worker { .. }) => {
            // SAFETY: it belongs to the hook before the first fork; this process has everything that the caller had then.
            unsafe { ffi::PyOS_AfterFork_Child() };
            let seat = seat_of(role)?.expect("a worker has a seat");
            Ok(AfterFork::Worker(seat, sentinel.into_raw_fd()))
        }
        Ok(Role::Over) => process::exit_now(0),
        // The pool has been told that it is broken.
        Err(_) => process::exit_now(1),
    }
}

/// Who a process is after [`fork_supervisor`].
pub enum AfterFork {
    /// The caller; this is the supervisor's pid.
    Caller(u32),
    /// A worker, and its descriptor of the caller's pidfd.
    Worker(WorkerSeat, RawFd),
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
