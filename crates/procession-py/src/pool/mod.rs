//! The caller's side of a pool: the hot methods of Python's `Pool`.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use procession::channel::{Channel, Geometry, Note, Seat, SlotState, Stage, SLOT_INLINE_BYTES};
use procession::os::event::Event;
use procession::os::process::{self, generation};
use procession::os::{socket, time};
use procession::pool::dispatcher::{Arrival, Dispatcher, Loss};
use procession::pool::stats::{Came, FunctionTally, TIMED_ONE_OF};
use procession::pool::supervisor::order;
use procession::pool::waiter::{Lines, Waiter, Woke};
use procession::shm::{Block, Owner};
use pyo3::exceptions::{PyMemoryError, PyOSError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyList, PyString, PyTuple};

use crate::codec::{EncodeError, Encoder, Reader, Receiver};
use crate::fork::IDLE_CAP_BYTES;
use crate::gil::GilCell;
use crate::job::{Callbacks, Function, Item, Job, JobState, Message, Parked, Sink, Source};
use crate::raw::{errors, Raw};
use crate::results::{AsyncResult, Calls};
use crate::worker::kind;

mod apply;
mod cancel;
mod collect;
mod due;
mod insight;
mod life;
mod map;
mod methods;
mod pump;
mod submit;
mod values;
mod wait;

pub use insight::EventReader;
pub use values::*;

/// Bytes of large arguments on their way at once, beyond which submission waits. Blocks that come back soon are warm.
const LARGE_BYTES_IN_FLIGHT: u64 = 64 << 20;
/// Supervisors that may be lost within [`RESTART_WINDOW`] before the pool counts as broken.
const RESTARTS: usize = 3;
const RESTART_WINDOW: Duration = Duration::from_secs(10);
/// How long tasks may lie unclaimed beside sleeping workers before another one is woken.
const STALL: Duration = Duration::from_millis(5);
/// A helper thread without need lingers this long, since the next need is often near.
const HELPER_LINGERS: Duration = Duration::from_millis(20);

/// An argument that may be left out, where `None` is not the same as nothing.
pub enum Given<'py> {
    Nothing,
    Value(Bound<'py, PyAny>),
}

impl<'a, 'py> FromPyObject<'a, 'py> for Given<'py> {
    type Error = std::convert::Infallible;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> Result<Self, Self::Error> {
        Ok(Given::Value(object.to_owned()))
    }
}

/// Whose a slot's result is.
enum Target {
    Vacant,
    /// Nobody's any more.
    Abandoned,
    /// A result that takes itself out when it is dropped; the pointer is borrowed.
    One(*mut ffi::PyObject),
    /// A result that must live until its callback has run.
    Held(Py<AsyncResult>),
    /// Items of a job from this index on.
    Job(Arc<Job>, u64),
}

// SAFETY: the borrowed pointer is only used with the GIL held, and is removed by its object's destructor.
unsafe impl Send for Target {}

struct Entry {
    target: Target,
    begin: u32,
    items: u32,
    large_bytes: u64,
}

struct Known {
    function: Py<PyAny>,
    name: OnceLock<String>,
    cost_ns: f32,
    tally: FunctionTally,
}

/// What was chosen for one call.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// How long an item may run, in milliseconds; 0 for ever.
    pub timeout_ms: u32,
    /// Higher ones go first.
    pub priority: i32,
}

/// A call that found no slot.
struct Queued {
    terms: Terms,
    result: Py<AsyncResult>,
    function: Py<PyAny>,
    arguments: Py<PyTuple>,
    keywords: Option<Py<PyDict>>,
}

/// A callback that is due.
pub enum Due {
    One(Py<AsyncResult>),
    Job(Arc<Job>),
    /// Those who wait for a stream's next item.
    Wake(Vec<Py<PyAny>>),
}

