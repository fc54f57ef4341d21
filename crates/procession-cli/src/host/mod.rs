//! The Python process that runs the user's function, and the talk with it.
//!
//! `README.md` beside this file tells the protocol. The host is the leader of a process group of its own: a Ctrl-C at
//! the terminal reaches this process alone, which then ends the host in order; and whatever the user's function
//! started can be ended with it.

mod group;
pub mod protocol;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

pub use group::Group;

use crate::args::{FunctionPath, Place, WorkArguments};
use crate::error::CommandError;
use crate::exit_codes;
use crate::screen::Screen;
use protocol::{FatalKind, Hello, HelloPlace, Job, LoadJob, Report, Request, PROTOCOL_VERSION};

const BOOTSTRAP: &str = include_str!("bootstrap.py");
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// How long descendants of a host that has ended get to end by themselves, so that Python's resource tracker can
/// clear up what a killed host left behind.
const LEFTOVER_GRACE: Duration = Duration::from_millis(300);
/// How long reports and prints of a host that has ended are waited for, should somebody unreachable hold its pipes.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);
/// How much of a host's output is kept while there is no place to show it.
const MOST_HELD_BYTES: usize = 64 * 1024;

/// What comes from a host.
#[derive(Debug)]
pub enum HostEvent {
    /// A line.
    Report(Report),
    /// A line that is not of the protocol.
    Garbled(String),
    /// It has ended, and all its lines were delivered before this.
    Exited(HostExit),
}

/// How a host ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostExit(ExitStatus);

impl std::fmt::Display for HostExit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0.code(), self.0.signal()) {
            (Some(code), _) => write!(f, "exited with code {code}"),
            (None, Some(signal)) => match signal_hook::low_level::signal_name(signal) {
                Some(name) => write!(f, "was killed by {name}"),
                None => write!(f, "was killed by signal {signal}"),
            },
            (None, None) => write!(f, "ended"),
        }
    }
}

/// What becomes of the lines that the function prints.
type Show = Box<dyn Fn(&[u8]) + Send>;

/// Which interpreter runs, and who named it.
#[derive(Debug, Clone)]
pub struct Interpreter {
    path: OsString,
    named_by: &'static str,
}

impl Interpreter {
    /// The first of: `--python`, the one the Python package's own command was started by, `$VIRTUAL_ENV`, `python3`.
    pub fn choose(asked_for: Option<&OsStr>, default: Option<&OsStr>, virtual_env: Option<&OsStr>) -> Self {
        if let Some(path) = asked_for {
            return Self {
                path: path.to_owned(),
                named_by: "--python",
            };
        }
        if let Some(path) = default.filter(|path| !path.is_empty()) {
            return Self {
                path: path.to_owned(),
                named_by: "the command's own installation",
            };
        }
        if let Some(folder) = virtual_env.filter(|folder| !folder.is_empty()) {
            let path = Path::new(folder).join("bin/python").into_os_string();
            return Self {
                path,
                named_by: "$VIRTUAL_ENV",
            };
        }
        Self {
            path: "python3".into(),
            named_by: "the search path",
        }
    }

