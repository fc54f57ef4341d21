use std::ffi::OsString;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use super::function::keep_panics_of_tasks;
use super::ledger::{timeout_ms, Ledger, NAME_PREFIX};
use super::lifecycle::Shared;
use super::start::{Initializer, Starter};
use super::Pool;
use crate::channel::{Channel, Geometry};
use crate::error::{Error, Kind, Result};
use crate::options::{Output, PoolOptions, StartMethod};
use crate::os::event::Event;
use crate::pool::waiter::Waiter;

const MOST_PROCESSES: usize = 2040;

/// How a [`Pool`] is described before it is made: see [`Pool::builder`].
#[derive(Clone, Default)]
#[must_use = "a builder does nothing until build() is called"]
pub struct PoolBuilder {
    options: PoolOptions,
    initializer: Option<Initializer>,
    arguments: Option<Vec<OsString>>,
}

impl fmt::Debug for PoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let initializer = self.initializer.is_some();
        f.debug_struct("PoolBuilder")
            .field("options", &self.options)
            .field("initializer", &initializer)
            .finish()
    }
}

impl PoolBuilder {
    /// Sets everything at once, except the initializer.
    pub fn options(mut self, options: PoolOptions) -> Self {
        self.options = options;
        self
    }

    /// How many worker processes the pool has: as many as there are usable CPUs ([`cpu_count`](crate::cpu_count)), if not
    /// set. At most 2040.
    pub fn processes(mut self, processes: usize) -> Self {
        self.options.processes = processes;
        self
    }

    /// How the workers come about: by fork, if not set.
    ///
    /// With [`StartMethod::Spawn`] they are forks of a new copy of this program, which knows nothing of this process's memory
    /// and has one thread; so it does not matter what other threads do meanwhile. It needs [`init`](crate::init) as the first
    /// line of `main`, and functions and an initializer from this program's own file, that capture nothing.
    ///
    /// ```no_run
    /// use procession::{Pool, StartMethod};
    ///
    /// fn main() -> procession::Result<()> {
    ///     procession::init();
    ///     let pool = Pool::builder().start_method(StartMethod::Spawn).build()?;
    ///     println!("{}", pool.apply(|x: u64| x * x, 7)?);
    ///     Ok(())
    /// }
    /// ```
    pub fn start_method(mut self, method: StartMethod) -> Self {
        self.options.start_method = method;
        self
    }

