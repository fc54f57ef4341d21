//! The pool as users of Rust meet it: typed functions, arguments and results.

mod array;
mod async_result;
mod builder;
mod call;
mod calls;
mod flow;
mod frame;
mod function;
mod helper;
mod imap;
mod ledger;
mod lifecycle;
mod map;
mod start;
#[cfg(test)]
mod steps;
mod worker_main;

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::Serialize;

use self::array::Port;
use self::call::{encode_argument, NotEncoded, Scratch};
use self::calls::Terms;
use self::flow::{BatchSize, Flow};
use self::function::Function;
use self::helper::Callback;
use self::ledger::{worker_name, Ledger, Payload, ARGUMENT_PARTS};
use self::lifecycle::{Look, Shared};
use crate::channel::Seat;
use crate::error::{Error, Kind, Result};
use crate::options::PoolOptions;
use crate::pool::events::Events;
use crate::pool::stats::FunctionStats;
use crate::shm::Owner;

pub(crate) use self::start::begin_if_supervisor;

pub use self::array::{Array, Bytes, Plain};
pub use self::async_result::AsyncResult;
pub use self::builder::PoolBuilder;
pub use self::calls::Calls;
pub use self::imap::Imap;
pub use self::map::MapResult;

/// Worker processes that run functions.
///
/// ```no_run
/// use procession::Pool;
///
/// let pool = Pool::new()?;
/// let squares = pool.map(|x: u64| x * x, 0..10)?;
/// assert_eq!(squares, [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]);
///
/// let product = pool.apply_async(|(x, y): (u64, u64)| x * y, (10, 4))?;
/// assert_eq!(product.get()?, 40);
/// # Ok::<(), procession::Error>(())
/// ```
///
/// # Functions, arguments, results
///
/// A function is a `fn` or a closure that captures nothing (this is checked by the compiler); what it needs travels in its
/// argument, as a tuple if need be. Arguments and results are what serde can serialize and deserialize. Large numeric data
/// goes into [`Array`]s, which travel in shared memory.
///
/// On the way they are in a compact format that does not describe itself. So types that must ask what they read do not travel:
/// `serde_json::Value`, and those with serde's `untagged`, `tag` or `flatten`; nor do those that leave fields out
/// (`skip_serializing_if`). Send such data as text.
///
/// # What can go wrong
///
/// A task that panics fails, and nothing else does. A worker that dies (killed, aborted, exited, out of memory) costs
/// exactly the task that it was running, whose error names the signal or the exit code; it is replaced, and all other tasks
/// give their results. Nothing waits for ever for what cannot come. If this process ends, in whatever way, the workers end.
///
/// # Where workers come from
///
/// They are forks of this process as it was in [`build`](PoolBuilder::build): they see its globals, open files and
/// environment of that moment. A process of the pool's own, the *supervisor*, forks them and their replacements, and has
/// one thread only. If it dies, another one is forked.
///
/// If other threads exist at `build`, they do not in the workers, and a lock that one of them held at that moment is held
/// there for ever. Allocation, stdout, stderr and this crate are taken care of; what a task does beyond that (the environment,
/// loggers, thread pools made before the fork) is safe only if no other thread was using it just then. So make pools
/// early, before threads; or choose [`StartMethod::Spawn`](crate::StartMethod::Spawn), where workers are forks of a new
/// copy of this program instead.
///
/// In a worker, standard input is empty, SIGINT does nothing, and SIGTERM ends it.
///
/// # Threads
///
/// All methods may be called from several threads at once. The pool has no thread of its own, except while callbacks are
/// outstanding or more than 65,000 tasks are submitted.
///
/// Dropping a pool terminates it.
pub struct Pool {
    shared: Arc<Shared>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

/// What a worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerState {
    /// It has been forked, and runs the initializer.
    Starting,
    /// It waits for tasks.
    Idle,
    /// It runs a task.
    Running,
    /// It has ended, and is about to be replaced.
    Ended,
}

/// One worker of a pool, as it was a moment ago.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerInfo {
    /// Its name, such as `ForkPoolWorker-1`.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// What it is doing.
    pub state: WorkerState,
    /// How many tasks it has run; a batch counts as one.
    pub tasks_done: u64,
}

