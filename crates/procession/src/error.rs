use crate::os::process::ExitStatus;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What [`Error`] is the error of.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in this crate.
///
/// Programs ask it questions ([`is_timeout`](Error::is_timeout), [`is_worker_died`](Error::is_worker_died) …); people read
/// it: `{}` prints what went wrong, `{:#}` and `{:?}` print the chain of causes as well. Cloning is cheap.
///
/// ```
/// use procession::Process;
///
/// let error = Process::new(|| ()).join().unwrap_err();
/// assert!(error.is_not_started());
/// assert_eq!(error.to_string(), "process Process-1 has not been started: call start() first");
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

type Cause = Box<dyn std::error::Error + Send + Sync>;

struct Inner {
    kind: Kind,
    cause: Option<Cause>,
    output: String,
    attempts: u32,
}

/// Declares the kinds: one line each, with the text that people read.
macro_rules! kinds {
    ($($name:ident $({ $($field:ident: $type:ty),+ })? => $text:literal;)+) => {
        /// What went wrong. Private, so that kinds can be added and changed: the public face is the predicates.
        #[derive(Debug)]
        pub(crate) enum Kind {
            $($name $({ $($field: $type),+ })?,)+
        }

        impl fmt::Display for Kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Kind::$name $({ $($field),+ })? => {
                        // A text need not tell everything.
                        $($(let _ = $field;)+)?
                        write!(f, $text)
                    })+
                }
            }
        }
    };
}