    /// With [`StartMethod::Spawn`], the arguments (after the program's name) with which this program is executed again; the
    /// same ones as this process has, if not set.
    ///
    /// Where `main` is not yours, as in `cargo test`, they lead the program to the place that calls
    /// [`init`](crate::init): `["name_of_a_test_that_calls_init", "--exact", "--nocapture"]`.
    pub fn arguments<S: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments = Some(arguments.into_iter().map(Into::into).collect());
        self
    }

    /// What each new worker calls before its first task. If it panics, the pool is broken: whoever waits for a result, and
    /// whoever submits a task, gets an error with the panic's message ([`Error::is_broken`]).
    ///
    /// ```no_run
    /// use procession::Pool;
    ///
    /// let pool = Pool::builder().initializer(|| println!("worker {} is here", std::process::id())).build()?;
    /// # Ok::<(), procession::Error>(())
    /// ```
    pub fn initializer(mut self, initializer: impl Fn() + Send + Sync + 'static) -> Self {
        self.initializer = Some(Initializer::new(initializer));
        self
    }

    /// How many tasks a worker runs before it is replaced by a fresh one (no limit, if not set). A batch, as in
    /// [`Pool::map_with_chunks`], counts as one task; with a limit, [`Pool::map`] makes no batches.
    pub fn tasks_per_worker(mut self, tasks: u64) -> Self {
        self.options.tasks_per_worker = Some(tasks);
        self
    }

    /// How long a task may run (no limit, if not set), counted from its beginning, for each item of a batch on its own.
    /// Then its worker is killed, and the task fails ([`Error::is_task_timeout`]). Kept to the millisecond.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.options.timeout = Some(limit);
        self
    }

    /// How many bytes of memory of its own a worker may have (no limit, if not set). One that has more is killed, also in
    /// the midst of a task, which then fails ([`Error::is_memory_limit`]). Memory is looked at every 50 ms, or every 5 ms
    /// while a worker has used more than half of it. What it inherited by its fork, and shared memory, do not count.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.options.memory_limit = Some(bytes);
        self
    }

    /// With how many bytes of memory of its own a worker is replaced by a fresh one (no limit, if not set), after the task
    /// that it runs: for tasks that leak.
    pub fn recycle_memory(mut self, bytes: u64) -> Self {
        self.options.recycle_memory = Some(bytes);
        self
    }

    /// How often a task is tried again, at once, whose worker died, or was killed because it ran too long or took too much memory
    /// (never, if not set); of a batch, that item alone. A panic is the task's own answer, and tasks with an
    /// [`Array`](crate::Array) among their arguments may have changed it: both are not tried again.
    ///
    /// After the last attempt the task fails as it would without ([`Error::attempts`] tells how many there were).
    ///
    /// ```
    /// use procession::Pool;
    ///
    /// let pool = Pool::builder().processes(1).retries(2).build()?;
    /// let error = pool.apply(|()| std::process::abort(), ()).map(|_: ()| ()).unwrap_err();
    /// assert!(error.is_worker_died());
    /// assert_eq!(error.attempts(), 3);
    /// # Ok::<(), procession::Error>(())
    /// ```
    pub fn retries(mut self, times: u32) -> Self {
        self.options.retries = times;
        self
    }

    /// Where that goes what tasks write to their standard output and error (where this process writes, if not set).
    ///
    /// With [`Output::Capture`] it is kept while the task runs, whoever writes: Rust, C, programs that the task has started. If
    /// the task panics or its worker is killed, its error has it ([`Error::output`]).
    ///
    /// ```
    /// use procession::{Output, Pool};
    ///
    /// let pool = Pool::builder().processes(1).output(Output::Capture).build()?;
    /// let error = pool.apply(|x: i32| { println!("given {x}"); 1 / x }, 0).unwrap_err();
    /// assert_eq!(error.output(), Some("given 0\n"));
    /// # Ok::<(), procession::Error>(())
    /// ```
    pub fn output(mut self, output: Output) -> Self {
        self.options.output = output;
        self
    }

    /// How long the batches are to run that `map` and `imap` make of short tasks (0.4 ms). Longer ones cost less on the
    /// way; shorter ones spread tasks of very different durations more evenly.
    pub fn batch_time(mut self, time: Duration) -> Self {
        self.options.batch_time = time;
        self
    }

    /// How many items `imap` and `imap_unordered` read ahead of what was taken from them (2048).
    pub fn buffer(mut self, items: usize) -> Self {
        self.options.buffer = items;
        self
    }

    /// How many bytes of shared memory the large arguments and results of a `map` or `imap` may fill before it reads no
    /// further (1 GiB).
    pub fn buffer_bytes(mut self, bytes: u64) -> Self {
        self.options.buffer_bytes = bytes;
        self
    }

    /// How many bytes of shared memory that are out of use are kept for the next large data (256 MiB).
    pub fn idle_bytes(mut self, bytes: u64) -> Self {
        self.options.idle_bytes = bytes;
        self
    }

    /// Makes the pool. Its workers begin to start; they are forks of this process as it is now (see [`Pool`]).
    ///
    /// # Errors
    ///
    /// If an option makes no sense ([`Error::is_bad_option`]); if the system refuses a process, a descriptor or memory.
    pub fn build(self) -> Result<Pool> {
        let PoolBuilder {
            options,
            initializer,
            arguments,
        } = self;
        check(&options)?;
        let starter = Starter::new(&options, initializer, arguments);
        starter.check()?;
        keep_panics_of_tasks();
        let workers = options.processes as u32;
        let channel = Channel::create(Geometry::for_workers(workers), options.idle_bytes);
        let channel = Arc::new(channel.map_err(Error::os("make shared memory"))?);
        let life = &channel.header().life;
        life.workers.store(workers, Ordering::Relaxed);
        life.tasks_per_worker
            .store(options.tasks_per_worker.unwrap_or(0), Ordering::Relaxed);
        life.memory_limit
            .store(options.memory_limit.unwrap_or(0), Ordering::Relaxed);
        life.recycle_memory
            .store(options.recycle_memory.unwrap_or(0), Ordering::Relaxed);
        life.capture
            .store(u32::from(options.output == Output::Capture), Ordering::Relaxed);
        life.shortest_timeout_ms
            .store(timeout_ms(options.timeout), Ordering::Relaxed);
        channel.header().watch.describe(
            NAME_PREFIX,
            1,
            match options.start_method {
                StartMethod::Fork => "fork",
                StartMethod::Spawn => "spawn",
            },
        );
        let ledger = Ledger::new(
            channel.clone(),
            options.timeout,
            options.start_method == StartMethod::Spawn,
            options.retries,
        )
        .map_err(Error::os("allocate memory for a pool"))?;
        let results = Event::new().map_err(Error::os("make an event"))?;
        let waiter = Waiter::new(channel.clone(), ledger.dispatcher.taken(), results);
        let lines = starter.start(&channel, waiter.results())?;
        waiter.set_lines(Some(Arc::new(lines)));
        Ok(Pool {
            shared: Arc::new(Shared::new(channel, waiter, ledger, options, starter)),
        })
    }
}

fn check(options: &PoolOptions) -> Result<()> {
    let problem = match options {
        PoolOptions { processes: 0, .. } => "it needs 1 process at least, not 0".to_string(),
        PoolOptions { processes, .. } if *processes > MOST_PROCESSES => {
            format!("it can have {MOST_PROCESSES} processes at most, not {processes}")
        }
        PoolOptions {
            tasks_per_worker: Some(0),
            ..
        } => "a worker must run 1 task at least before it is replaced, not 0".into(),
        PoolOptions {
            timeout: Some(Duration::ZERO),
            ..
        } => "a timeout of 0 leaves a task no time to run".into(),
        PoolOptions {
            memory_limit: Some(0),
            ..
        }
        | PoolOptions {
            recycle_memory: Some(0),
            ..
        } => "with 0 bytes of memory no task can run".into(),
        PoolOptions { buffer: 0, .. } => "a buffer of 0 items lets nothing run".into(),
        _ => return Ok(()),
    };
    Err(Error::new(Kind::PoolOptions { problem }))
}