struct Inner {
    dispatcher: Dispatcher,
    entries: Vec<Entry>,
    numbers: HashMap<usize, u32>,
    /// Numbers of names whose functions travel with their tasks.
    names: HashMap<String, u32>,
    known: Vec<Known>,
    last_function: (usize, u32),
    arrivals: Vec<Arrival>,
    spare: Vec<Vec<u8>>,
    backlog: VecDeque<Queued>,
    jobs: Vec<Arc<Job>>,
    due: VecDeque<Due>,
    callbacks_outstanding: usize,
    helper_runs: bool,
    large_bytes: u64,
    submissions: u32,
    /// Single tasks sent, to choose those that are timed.
    singles: u32,
    restarts: VecDeque<Instant>,
    /// Jobs that are done with: dropped outside of the pool's own state, for what they hold may be the user's.
    graveyard: Vec<Arc<Job>>,
    /// Since when tasks lie unclaimed while workers sleep and nothing comes back.
    stalled_since: Option<Instant>,
}

/// How a pool ended, if it did.
enum Over {
    No,
    Terminated,
    Broken(String),
}

/// What is lost with a worker, to be told outside of the pool's own state.
struct Lost {
    target: LostTarget,
    loss: Loss,
    limit_ms: u32,
    stack: String,
    /// What the item had written, if that is kept.
    output: String,
    function: Option<u32>,
    arguments: Option<(u32, Vec<u8>)>,
}

enum LostTarget {
    One(Py<AsyncResult>),
    Job(Arc<Job>, u64),
}

pub struct Core {
    generation: u32,
    pub channel: Arc<Channel>,
    pub waiter: Waiter,
    inner: GilCell<Inner>,
    over: GilCell<Over>,
    accepting: AtomicBool,
    /// The interpreter is about to end: nobody is told of anything any more.
    exiting: AtomicBool,
    /// Threads that wait without the GIL.
    waiting: AtomicU32,
    workers: u32,
    timeout_ms: u32,
    memory_limit: u64,
    /// Whether calls are tried again that do not say so.
    retries: AtomicBool,
    names: (String, u64),
    caller: OwnedFd,
    child_end: Mutex<Option<OwnedFd>>,
    parent_end: Mutex<Option<OwnedFd>>,
    supervisor_pid: AtomicU32,
    supervisor_is_child: AtomicBool,
}

/// The native half of `procession.Pool`: encodes, submits, waits, decodes.
///
/// Not for direct use: `procession.Pool` is built on it.
#[pyclass(frozen, subclass, weakref, dict, module = "procession._native")]
pub struct PoolBase {
    core: OnceLock<Core>,
}

impl PoolBase {
    pub fn core(&self) -> PyResult<&Core> {
        let core = self
            .core
            .get()
            .ok_or_else(|| PyValueError::new_err("Pool not running"))?;
        if core.generation != generation() {
            return Err(PyRuntimeError::new_err(
                "this pool belongs to another process: a forked child must make a pool of its own",
            ));
        }
        Ok(core)
    }

    fn open_core(&self) -> PyResult<&Core> {
        let core = self.core()?;
        if !core.accepting.load(Ordering::Relaxed) {
            return Err(PyValueError::new_err("Pool not running"));
        }
        Ok(core)
    }
}

impl Drop for PoolBase {
    fn drop(&mut self) {
        if let Some(core) = self.core.get() {
            if core.generation == generation() {
                // The line's end tells the supervisor; Python's part has seen to an orderly end if it could.
                core.waiter.set_lines(None);
            } else {
                std::mem::forget(self.core.take());
            }
        }
    }
}

fn view(channel: &Channel, slot: u32, len: u64, block: u32) -> Option<(&[u8], Option<Block>)> {
    let (start, block) = if block == Block::NONE {
        if len > SLOT_INLINE_BYTES as u64 {
            return None;
        }
        (channel.slot(slot).inline().cast_const(), None)
    } else {
        let block = channel.arena().check(block).filter(|b| len <= b.capacity())?;
        (channel.arena().start(block).cast_const(), Some(block))
    };
    // SAFETY: the length was checked; the slot (and with it the block) is the caller's until it is published again.
    Some((unsafe { std::slice::from_raw_parts(start, len as usize) }, block))
}

/// Where an encoded payload goes.
enum Place {
    Inline,
    Block(Block),
}