kinds! {
    Os { action: &'static str } => "cannot {action}";
    Timeout { what: String, limit: Duration } => "{what} took longer than {limit:?}";
    AlreadyStarted { process: String } => "process {process} was started already: a process starts only once";
    NotStarted { process: String } => "process {process} has not been started: call start() first";
    NotOwner { process: String, parent: u32 } => "process {process} belongs to the process with pid {parent}: only that one can start, watch and end it";
    Threads { threads: String } => "this process has {threads} threads, and fork would copy only the calling one: fork earlier, or start a task!() instead of a closure";
    NotInitialised => "procession::init() was not called: call it in the first line of main(), where started tasks begin";
    UnknownTask { task: String } => "unknown task {task}: is its crate linked into this program?";
    AmbiguousTask { task: String } => "several tasks are called {task}: is its crate linked in two versions?";
    OtherBuild { ours: String, theirs: String } => "the started program is another build ({theirs}) than this one ({ours})";
    NoAnswer { process: String } => "process {process} does not speak as a started task does: does main() call procession::init() in its first line?";
    Arguments { task: String } => "cannot encode or decode the arguments of task {task}";
    DiedAtStart { process: String, status: ExitStatus } => "process {process} {status} before its task began: does main() call procession::init() in its first line?";
    WorkerDied { worker: String, pid: u32, status: ExitStatus, task: String } => "worker {worker} (pid {pid}) {status} while running {task}";
    TaskTimeout { task: String, pid: u32, elapsed: Duration, limit: Duration } => "task {task} was killed after {elapsed:.1?}: it may run for {limit:?} (worker pid {pid})";
    MemoryLimit { task: String, pid: u32, peak_bytes: u64, limit_bytes: u64 } => "task {task} was killed at {peak_bytes} bytes of memory: a worker may have {limit_bytes} (worker pid {pid})";
    TaskCancelled { task: String } => "task {task} was cancelled";
    TaskPanicked { task: String, message: String, location: String, backtrace: String } => "task {task} panicked at {location}: {message}";
    TaskArgument { task: String, reason: String } => "cannot encode or decode the argument of task {task}: {reason}";
    TaskResult { task: String, reason: String } => "cannot encode or decode the result of task {task}: {reason}";
    Damaged { task: String } => "the shared memory of task {task} is damaged: did a task write beyond its own memory?";
    PoolOptions { problem: String } => "a pool cannot be made: {problem}";
    PoolClosed => "the pool is closed: it takes no more tasks";
    PoolRunning => "the pool is still running: call close() or terminate() before join()";
    PoolTerminated => "the pool was terminated before the task was done";
    PoolBroken { reason: String } => "the pool cannot have workers: {reason}";
    PoolNotOwner { parent: u32 } => "the pool belongs to the process with pid {parent}: a forked child cannot use it, but make one of its own";
    ResultTaken => "the result was taken before: get it only once";
    Memory { reason: String } => "shared memory cannot be had: {reason}";
    FunctionElsewhere { task: String } => "the function {task} lies in a shared library, where spawned workers cannot find it: use the start method fork";
    TooManyFunctions { most: u32 } => "a pool can be given at most {most} different functions";
    LockPoisoned { reason: String } => "{reason}";
    LockNotFree => "the lock was not free in time";
    Deadlock { deadlock: String } => "{deadlock}";
    BarrierBroken { reason: String } => "{reason}";
    StatusLost { process: String } => "the exit status of process {process} is lost: somebody else reaped it (is SIGCHLD ignored, or waitpid(-1) called?)";
}

/// Why a value does not travel, in words of those who have never heard of its encoding.
pub(crate) fn codec_reason(error: &postcard::Error) -> String {
    match error {
        postcard::Error::WontImplement | postcard::Error::SerializeSeqLengthUnknown => {
            "its type needs a format that describes itself, as serde_json::Value and types with serde's untagged, tag or \
             flatten do: send a plain struct or enum, or text in such a format"
                .to_owned()
        }
        postcard::Error::SerdeSerCustom => "its Serialize refuses".to_owned(),
        postcard::Error::SerdeDeCustom => "its Deserialize refuses what Serialize has written".to_owned(),
        postcard::Error::CollectStrError => "its Display fails".to_owned(),
        postcard::Error::SerializeBufferFull => error.to_string(),
        _ => format!(
            "its Deserialize does not read what Serialize has written; is a field left out, as by skip_serializing_if? \
             ({error})"
        ),
    }
}

impl Error {
    pub(crate) fn new(kind: Kind) -> Error {
        Error(Arc::new(Inner {
            kind,
            cause: None,
            output: String::new(),
            attempts: 1,
        }))
    }

    pub(crate) fn caused_by(kind: Kind, cause: impl Into<Cause>) -> Error {
        Error(Arc::new(Inner {
            kind,
            cause: Some(cause.into()),
            output: String::new(),
            attempts: 1,
        }))
    }

    /// Adds how often the task was tried that this new error is about.
    pub(crate) fn with_attempts(mut self, attempts: u32) -> Error {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.attempts = attempts;
        }
        self
    }

    /// Adds what the task had written that this new error is about.
    pub(crate) fn with_output(mut self, output: String) -> Error {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.output = output;
        }
        self
    }

    /// Gives an error of the operating system the name of what was tried: `map_err(Error::os("fork"))`.
    pub(crate) fn os(action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        move |cause| Error::caused_by(Kind::Os { action }, cause)
    }

    pub(crate) fn memory(failure: &crate::shm::AllocError) -> Error {
        Error::new(Kind::Memory {
            reason: failure.to_string(),
        })
    }

    pub(crate) fn kind(&self) -> &Kind {
        &self.0.kind
    }

    /// Whether something took longer than the caller wanted to wait.
    pub fn is_timeout(&self) -> bool {
        matches!(self.kind(), Kind::Timeout { .. } | Kind::LockNotFree)
    }

    /// Whether what a lock guards may be half changed, as a process has died or a thread has panicked while it held the lock
    /// ([`LockError::Poisoned`](crate::sync::LockError::Poisoned)).
    pub fn is_lock_poisoned(&self) -> bool {
        matches!(self.kind(), Kind::LockPoisoned { .. })
    }

    /// Whether a wait for a lock would never have ended ([`Deadlock`](crate::sync::waits::Deadlock)).
    pub fn is_deadlock(&self) -> bool {
        matches!(self.kind(), Kind::Deadlock { .. })
    }

    /// Whether a [`Barrier`](crate::sync::Barrier) is broken.
    pub fn is_barrier_broken(&self) -> bool {
        matches!(self.kind(), Kind::BarrierBroken { .. })
    }

    /// Whether the process that should have done the work died.
    pub fn is_worker_died(&self) -> bool {
        matches!(self.kind(), Kind::DiedAtStart { .. } | Kind::WorkerDied { .. })
    }

    /// Whether a task ran beyond its limit ([`PoolBuilder::timeout`](crate::PoolBuilder::timeout)), so that its worker was
    /// killed. That the caller does not want to wait any longer is [`is_timeout`](Error::is_timeout).
    pub fn is_task_timeout(&self) -> bool {
        matches!(self.kind(), Kind::TaskTimeout { .. })
    }

    /// Whether a task took more memory than a worker may have ([`PoolBuilder::memory_limit`](crate::PoolBuilder::memory_limit)),
    /// so that its worker was killed.
    pub fn is_memory_limit(&self) -> bool {
        matches!(self.kind(), Kind::MemoryLimit { .. })
    }

    /// Whether a task was cancelled ([`AsyncResult::cancel`](crate::AsyncResult::cancel)).
    pub fn is_cancelled(&self) -> bool {
        matches!(self.kind(), Kind::TaskCancelled { .. })
    }

    /// Whether a task panicked.
    pub fn is_task_panicked(&self) -> bool {
        matches!(self.kind(), Kind::TaskPanicked { .. })
    }

    /// Whether an argument or a result could not be encoded or decoded.
    pub fn is_codec(&self) -> bool {
        matches!(
            self.kind(),
            Kind::Arguments { .. } | Kind::TaskArgument { .. } | Kind::TaskResult { .. }
        )
    }

    /// Whether the thing asked for was closed or terminated before.
    pub fn is_closed(&self) -> bool {
        matches!(self.kind(), Kind::PoolClosed | Kind::PoolTerminated)
    }

    /// Whether the pool was terminated before the task was done.
    pub fn is_terminated(&self) -> bool {
        matches!(self.kind(), Kind::PoolTerminated)
    }

    /// Whether the pool cannot have workers: its initializer panicked, or they end before they are ready.
    pub fn is_broken(&self) -> bool {
        matches!(self.kind(), Kind::PoolBroken { .. })
    }

    /// Whether a pool was joined before it was closed or terminated.
    pub fn is_still_running(&self) -> bool {
        matches!(self.kind(), Kind::PoolRunning)
    }

    /// Whether an option has a value that makes no sense.
    pub fn is_bad_option(&self) -> bool {
        matches!(self.kind(), Kind::PoolOptions { .. })
    }

    /// Whether there was not enough shared memory.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self.kind(), Kind::Memory { .. })
    }

    /// The number of the worker that ran the task, if the error is about one that ended.
    pub fn worker_pid(&self) -> Option<u32> {
        match self.kind() {
            Kind::WorkerDied { pid, .. } | Kind::TaskTimeout { pid, .. } | Kind::MemoryLimit { pid, .. } => {
                Some(*pid)
            }
            _ => None,
        }
    }

    /// The task that the error is about: its function, and for items of `map` or `imap` their number.
    pub fn task(&self) -> Option<&str> {
        match self.kind() {
            Kind::WorkerDied { task, .. }
            | Kind::TaskTimeout { task, .. }
            | Kind::MemoryLimit { task, .. }
            | Kind::TaskCancelled { task }
            | Kind::TaskPanicked { task, .. }
            | Kind::TaskArgument { task, .. }
            | Kind::TaskResult { task, .. }
            | Kind::Damaged { task } => Some(task),
            _ => None,
        }
    }

    /// What a task said when it panicked.
    pub fn panic_message(&self) -> Option<&str> {
        match self.kind() {
            Kind::TaskPanicked { message, .. } => Some(message),
            _ => None,
        }
    }

    /// Where a task was when it panicked, call by call, if `RUST_BACKTRACE` is set.
    pub fn panic_backtrace(&self) -> Option<&str> {
        match self.kind() {
            Kind::TaskPanicked { backtrace, .. } => Some(backtrace)
                .filter(|text| !text.is_empty())
                .map(|text| text.as_str()),
            _ => None,
        }
    }

    /// What the task had written to its standard output and error when it panicked or was killed, if the pool keeps that
    /// ([`PoolBuilder::output`](crate::PoolBuilder::output)). Of more than 1 MiB the end.
    pub fn output(&self) -> Option<&str> {
        Some(self.0.output.as_str()).filter(|text| !text.is_empty())
    }

    /// How often the task was tried: more than once only if the pool tries again
    /// ([`PoolBuilder::retries`](crate::PoolBuilder::retries)).
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// Whether this cannot be done here, whatever is tried again: on this system, or in a process with several threads.
    pub fn is_unsupported(&self) -> bool {
        match self.kind() {
            Kind::Threads { .. } => true,
            _ => self
                .io_error()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::Unsupported),
        }
    }

    /// Whether a process that has not been started was asked for something that only a started one has.
    pub fn is_not_started(&self) -> bool {
        matches!(self.kind(), Kind::NotStarted { .. })
    }

    /// Whether a process was to be started for the second time.
    pub fn is_already_started(&self) -> bool {
        matches!(self.kind(), Kind::AlreadyStarted { .. })
    }

    /// Whether the thing belongs to another process, as a handle does that was inherited through a fork.
    pub fn is_not_owner(&self) -> bool {
        matches!(self.kind(), Kind::NotOwner { .. } | Kind::PoolNotOwner { .. })
    }

    /// Whether a process has ended, but how it ended cannot be known any more.
    pub fn is_status_lost(&self) -> bool {
        matches!(self.kind(), Kind::StatusLost { .. })
    }

    /// How the process ended that this error is about, if it is about one that ended.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        match self.kind() {
            Kind::DiedAtStart { status, .. } | Kind::WorkerDied { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The operating system's error behind this one, if there is one.
    pub fn io_error(&self) -> Option<&std::io::Error> {
        self.0.cause.as_ref()?.downcast_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind().fmt(f)?;
        if self.attempts() > 1 {
            write!(f, " (attempt {})", self.attempts())?;
        }
        if f.alternate() {
            let mut cause = std::error::Error::source(self);
            while let Some(error) = cause {
                write!(f, ": {error}")?;
                cause = error.source();
            }
        }
        Ok(())
    }
}

/// The text with its causes, as `main` prints a returned error by `{:?}`.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:#}")
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0
            .cause
            .as_deref()
            .map(|cause| cause as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;
    use std::io;

    #[test]
    fn causes_are_chained_and_the_system_error_is_found() {
        let error = Error::os("fork")(io::Error::from(io::ErrorKind::WouldBlock));
        assert_eq!(error.to_string(), "cannot fork");
        assert_eq!(format!("{error:#}"), format!("{error:?}"));
        assert!(format!("{error:#}").starts_with("cannot fork: "));
        assert_eq!(error.io_error().unwrap().kind(), io::ErrorKind::WouldBlock);
        assert!(error.source().is_some());
        assert!(!error.is_timeout() && !error.is_unsupported());
        assert!(Error::os("open a pidfd")(io::Error::from(io::ErrorKind::Unsupported)).is_unsupported());
    }

    #[test]
    fn fields_are_told() {
        let error = Error::new(Kind::Timeout {
            what: "joining".into(),
            limit: Duration::from_millis(1500),
        });
        assert!(error.is_timeout());
        assert_eq!(error.clone().to_string(), "joining took longer than 1.5s");
    }
}