    fn shown(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    fn cannot_start(&self, error: &io::Error) -> CommandError {
        let (what, help) = match error.kind() {
            io::ErrorKind::NotFound => (
                "no such program".to_owned(),
                "name an interpreter that has procession with --python PATH",
            ),
            io::ErrorKind::PermissionDenied => (
                error.to_string(),
                "name an interpreter that you may run with --python PATH",
            ),
            _ => (
                error.to_string(),
                "see the limits of this session with `ulimit -a`",
            ),
        };
        CommandError::new(
            exit_codes::COULD_NOT_START,
            format!(
                "cannot run Python at {}, as {} says: {what}",
                self.shown(),
                self.named_by
            ),
        )
        .with_help(help)
    }

    /// The error for a host that ended with `kind`.
    pub fn fatal(
        &self,
        kind: FatalKind,
        message: String,
        traceback: Option<String>,
        help: Option<String>,
    ) -> CommandError {
        let mut error = match kind {
            FatalKind::NoPackage => CommandError::new(
                exit_codes::COULD_NOT_START,
                format!("Python at {} cannot import procession: {message}", self.shown()),
            )
            .with_help(format!(
                "install it there with: {} -m pip install procession=={VERSION}\n       \
                 or name another interpreter with --python PATH",
                self.shown()
            )),
            FatalKind::Version => self.other_version(&message),
            FatalKind::Task => CommandError::new(exit_codes::SOME_ITEMS_FAILED, message),
            FatalKind::Function | FatalKind::Pool => CommandError::new(exit_codes::COULD_NOT_START, message),
        };
        if let Some(traceback) = traceback {
            error = error.with_details(traceback);
        }
        if let Some(help) = help {
            error = error.with_help(help);
        }
        error
    }

    /// The error for a Python package that speaks another version of the protocol.
    pub fn other_version(&self, package_version: &str) -> CommandError {
        CommandError::new(
            exit_codes::COULD_NOT_START,
            format!(
                "this command is procession {VERSION}, but Python at {} has procession {package_version}, which it \
                 cannot work with",
                self.shown()
            ),
        )
        .with_help(format!("install the same version there: {} -m pip install procession=={VERSION}", self.shown()))
    }

    /// The error for a host that ended before it had said that it was ready.
    pub fn ended_early(&self, exit: HostExit) -> CommandError {
        CommandError::new(
            exit_codes::COULD_NOT_START,
            format!(
                "Python at {} {exit} before it had loaded the function",
                self.shown()
            ),
        )
        .with_help("see what it printed above; a module that ends the process on import cannot be used")
    }
}

/// The first line to a host that runs a load test.
pub fn hello_for_load(place: &Place, function: Option<&str>, job: LoadJob) -> Hello {
    Hello {
        protocol: PROTOCOL_VERSION,
        version: VERSION,
        place: hello_place(place),
        function: function.unwrap_or_default().to_owned(),
        json: false,
        star: false,
        start_method: None,
        job: Job::Load(Box::new(job)),
    }
}

fn hello_place(place: &Place) -> HelloPlace {
    match place {
        Place::File(path) => HelloPlace::File(path.clone()),
        Place::Module(name) => HelloPlace::Module(name.clone()),
    }
}

/// The first line to a host for this job.
pub fn hello(work: &WorkArguments, json: bool, job: Job) -> Hello {
    let FunctionPath { place, function } = &work.function;
    Hello {
        protocol: PROTOCOL_VERSION,
        version: VERSION,
        place: hello_place(place),
        function: function.clone(),
        json,
        star: work.star,
        start_method: work.start_method.map(|method| method.name()),
        job,
    }
}

/// Whether a hello from a host is of this protocol.
pub fn speaks_our_protocol(protocol: u32) -> bool {
    protocol == PROTOCOL_VERSION
}

/// The error for a host that sends what is not of the protocol.
pub fn garbled(line: &str) -> CommandError {
    CommandError::new(
        exit_codes::BROKE_OFF,
        format!("cannot understand the Python host process: {line}"),
    )
    .with_help("something in this Python writes to descriptors that it did not open")
}

/// Where the output of the user's own `print` goes.
#[derive(Debug)]
pub enum Prints {
    /// To this process's standard error.
    ToStandardError,
    /// The same, in whole lines above the progress bar, so that neither garbles the other.
    AboveBar(Screen),
    /// Kept until somebody shows them: something else has the whole terminal.
    Held(HeldPrints),
}

/// The latest output of a host, up to a limit.
#[derive(Debug, Clone, Default)]
pub struct HeldPrints(Arc<Mutex<Vec<u8>>>);

impl HeldPrints {
    fn hold(&self, lines: &[u8]) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.extend_from_slice(lines);
        let surplus = held.len().saturating_sub(MOST_HELD_BYTES);
        held.drain(..surplus);
    }