impl Pool {
    /// Makes a pool with as many workers as there are usable CPUs.
    ///
    /// # Errors
    ///
    /// As [`PoolBuilder::build`].
    pub fn new() -> Result<Pool> {
        Pool::builder().build()
    }

    /// Begins to describe a pool.
    ///
    /// ```no_run
    /// use procession::Pool;
    /// use std::time::Duration;
    ///
    /// let pool = Pool::builder().processes(4).timeout(Duration::from_secs(10)).build()?;
    /// # Ok::<(), procession::Error>(())
    /// ```
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }

    /// What was chosen for this pool.
    pub fn options(&self) -> &PoolOptions {
        &self.shared.options
    }

    /// Runs a function in a worker, and waits for its result.
    ///
    /// # Errors
    ///
    /// As [`AsyncResult::get`]; and if the pool takes no tasks any more ([`Error::is_closed`]) or the argument cannot be
    /// encoded ([`Error::is_codec`]).
    pub fn apply<F, A, R>(&self, function: F, argument: A) -> Result<R>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.apply_async(function, argument)?.get()
    }

    /// Runs a function in a worker, and does not wait for it.
    ///
    /// # Errors
    ///
    /// If the pool takes no tasks any more ([`Error::is_closed`]); if the argument cannot be encoded ([`Error::is_codec`]).
    pub fn apply_async<F, A, R>(&self, function: F, argument: A) -> Result<AsyncResult<R>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned + 'static,
    {
        let job = self.submit(Function::of(function), argument, None, Terms::default())?;
        Ok(AsyncResult::new(self.shared.clone(), job))
    }

    /// As [`apply_async`](Pool::apply_async), and calls one of two functions when the task is done, in a thread of the pool's
    /// that exists as long as such calls are outstanding. They may do anything, also with this pool. After
    /// [`terminate`](Pool::terminate) they are called no more.
    ///
    /// # Errors
    ///
    /// As [`apply_async`](Pool::apply_async); and if no thread can be started.
    pub fn apply_async_with<F, A, R>(
        &self,
        function: F,
        argument: A,
        callback: impl FnOnce(&R) + Send + 'static,
        error_callback: impl FnOnce(&Error) + Send + 'static,
    ) -> Result<AsyncResult<R>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned + Send + 'static,
    {
        let callback = async_result::callback(callback, error_callback);
        let job = self.submit(Function::of(function), argument, Some(callback), Terms::default())?;
        let result = AsyncResult::new(self.shared.clone(), job);
        self.shared.start_helper_if_needed()?;
        Ok(result)
    }

    #[inline]
    fn submit<A: Serialize>(
        &self,
        function: Function,
        argument: A,
        callback: Option<Callback>,
        terms: Terms,
    ) -> Result<u32> {
        self.shared.check_owner()?;
        let shared = &*self.shared;
        let mut scratch = Scratch::new();
        let mut sink = scratch.sink(&shared.channel);
        let mut argument = Some(argument);
        let port = Port::new(shared.channel.clone(), Owner::CALLER);
        let has_parts = loop {
            let encoded = encode_argument(&mut sink, &port.open(), &mut argument);
            match encoded {
                Ok(has_parts) => break has_parts,
                Err(NotEncoded::Full) if self.wait_for_memory() => {}
                Err(failure) => {
                    let (task, reason) = (function.name().to_string(), failure.to_string());
                    return Err(Error::new(Kind::TaskArgument { task, reason }));
                }
            }
        };
        let len = sink.len();
        let fits = Payload::fits(len, 1, has_parts);
        let block = match fits {
            true => {
                drop(sink);
                None
            }
            false => Some(
                sink.into_whole_block()
                    .map_err(|failure| Error::memory(&failure))?,
            ),
        };
        let mut ledger = shared.lock();
        let kind = if has_parts { ARGUMENT_PARTS } else { 0 };
        let payload = match block {
            Some(block) => Payload::Block(block, len as u64),
            None => Payload::Inline(scratch.bytes(len)),
        };
        let function = match ledger.check_open().and_then(|()| ledger.register(function)) {
            Ok(function) => function,
            Err(error) => {
                ledger.throw_away(payload, kind);
                return Err(error);
            }
        };
        let job = ledger.open_job(function, false, callback, terms);
        ledger.submit(job, 0, 1, payload, kind);
        let behind = ledger.has_backlog();
        drop(ledger);
        shared.channel.wake_worker();
        if behind {
            // If it cannot be started, whoever waits for a result does its work.
            let _ = self.shared.start_helper_if_needed();
        }
        Ok(job)
    }

    /// Calls with a time limit or a priority of their own.
    pub fn calls(&self) -> Calls<'_> {
        Calls::of(self)
    }

    /// Cancels everything that is queued or running, as [`AsyncResult::cancel`] does; how many calls that were. The pool goes
    /// on.
    ///
    /// # Errors
    ///
    /// In a forked child, to which the pool does not belong.
    pub fn cancel(&self) -> Result<usize> {
        self.shared.check_owner()?;
        Ok(self.shared.cancel(Ledger::jobs_in_flight))
    }

    /// Waits a moment for results to come back, with their memory; false if there are none to come.
    fn wait_for_memory(&self) -> bool {
        let mut waited = false;
        let waited = self.shared.wait_for(None, |ledger| {
            match (ledger.is_idle(), std::mem::replace(&mut waited, true)) {
                (true, _) => Look::Found(false),
                (false, true) => Look::Found(true),
                (false, false) => Look::Wait {
                    results: 1,
                    at_most: Some(Duration::from_millis(100)),
                },
            }
        });
        waited.unwrap_or(false)
    }

    /// Calls a function with each item, in the workers, and gives the results in the order of the items.
    ///
    /// Short calls travel in batches, whose size follows from how long the calls take; errors, timeouts and deaths stay those
    /// of one item. All items are run, also after one has failed. Several arguments are a tuple.
    ///
    /// # Errors
    ///
    /// What the first item, in their order, has failed with: see [`AsyncResult::get`]. The error names the item's number.
    /// To get the other results as well, use [`imap`](Pool::imap).
    pub fn map<F, I, R>(&self, function: F, items: I) -> Result<Vec<R>>
    where
        F: Fn(I::Item) -> R + Copy + Send + 'static,
        I: IntoIterator,
        I::Item: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.map_on(function, items, Terms::default())
    }

    fn map_on<F, I, R>(&self, function: F, items: I, terms: Terms) -> Result<Vec<R>>
    where
        F: Fn(I::Item) -> R + Copy + Send + 'static,
        I: IntoIterator,
        I::Item: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let size = BatchSize::adaptive(&self.shared);
        map::collect(self.flow(function, items, size, u64::MAX, terms)?)
    }

    /// As [`map`](Pool::map), in batches of so many items.
    ///
    /// # Errors
    ///
    /// As [`map`](Pool::map).
    pub fn map_with_chunks<F, I, R>(&self, function: F, items: I, chunk_items: usize) -> Result<Vec<R>>
    where
        F: Fn(I::Item) -> R + Copy + Send + 'static,
        I: IntoIterator,
        I::Item: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let size = fixed(chunk_items);
        map::collect(self.flow(function, items, size, u64::MAX, Terms::default())?)
    }

    /// As [`map`](Pool::map), and does not wait: all items are read and submitted when this returns.
    ///
    /// # Errors
    ///
    /// If the pool takes no tasks any more ([`Error::is_closed`]).
    pub fn map_async<F, I, R>(&self, function: F, items: I) -> Result<MapResult<R>>
    where
        F: Fn(I::Item) -> R + Copy + Send + 'static,
        I: IntoIterator,
        I::Item: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.map_async_on(function, items, Terms::default())
    }

    fn map_async_on<F, I, R>(&self, function: F, items: I, terms: Terms) -> Result<MapResult<R>>
    where
        F: Fn(I::Item) -> R + Copy + Send + 'static,
        I: IntoIterator,
        I::Item: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let items: Vec<I::Item> = items.into_iter().collect();
        // As many batches as let the workers end at about the same time, without being known how long they take.
        let batches = if self.shared.options.tasks_per_worker.is_some() {
            usize::MAX
        } else {
            4 * self.shared.options.processes
        };
        let size = fixed(items.len().div_ceil(batches));
        let result = MapResult::new(self.flow(function, items, size, u64::MAX, terms)?);
        let _ = self.shared.start_helper_if_needed();
        Ok(result)
    }

    /// As [`map`](Pool::map), and gives each result, in the order of the items, as soon as it is there. Items are read as
    /// results are taken, no more than a [`buffer`](PoolBuilder::buffer) ahead, so there may be endlessly many.
    ///
    /// ```no_run
    /// use procession::Pool;
    ///
    /// let pool = Pool::new()?;
    /// for (n, square) in pool.imap(|x: u64| x * x, 0..)?.enumerate().take(3) {
    ///     println!("{n} squared is {}", square?);
    /// }
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the pool takes no tasks any more ([`Error::is_closed`]). An item that fails is an error of its own, in its place.
    pub fn imap<'a, F, I, R>(&self, function: F, items: I) -> Result<Imap<'a, R>>
    where
        F: Fn(I::Item) -> R + Copy + Send + 'static,
        I: IntoIterator,
        I::IntoIter: 'a,
        I::Item: Serialize + DeserializeOwned + 'a,
        R: Serialize + DeserializeOwned,
    {
        Ok(Imap::new(self.buffered(function, items, Terms::default())?, true))
    }

    /// As [`imap`](Pool::imap), with results in the order in which they come.
    ///
    /// # Errors
    ///
    /// As [`imap`](Pool::imap).
    pub fn imap_unordered<'a, F, I, R>(&self, function: F, items: I) -> Result<Imap<'a, R>>
    where
        F: Fn(I::Item) -> R + Copy + Send + 'static,
        I: IntoIterator,
        I::IntoIter: 'a,
        I::Item: Serialize + DeserializeOwned + 'a,
        R: Serialize + DeserializeOwned,
    {
        Ok(Imap::new(
            self.buffered(function, items, Terms::default())?,
            false,
        ))
    }

    fn buffered<'a, F, I, R>(&self, function: F, items: I, terms: Terms) -> Result<Flow<'a>>
    where
        F: Fn(I::Item) -> R + Copy + Send + 'static,
        I: IntoIterator,
        I::IntoIter: 'a,
        I::Item: Serialize + DeserializeOwned + 'a,
        R: Serialize + DeserializeOwned,
    {
        let buffer = self.shared.options.buffer as u64;
        let size = match BatchSize::adaptive(&self.shared) {
            // So that all workers have something to do, and one batch more each waits.
            BatchSize::Adaptive { batch_ns, most } => {
                let share = buffer / (4 * self.shared.options.processes as u64);
                BatchSize::Adaptive {
                    batch_ns,
                    most: most.min(share.clamp(1, u64::from(u32::MAX)) as u32),
                }
            }
            fixed => fixed,
        };
        self.flow(function, items, size, buffer, terms)
    }

    fn flow<'a, F, I, R>(
        &self,
        function: F,
        items: I,
        size: BatchSize,
        most_items: u64,
        terms: Terms,
    ) -> Result<Flow<'a>>
    where
        F: Fn(I::Item) -> R + Copy + Send + 'static,
        I: IntoIterator,
        I::IntoIter: 'a,
        I::Item: Serialize + DeserializeOwned + 'a,
        R: Serialize + DeserializeOwned,
    {
        Flow::new(
            &self.shared,
            Function::of(function),
            items.into_iter(),
            size,
            most_items,
            terms,
        )
    }

    /// An array of zeros in this pool's shared memory: sent to a worker of this pool, it is not copied at all.
    ///
    /// # Errors
    ///
    /// If there is no memory for it ([`Error::is_out_of_memory`]), or the pool is another process's.
    pub fn array<T: Plain>(&self, len: usize) -> Result<Array<T>> {
        self.shared.check_owner()?;
        Array::zeroed_in(&self.shared.channel, Owner::CALLER, len).map_err(|failure| Error::memory(&failure))
    }

    /// How many bytes of shared memory are in use for data that is too large to travel along with its task: arguments,
    /// results, and arrays of this process and the workers. A hint: it may be outdated when it is returned.
    pub fn shared_memory_in_use(&self) -> u64 {
        self.shared.channel.arena().used_bytes()
    }

    /// The workers at this moment.
    pub fn workers(&self) -> Vec<WorkerInfo> {
        let channel = &self.shared.channel;
        let info = |number| {
            let seat = channel.seat(number);
            let state = match seat.stage.load(Ordering::Acquire) {
                Seat::STARTING => WorkerState::Starting,
                // The current slot may be one that it wanted and did not get.
                Seat::READY if seat.current.load(Ordering::Relaxed) == 0 || channel.worker_sleeps(number) => {
                    WorkerState::Idle
                }
                Seat::READY => WorkerState::Running,
                Seat::ENDED => WorkerState::Ended,
                _ => return None,
            };
            Some(WorkerInfo {
                name: worker_name(seat.number.load(Ordering::Relaxed)),
                pid: seat.pid.load(Ordering::Relaxed),
                state,
                tasks_done: seat.items_done.load(Ordering::Relaxed),
            })
        };
        (0..channel.geometry().seats).filter_map(info).collect()
    }

    /// What happens in the pool from now on: tasks begun and done, workers that come and go. Read it in a thread of its own,
    /// or now and then by [`Events::try_next`].
    ///
    /// ```
    /// use procession::{Pool, What};
    ///
    /// let pool = Pool::builder().processes(1).build()?;
    /// let mut events = pool.events()?;
    /// assert_eq!(pool.map(|x: u32| x + 1, [1, 2])?, [2, 3]);
    /// let items: Vec<_> = std::iter::from_fn(|| events.try_next())
    ///     .filter(|event| event.what == What::Finished)
    ///     .map(|event| event.item)
    ///     .collect();
    /// assert_eq!(items, [Some(0), Some(1)]);
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the pool is another process's.
    pub fn events(&self) -> Result<Events> {
        self.shared.check_owner()?;
        Ok(Events::of(self.shared.channel.clone()))
    }

    /// Where the pool's time has gone, function by function. Costs nothing worth mentioning: counts are kept in any case, and
    /// only some tasks are timed. [`hints`](crate::pool::stats::hints) says in words what could be done better. Seconds of encoding
    /// are not measured here.
    ///
    /// ```
    /// use procession::Pool;
    ///
    /// fn double(x: u64) -> u64 {
    ///     2 * x
    /// }
    ///
    /// let pool = Pool::builder().processes(1).build()?;
    /// pool.map(double, 0..1000)?;
    /// let stats = &pool.stats()?[0];
    /// assert!(stats.function.ends_with("double"));
    /// assert_eq!((stats.items, stats.failed, stats.lost), (1000, 0, 0));
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the pool is another process's.
    pub fn stats(&self) -> Result<Vec<FunctionStats>> {
        self.shared.check_owner()?;
        Ok(self.shared.lock().stats())
    }

    /// Takes no more tasks. Those that were submitted are run; then the workers end. [`join`](Pool::join) waits for that.
    pub fn close(&self) {
        if self.shared.is_owner() {
            self.shared.close();
        }
    }

    /// Ends the workers at once, in the middle of their tasks: SIGTERM, a moment later SIGKILL. They have ended when this
    /// returns. What was not done fails ([`Error::is_terminated`]); results that had come are there. May be called from
    /// anywhere, also twice.
    pub fn terminate(&self) {
        if self.shared.is_owner() {
            self.shared.terminate();
        }
    }

    /// Waits until all workers have ended, after [`close`](Pool::close) or [`terminate`](Pool::terminate).
    ///
    /// An `imap` of the calling thread that was not read to its end does not keep it waiting: it reads no further.
    ///
    /// # Errors
    ///
    /// If neither was called ([`Error::is_still_running`]).
    pub fn join(&self) -> Result<()> {
        self.shared.check_owner()?;
        self.shared.join()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.terminate();
    }
}

fn fixed(chunk_items: usize) -> BatchSize {
    BatchSize::Fixed(u32::try_from(chunk_items).unwrap_or(u32::MAX).max(1))
}
