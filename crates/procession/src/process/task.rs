//! Starting a process by executing this program again: the registry of tasks, and how both sides speak at the start.
//!
//! The new process finds a socket as its standard input. It reads one [`Hello`], says in one [`Answer`] whether it can do
//! what is asked, and keeps the socket: when it hangs up, the parent has died. Each message is a length (4 bytes, little
//! endian) and that many bytes of postcard.

use super::family::{self, family, lock};
use super::forking::{die_with_parent, limit_to, run};
use super::keeper::Keeper;
use super::{Child, Outcome, Process, Shared, Target};
use crate::error::{codec_reason, Error, Kind, Result};
use crate::os::process as os;
use linkme::distributed_slice;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::env;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Set for the new process alone: [`init`](crate::init) removes it.
const MARKER: &str = "PROCESSION_TASK";

/// More than any honest message; what claims to be longer is somebody else's language.
const MESSAGE_LIMIT_BYTES: u32 = 1 << 30;

/// A function that can be started by name in a new copy of this program. Declared by [`task!`](crate::task), not by hand.
pub trait Task {
    /// The types of its arguments, as a tuple.
    type Arguments: Serialize + DeserializeOwned;
    /// Its path, as `my_program::jobs::read_file`.
    const NAME: &'static str;
}

/// A task with its arguments: called, it gives the exit code.
type Call = Box<dyn FnOnce() -> i32>;

/// A registered task. Public for [`task!`](crate::task) only.
#[doc(hidden)]
#[derive(Debug)]
pub struct TaskEntry {
    pub name: &'static str,
    pub decode: fn(&[u8]) -> postcard::Result<Call>,
}

#[doc(hidden)]
#[distributed_slice]
pub static TASKS: [TaskEntry];

/// A function called with a tuple. Public for [`task!`](crate::task) only.
#[doc(hidden)]
pub trait Callable<Arguments>: Copy + 'static {
    fn call(self, arguments: Arguments) -> i32;

    fn decode(self, bytes: &[u8]) -> postcard::Result<Call>
    where
        Arguments: DeserializeOwned + 'static,
    {
        let arguments = postcard::from_bytes(bytes)?;
        Ok(Box::new(move || self.call(arguments)))
    }
}

macro_rules! callable {
    ($($type:ident $value:ident),*) => {
        impl<R: Outcome + 'static, $($type: 'static),*> Callable<($($type,)*)> for fn($($type),*) -> R {
            fn call(self, ($($value,)*): ($($type,)*)) -> i32 {
                self($($value),*).exit_code()
            }
        }
    };
}

callable!();
callable!(A a);
callable!(A a, B b);
callable!(A a, B b, C c);
callable!(A a, B b, C c, D d);
callable!(A a, B b, C c, D d, E e);
callable!(A a, B b, C c, D d, E e, F f);
callable!(A a, B b, C c, D d, E e, F f, G g);
callable!(A a, B b, C c, D d, E e, F f, G g, H h);

/// Registers a function as a task, so that [`Process::task`](crate::Process::task) can start it in a new copy of this
/// program.
///
/// Say the function's name and type; up to eight arguments, all of which serde can serialize and deserialize, and a return
/// value that is an [`Outcome`]. The task is then known by the function's own name, used as a type.
///
/// ```no_run
/// use procession::Process;
///
/// fn greet(name: String, times: u32) {
///     (0..times).for_each(|_| println!("hello, {name}"));
/// }
/// procession::task!(greet: fn(String, u32));
///
/// fn main() -> procession::Result<()> {
///     procession::init();
///     let process = Process::task::<greet>(("bob".to_owned(), 3));
///     process.start()?;
///     process.join()?;
///     Ok(())
/// }
/// ```
#[macro_export]
macro_rules! task {
    ($visibility:vis $name:ident: fn($($argument:ty),* $(,)?) $(-> $result:ty)?) => {
        #[doc = concat!("The function of the same name, as a task.")]
        #[allow(non_camel_case_types)]
        $visibility enum $name {}

        impl $crate::process::Task for $name {
            type Arguments = ($($argument,)*);
            const NAME: &'static str = concat!(module_path!(), "::", stringify!($name));
        }

        const _: () = {
            #[$crate::__private::linkme::distributed_slice($crate::process::TASKS)]
            #[linkme(crate = $crate::__private::linkme)]
            static TASK: $crate::process::TaskEntry = $crate::process::TaskEntry {
                name: <$name as $crate::process::Task>::NAME,
                decode: |bytes| $crate::process::Callable::decode($name as fn($($argument),*) $(-> $result)?, bytes),
            };
        };
    };
}