    /// Takes what is there.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A running host.
#[derive(Debug)]
pub struct Host {
    requests: Option<mpsc::Sender<Request>>,
    no_more: Arc<AtomicBool>,
    group: Group,
}

impl Host {
    /// Starts a host and says hello to it. `deliver` gets what comes from it, from other threads.
    ///
    /// # Errors
    ///
    /// When the interpreter cannot be started, or descriptors or processes have run out.
    pub fn start(
        interpreter: &Interpreter,
        hello: Hello,
        prints: Prints,
        group: &Group,
        deliver: impl Fn(HostEvent) + Send + Clone + 'static,
    ) -> Result<Self, CommandError> {
        let no_resources = |error: io::Error| {
            CommandError::new(
                exit_codes::COULD_NOT_START,
                format!("cannot start the Python host process: {error}"),
            )
            .with_help("see the limits of this session with `ulimit -a`")
        };
        let (host_reads, we_write) = pipe().map_err(no_resources)?;
        let (we_read, host_writes) = pipe().map_err(no_resources)?;
        // The host must inherit its two ends and nobody else may; no other thread of this process starts programs.
        for end in [&host_reads, &host_writes] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::empty()).map_err(|e| no_resources(e.into()))?;
        }

        let mut command = Command::new(&interpreter.path);
        command
            .arg("-c")
            .arg(BOOTSTRAP)
            .arg(host_reads.as_raw_fd().to_string())
            .arg(host_writes.as_raw_fd().to_string())
            // For those who list processes and pools.
            .arg(hello.names())
            .stdin(Stdio::null())
            .process_group(0);
        let (drained, all_read) = mpsc::channel::<()>();
        match &prints {
            Prints::ToStandardError => command.stdout(io::stderr()).stderr(Stdio::inherit()),
            Prints::AboveBar(_) | Prints::Held(_) => {
                let (read, write) = pipe().map_err(no_resources)?;
                let show: Show = match &prints {
                    Prints::Held(held) => {
                        let held = held.clone();
                        Box::new(move |lines| held.hold(lines))
                    }
                    Prints::AboveBar(screen) => {
                        let screen = screen.clone();
                        Box::new(move |lines| screen.print_above_bar(lines))
                    }
                    Prints::ToStandardError => unreachable!("that needs no pipe"),
                };
                let drained = drained.clone();
                spawn_thread("prints", move || {
                    relay(read, &*show);
                    drop(drained);
                })?;
                command
                    .stdout(write.try_clone().map_err(no_resources)?)
                    .stderr(write)
            }
        };
        let child = group
            .start(|| command.spawn())
            .map_err(|error| interpreter.cannot_start(&error))?;
        drop((host_reads, host_writes, command));

        let (requests, queue) = mpsc::channel();
        let no_more = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&no_more);
        spawn_thread("host requests", move || {
            write_requests(File::from(we_write), &queue, &stop)
        })?;
        let deliver_reports = deliver.clone();
        spawn_thread("host reports", move || {
            read_reports(File::from(we_read), deliver_reports);
            drop(drained);
        })?;
        let watched = group.clone();
        spawn_thread("host watch", move || {
            deliver(HostEvent::Exited(HostExit(watch(child, &watched, &all_read))))
        })?;

        let host = Self {
            requests: Some(requests),
            no_more,
            group: group.clone(),
        };
        host.send(Request::Hello(Box::new(hello)));
        Ok(host)
    }

    /// Sends a line. A host that is gone does not read it; its [`HostEvent::Exited`] tells.
    pub fn send(&self, request: Request) {
        if let Some(requests) = &self.requests {
            let _ = requests.send(request);
        }
    }

    /// Lets the host end: in order when it has answered everything, else by ending its pool at once.
    pub fn finish(&mut self) {
        self.no_more.store(true, Ordering::Relaxed);
        self.requests = None;
    }

    /// Whether it has ended and its [`HostEvent::Exited`] is on its way or was delivered.
    pub fn is_gone(&self) -> bool {
        self.group.is_gone()
    }

    /// Kills the host and all processes that came from it.
    pub fn kill(&self) {
        self.group.kill();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Starts a named thread, or says why it cannot.
pub fn spawn_thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), CommandError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map(drop)
        .map_err(|error| {
            CommandError::new(
                exit_codes::COULD_NOT_START,
                format!("cannot start a thread ({name}): {error}"),
            )
            .with_help("see the limits of this session with `ulimit -a`")
        })
}