/// A task that is to be started.
pub(super) struct Launch {
    pub task: &'static str,
    pub task_arguments: Result<Vec<u8>>,
    pub program_arguments: Option<Vec<OsString>>,
    pub timeout: Duration,
}

pub(super) fn encode<T: Task>(arguments: &T::Arguments) -> Result<Vec<u8>> {
    let task = || T::NAME.to_owned();
    postcard::to_stdvec(arguments)
        .map_err(|error| Error::caused_by(Kind::Arguments { task: task() }, codec_reason(&error)))
}

/// The first thing a new process is told. Begins with what lets it recognise another build, before anything that could
/// have changed its form.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    build: String,
    parent_pid: u32,
    name: String,
    identity: Vec<u32>,
    daemon: bool,
    limit: Option<Duration>,
    task: String,
    arguments: Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Begins,
    OtherBuild { build: String },
    UnknownTask,
    AmbiguousTask,
    BadArguments { reason: String },
}

/// What tells one build of a program from another: this crate's version and, if the linker wrote one, the build id.
pub(crate) fn build() -> String {
    let id: String = os::build_id()
        .unwrap_or_default()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("procession {} build {id}", env!("CARGO_PKG_VERSION"))
}

fn find(name: &str) -> std::result::Result<&'static TaskEntry, Answer> {
    let mut found = TASKS.iter().filter(|entry| entry.name == name);
    match (found.next(), found.next()) {
        (Some(entry), None) => Ok(entry),
        (None, _) => Err(Answer::UnknownTask),
        (Some(_), Some(_)) => Err(Answer::AmbiguousTask),
    }
}

fn message(content: &impl Serialize) -> postcard::Result<Vec<u8>> {
    let content = postcard::to_stdvec(content)?;
    let length = u32::try_from(content.len())
        .ok()
        .filter(|length| *length <= MESSAGE_LIMIT_BYTES);
    let length = length.ok_or(postcard::Error::SerializeBufferFull)?;
    Ok([&length.to_le_bytes(), content.as_slice()].concat())
}

fn invalid(problem: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

fn read_message<M: DeserializeOwned>(socket: &mut impl Read) -> io::Result<M> {
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > MESSAGE_LIMIT_BYTES {
        return Err(invalid("message too long"));
    }
    let mut content = Vec::new();
    socket.take(length.into()).read_to_end(&mut content)?;
    if content.len() < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    postcard::from_bytes(&content).map_err(invalid)
}

static INITIALISED: AtomicBool = AtomicBool::new(false);

/// Refuses to execute this program again if that would run `main` instead of what is wanted.
pub(crate) fn check_initialised() -> Result<()> {
    match INITIALISED.load(Ordering::Acquire) {
        true => Ok(()),
        false => Err(Error::new(Kind::NotInitialised)),
    }
}

/// The command that executes this program again, with these arguments or its own.
pub(crate) fn this_program(arguments: Option<&[OsString]>) -> Command {
    // By the link, which leads to the running program even if its file has been replaced.
    let mut command = Command::new("/proc/self/exe");
    let mut ours = env::args_os();
    command.arg0(ours.next().unwrap_or_else(|| "procession-task".into()));
    match arguments {
        Some(arguments) => command.args(arguments),
        None => command.args(ours),
    };
    command
}

/// Notes that the program calls [`init`](crate::init), as it must before it starts tasks.
pub(crate) fn mark_initialised() {
    INITIALISED.store(true, Ordering::Release);
}

/// In a process that was started for a task: runs it and exits. Elsewhere: nothing.
pub(crate) fn begin_if_task() {
    if env::var_os(MARKER).is_none() {
        return;
    }
    // Programs that the task starts are no tasks.
    env::remove_var(MARKER);
    match receive() {
        Ok((name, task, keeper)) => {
            let code = run(&name, task);
            drop(keeper);
            std::process::exit(code)
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "cannot begin as a task: {error}");
            std::process::exit(1)
        }
    }
}

fn receive() -> io::Result<(String, Call, Option<Keeper>)> {
    let mut socket = UnixStream::from(os::take_stdin()?);
    let hello: Hello = read_message(&mut socket)?;
    let task = accept(&hello);
    let (Ok(answer) | Err(answer)) = task.as_ref().map(|_| &Answer::Begins);
    socket.write_all(&message(answer).map_err(invalid)?)?;
    match task {
        Ok(task) => {
            // The file that was executed is called "exe".
            if let Some(name) = env::args_os()
                .next()
                .as_deref()
                .and_then(|path| Path::new(path).file_name())
            {
                let _ = os::set_command_name(name);
            }
            family::begin_as_child(hello.identity, hello.name.clone(), hello.daemon);
            let end = die_with_parent(socket, hello.parent_pid);
            Ok((hello.name, task, limit_to(hello.limit, end)))
        }
        // The parent knows the reason and tells it.
        Err(_) => std::process::exit(1),
    }
}

fn accept(hello: &Hello) -> std::result::Result<Call, Answer> {
    let build = build();
    if hello.build != build {
        return Err(Answer::OtherBuild { build });
    }
    let entry = find(&hello.task)?;
    (entry.decode)(&hello.arguments).map_err(|error| Answer::BadArguments {
        reason: error.to_string(),
    })
}

impl Process {
    pub(super) fn start_task(&self) -> Result<()> {
        let shared = &self.0;
        let target = lock(&shared.target);
        let Some(Target::Task(launch)) = &*target else {
            return Err(Error::new(Kind::AlreadyStarted {
                process: shared.name.clone(),
            }));
        };
        check_initialised()?;
        // Asked here first: the new process will have the same tasks.
        find(launch.task).map_err(|answer| shared.refusal(launch, answer))?;
        let arguments = launch.task_arguments.clone()?;
        let bad_arguments = |error| {
            Error::caused_by(
                Kind::Arguments {
                    task: launch.task.to_owned(),
                },
                error,
            )
        };
        let hello = message(&Hello {
            build: build(),
            parent_pid: std::process::id(),
            name: shared.name.clone(),
            identity: shared.identity.clone(),
            daemon: shared.daemon,
            limit: shared.limit,
            task: launch.task.to_owned(),
            arguments,
        });
        let mut start = shared.execute(launch)?;
        match start.exchange(&hello.map_err(bad_arguments)?) {
            Ok(Answer::Begins) => {}
            Ok(refusal) => return Err(shared.refusal(launch, refusal)),
            Err(error) => return Err(start.explain(error)),
        }
        let Start {
            mut child, socket, ..
        } = start;
        if let Some(child) = child.0.take() {
            shared.begin(child, socket.into(), &mut family().children());
        }
        Ok(())
    }
}

impl Shared {
    fn execute(&self, launch: &Launch) -> Result<Start<'_>> {
        family().reap();
        family::end_children_at_exit();
        let (ours, theirs) = UnixStream::pair().map_err(Error::os("make a socket pair"))?;
        ours.set_nonblocking(true).map_err(Error::os("set up a socket"))?;
        let mut command = this_program(launch.program_arguments.as_deref());
        command.env(MARKER, "1").stdin(std::os::fd::OwnedFd::from(theirs));
        let pid = command
            .spawn()
            .map_err(Error::os("execute this program again"))?
            .id();
        drop(command);
        let pidfd = os::pidfd_open(pid).map_err(|error| {
            let _ = os::kill_and_reap(pid);
            Error::os("open a pidfd")(error)
        })?;
        let deadline = Instant::now().checked_add(launch.timeout);
        let child = Unconfirmed(Some(Child { pid, pidfd }));
        Ok(Start {
            process: self,
            child,
            socket: ours,
            deadline,
            limit: launch.timeout,
        })
    }

    fn refusal(&self, launch: &Launch, answer: Answer) -> Error {
        let task = launch.task.to_owned();
        match answer {
            Answer::OtherBuild { build: theirs } => Error::new(Kind::OtherBuild {
                ours: build(),
                theirs,
            }),
            Answer::UnknownTask => Error::new(Kind::UnknownTask { task }),
            Answer::AmbiguousTask => Error::new(Kind::AmbiguousTask { task }),
            Answer::BadArguments { reason } => Error::caused_by(Kind::Arguments { task }, reason),
            Answer::Begins => Error::new(Kind::NoAnswer {
                process: self.name.clone(),
            }),
        }
    }
}

/// A process that has been executed and has not yet said that its task begins.
struct Start<'a> {
    process: &'a Shared,
    child: Unconfirmed,
    socket: UnixStream,
    deadline: Option<Instant>,
    limit: Duration,
}