/// A pipe whose ends are above the three standard descriptors even where the caller had closed some of those.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let lift = |end: OwnedFd| -> io::Result<OwnedFd> {
        if end.as_raw_fd() > 2 {
            return Ok(end);
        }
        Ok(rustix::io::fcntl_dupfd_cloexec(&end, 3)?)
    };
    Ok((lift(read)?, lift(write)?))
}

fn write_requests(pipe: File, queue: &mpsc::Receiver<Request>, stop: &AtomicBool) {
    let mut pipe = BufWriter::with_capacity(64 * 1024, pipe);
    while let Ok(first) = queue.recv() {
        let mut next = Some(first);
        while let Some(request) = next {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let written = serde_json::to_writer(&mut pipe, &request)
                .map_err(io::Error::from)
                .and_then(|()| pipe.write_all(b"\n"));
            if written.is_err() {
                return;
            }
            next = queue.try_recv().ok();
        }
        if pipe.flush().is_err() {
            return;
        }
    }
}

fn read_reports(pipe: File, deliver: impl Fn(HostEvent)) {
    let mut pipe = BufReader::with_capacity(64 * 1024, pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        match pipe.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            // A line without its end is the last word of a host killed while it wrote: nothing to go by.
            Ok(_) if line.last() != Some(&b'\n') => return,
            Ok(_) => match serde_json::from_slice(&line) {
                Ok(report) => deliver(HostEvent::Report(report)),
                Err(error) => {
                    let shown: String = String::from_utf8_lossy(&line).chars().take(200).collect();
                    deliver(HostEvent::Garbled(format!("{error}: {shown:?}")));
                }
            },
        }
    }
}

fn watch(mut child: Child, group: &Group, all_read: &mpsc::Receiver<()>) -> ExitStatus {
    group.wait_for_leader();
    group.end_leftovers(LEFTOVER_GRACE);
    let _ = all_read.recv_timeout(DRAIN_LIMIT);
    group
        .reap(|| child.wait())
        .unwrap_or_else(|_| ExitStatus::from_raw(0))
}

fn relay(pipe: OwnedFd, show: &dyn Fn(&[u8])) {
    let mut pipe = BufReader::new(File::from(pipe));
    let mut lines = Vec::new();
    loop {
        lines.clear();
        match pipe.read_until(b'\n', &mut lines) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                // Whole lines that are there already go out together: each batch costs a redraw of the bar.
                while lines.len() < 64 * 1024 && pipe.buffer().contains(&b'\n') {
                    if pipe.read_until(b'\n', &mut lines).is_err() {
                        break;
                    }
                }
                show(&lines);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_asked_for_wins_then_the_installation_then_the_virtual_environment() {
        let (a, b, c) = (OsStr::new("/a/python"), OsStr::new("/b/python"), OsStr::new("/c"));
        assert_eq!(Interpreter::choose(Some(a), Some(b), Some(c)).path, "/a/python");
        assert_eq!(Interpreter::choose(None, Some(b), Some(c)).path, "/b/python");
        assert_eq!(Interpreter::choose(None, None, Some(c)).path, "/c/bin/python");
        assert_eq!(
            Interpreter::choose(None, Some(OsStr::new("")), None).path,
            "python3"
        );
    }

    #[test]
    fn a_host_exit_names_its_signal() {
        assert_eq!(
            HostExit(ExitStatus::from_raw(9)).to_string(),
            "was killed by SIGKILL"
        );
        assert_eq!(
            HostExit(ExitStatus::from_raw(3 << 8)).to_string(),
            "exited with code 3"
        );
    }
}