impl Start<'_> {
    /// Says hello and reads the answer, but waits no longer than the process lives and the deadline allows.
    fn exchange(&mut self, hello: &[u8]) -> io::Result<Answer> {
        let mut rest = hello;
        while !rest.is_empty() {
            match self.socket.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(os::Readiness::Writable)?
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        read_message(self)
    }

    fn wait(&self, readiness: os::Readiness) -> io::Result<()> {
        // The end of the process closes the other end, which makes the socket ready.
        match os::wait_ready(&self.socket, readiness, self.deadline)? {
            true => Ok(()),
            false => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Why there was no answer.
    fn explain(&mut self, error: io::Error) -> Error {
        let process = || self.process.name.clone();
        if error.kind() == io::ErrorKind::TimedOut {
            let what = format!("starting process {}", process());
            return Error::new(Kind::Timeout {
                what,
                limit: self.limit,
            });
        }
        if error.kind() == io::ErrorKind::InvalidData {
            return Error::caused_by(Kind::NoAnswer { process: process() }, error);
        }
        // It has hung up: most likely it is ending.
        let moment = Instant::now() + Duration::from_secs(1);
        let status = self.child.0.as_ref().and_then(|child| {
            os::wait_until_ended(child.pidfd.as_fd(), Some(moment)).ok()?;
            os::wait_pidfd(&child.pidfd, true).ok()?
        });
        match status {
            Some(status) => {
                self.child.0 = None;
                Error::caused_by(
                    Kind::DiedAtStart {
                        process: process(),
                        status,
                    },
                    error,
                )
            }
            None => Error::caused_by(Kind::NoAnswer { process: process() }, error),
        }
    }
}

impl Read for Start<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.socket.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(os::Readiness::Readable)?
                }
                result => return result,
            }
        }
    }
}

/// Killed and reaped when it is dropped, unless it was taken out or has been reaped.
struct Unconfirmed(Option<Child>);

impl Drop for Unconfirmed {
    fn drop(&mut self) {
        if let Some(child) = self.0.take() {
            let _ = os::pidfd_send_signal(&child.pidfd, os::SIGKILL);
            let _ = os::wait_until_ended(&child.pidfd, None);
            let _ = os::wait_pidfd(&child.pidfd, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(a: i32, b: i32) -> i32 {
        a + b
    }
    task!(add: fn(i32, i32) -> i32);

    fn hello(task: &str, arguments: &[u8]) -> Hello {
        let (task, arguments) = (task.to_owned(), arguments.to_owned());
        Hello {
            build: build(),
            parent_pid: 1,
            name: "x".into(),
            identity: vec![1],
            daemon: false,
            limit: None,
            task,
            arguments,
        }
    }

    #[test]
    fn task_is_found_by_its_name_and_runs_with_its_arguments() {
        assert_eq!(add::NAME, "procession::process::task::tests::add");
        let task = accept(&hello(add::NAME, &encode::<add>(&(40, 2)).unwrap()))
            .ok()
            .unwrap();
        assert_eq!(task(), 42);
    }

    #[test]
    fn what_cannot_begin_is_refused_with_the_reason() {
        let arguments = encode::<add>(&(40, 2)).unwrap();
        assert!(matches!(
            accept(&hello("nobody", &arguments)),
            Err(Answer::UnknownTask)
        ));
        assert!(matches!(
            accept(&hello(add::NAME, &arguments[..1])),
            Err(Answer::BadArguments { .. })
        ));
        let other = Hello {
            build: "procession 0.0.1 build 00".into(),
            ..hello(add::NAME, &arguments)
        };
        let Err(Answer::OtherBuild { build: named }) = accept(&other) else {
            panic!("accepted")
        };
        assert_eq!(named, build());
    }

    #[test]
    fn messages_are_read_back_and_garbage_is_refused() {
        let sent = message(&hello("task", b"12")).unwrap();
        let read: Hello = read_message(&mut sent.as_slice()).unwrap();
        assert_eq!(
            (read.task.as_str(), read.arguments.as_slice()),
            ("task", b"12".as_slice())
        );
        let problem = |bytes: &[u8]| read_message::<Hello>(&mut &*bytes).unwrap_err().kind();
        assert_eq!(problem(&sent[..sent.len() - 1]), io::ErrorKind::UnexpectedEof);
        assert_eq!(problem(b"HTTP/1.1 400"), io::ErrorKind::InvalidData);
        assert_eq!(problem(&[1, 0, 0, 0, 0xFF]), io::ErrorKind::InvalidData);
    }
}
