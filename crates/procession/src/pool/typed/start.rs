//! How the supervisor comes about: a fork of the caller, or a new copy of its program.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::function::{keep_panics_of_tasks, CodeAddress};
use super::worker_main::worker_main;
use crate::channel::Channel;
use crate::error::{Error, Kind, Result};
use crate::options::{PoolOptions, StartMethod};
use crate::os::event::Event;
use crate::os::process as os;
use crate::os::socket;
use crate::pool::supervisor::{Role, Supervisor};
use crate::pool::waiter::Lines;
use crate::pool::worker::Worker;
use crate::process::{build, check_initialised, fork_service, this_program, Service};

/// How long a new copy of the program may take to come to [`init`](crate::init).
const START_PATIENCE: Duration = Duration::from_secs(30);

/// What is called in each new worker before its first task.
#[derive(Clone)]
pub(super) struct Initializer {
    call: Arc<dyn Fn() + Send + Sync>,
    /// Where a new copy of the program finds it, if it captures nothing.
    code: Option<CodeAddress>,
}

impl Initializer {
    pub fn new<F: Fn() + Send + Sync + 'static>(function: F) -> Self {
        let code = CodeAddress::of_initializer::<F>();
        Initializer {
            call: Arc::new(function),
            code,
        }
    }
}

/// All that is needed to start a supervisor, also a second time.
pub(super) struct Starter {
    pub method: StartMethod,
    pub initializer: Option<Initializer>,
    /// The program's arguments when it is executed again, if not those that it has.
    pub arguments: Option<Vec<OsString>>,
    pub idle_bytes: u64,
}

impl fmt::Debug for Starter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Starter")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

/// The first thing a new copy of the program is told. Begins with what lets it recognise another build.
#[derive(Serialize, Deserialize)]
struct Hello {
    build: String,
    initializer: Option<u64>,
    idle_bytes: u64,
}

/// What it answers: this, or why not.
const BEGINS: &[u8] = b"begins";

impl Starter {
    pub fn new(
        options: &PoolOptions,
        initializer: Option<Initializer>,
        arguments: Option<Vec<OsString>>,
    ) -> Self {
        Starter {
            method: options.start_method,
            initializer,
            arguments,
            idle_bytes: options.idle_bytes,
        }
    }

    /// Refuses what this start method cannot do.
    pub fn check(&self) -> Result<()> {
        if self.method == StartMethod::Fork {
            return Ok(());
        }
        check_initialised()?;
        match &self.initializer {
            Some(Initializer { code: None, .. }) => {
                let problem = "with the start method spawn, its initializer must capture nothing".to_string();
                Err(Error::new(Kind::PoolOptions { problem }))
            }
            _ => Ok(()),
        }
    }

    /// Starts a supervisor for this channel.
    pub fn start(&self, channel: &Arc<Channel>, results: &Event) -> Result<Lines> {
        match self.method {
            StartMethod::Fork => self.fork(channel, results),
            StartMethod::Spawn => self.spawn(channel, results),
        }
    }

    fn fork(&self, channel: &Arc<Channel>, results: &Event) -> Result<Lines> {
        let (ours, theirs) = socket::pair().map_err(Error::os("make a socket pair"))?;
        let caller = os::pidfd_open(std::process::id()).map_err(Error::os("open a pidfd"))?;
        let results = socket::duplicate(results.as_fd()).map_err(Error::os("duplicate a descriptor"))?;
        // SAFETY: the child runs our own code, which uses nothing but what is given to it here, and then functions of the
        // user in workers, as the pool's documentation tells.
        match unsafe { fork_service() }? {
            Service::Parent { pidfd } => Ok(Lines {
                control: ours,
                supervisor: pidfd,
            }),
            Service::Child { mask } => {
                let code = catch_unwind(AssertUnwindSafe(|| {
                    // The caller's end: as long as it is open here, the line does not end with the caller.
                    drop(ours);
                    // Nobody types for workers.
                    let _ = os::take_stdin();
                    behave_as_service();
                    os::restore_signal_mask(&mask);
                    let supervisor = Supervisor {
                        channel: channel.clone(),
                        results: Event::from_fd(results),
                        control: theirs,
                        caller,
                    };
                    let initializer = self.initializer.as_ref().map(|initializer| &*initializer.call);
                    supervise(supervisor, initializer.map(|call| call as &dyn Fn()))
                }));
                os::exit_now(code.unwrap_or(1));
            }
        }
    }

    fn spawn(&self, channel: &Channel, results: &Event) -> Result<Lines> {
        let (ours, theirs) = socket::pair().map_err(Error::os("make a socket pair"))?;
        let caller = os::pidfd_open(std::process::id()).map_err(Error::os("open a pidfd"))?;
        let mut command = this_program(self.arguments.as_deref());
        command.env(POOL_MARKER, "1").stdin(theirs);
        let pid = command
            .spawn()
            .map_err(Error::os("execute this program again"))?
            .id();
        drop(command);
        let supervisor = os::pidfd_open(pid).map_err(|error| {
            let _ = os::kill_and_reap(pid);
            Error::os("open a pidfd")(error)
        })?;
        let start = Unconfirmed(Some(Lines {
            control: ours,
            supervisor,
        }));
        let hello = Hello {
            build: build(),
            initializer: self
                .initializer
                .as_ref()
                .and_then(|initializer| Some(initializer.code?.to_word())),
            idle_bytes: self.idle_bytes,
        };
        let hello = postcard::to_stdvec(&hello).unwrap_or_default();
        start.confirm(&hello, &[channel.fd(), results.as_fd(), caller.as_fd()])
    }
}

/// A process that has been executed and has not yet said that it begins: killed and reaped, if that does not come.
struct Unconfirmed(Option<Lines>);

impl Unconfirmed {
    fn confirm(mut self, hello: &[u8], fds: &[std::os::fd::BorrowedFd<'_>]) -> Result<Lines> {
        let Some(lines) = &self.0 else {
            return Err(Error::new(Kind::NoAnswer { process: NAME.into() }));
        };
        let control = lines.control.as_fd();
        let answered = socket::send(control, hello, fds).and_then(|()| {
            let deadline = Instant::now() + START_PATIENCE;
            match os::wait_ready(control, os::Readiness::Readable, Some(deadline))? {
                true => socket::receive(control, false),
                false => Err(io::ErrorKind::TimedOut.into()),
            }
        });
        match answered {
            Ok((answer, _)) if answer == BEGINS => {}
            Ok((answer, _)) if !answer.is_empty() => {
                let reason = String::from_utf8_lossy(&answer).into_owned();
                return Err(Error::new(Kind::PoolBroken { reason }));
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                return Err(Error::new(Kind::Timeout {
                    what: format!("starting {NAME}"),
                    limit: START_PATIENCE,
                }))
            }
            Ok(_) | Err(_) => return Err(self.explain()),
        }
        self.0
            .take()
            .ok_or_else(|| Error::new(Kind::NoAnswer { process: NAME.into() }))
    }

    /// Why there was no answer: most likely the process has ended.
    fn explain(&self) -> Error {
        let status = self.0.as_ref().and_then(|lines| {
            let moment = Instant::now() + Duration::from_secs(1);
            os::wait_until_ended(&lines.supervisor, Some(moment)).ok()?;
            os::wait_pidfd(&lines.supervisor, true).ok()?
        });
        let process = NAME.to_string();
        Error::new(match status {
            Some(status) => Kind::DiedAtStart { process, status },
            None => Kind::NoAnswer { process },
        })
    }
}

impl Drop for Unconfirmed {
    fn drop(&mut self) {
        if let Some(lines) = &self.0 {
            let _ = os::pidfd_send_signal(&lines.supervisor, os::SIGKILL);
            let _ = os::wait_pidfd(&lines.supervisor, false);
        }
    }
}

/// Set for the new process of a pool alone.
const POOL_MARKER: &str = "PROCESSION_POOL";

/// In a process that was started to be a pool's supervisor: its whole life, and its exit code. Elsewhere `None`.
pub(crate) fn begin_if_supervisor() -> Option<i32> {
    std::env::var_os(POOL_MARKER)?;
    // Programs that workers start are no supervisors.
    std::env::remove_var(POOL_MARKER);
    Some(begin_as_supervisor())
}

/// How errors call a supervisor.
const NAME: &str = "the pool's supervisor";

/// The life of a new copy of the program that is to be a supervisor: from [`init`](crate::init) to its end. Workers come
/// here, too, as its forks.
fn begin_as_supervisor() -> i32 {
    let code = catch_unwind(|| match receive() {
        Ok(Beginning {
            supervisor,
            initializer,
        }) => {
            keep_panics_of_tasks();
            behave_as_service();
            supervise(supervisor, initializer.as_ref().map(|call| call as &dyn Fn()))
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "cannot begin as a pool's supervisor: {error}");
            1
        }
    });
    os::exit_now(code.unwrap_or(1))
}

/// What a new copy of the program is to do.
struct Beginning {
    supervisor: Supervisor,
    initializer: Option<fn()>,
}

fn receive() -> io::Result<Beginning> {
    let control = os::take_stdin()?;
    let (bytes, fds) = socket::receive(control.as_fd(), true)?;
    let refuse = |reason: &str| {
        let _ = socket::send(control.as_fd(), reason.as_bytes(), &[]);
        io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
    };
    let hello: Hello =
        postcard::from_bytes(&bytes).map_err(|_| refuse("it does not understand what it is told"))?;
    if hello.build != build() {
        return Err(refuse(&format!(
            "the started program is another build ({})",
            build()
        )));
    }
    let Ok([memory, results, caller]) = <[OwnedFd; 3]>::try_from(fds) else {
        return Err(refuse("it was not given what it needs"));
    };
    let channel = Channel::open(memory, hello.idle_bytes).map_err(|error| refuse(&error.to_string()))?;
    socket::send(control.as_fd(), BEGINS, &[])?;
    // SAFETY: the word was made of an initializer, by the same build of the same program.
    let initializer = hello
        .initializer
        .map(|word| unsafe { CodeAddress::from_word(word).to_initializer() });
    let supervisor = Supervisor {
        channel: Arc::new(channel),
        results: Event::from_fd(results),
        control,
        caller,
    };
    Ok(Beginning {
        supervisor,
        initializer,
    })
}

fn behave_as_service() {
    let _ = os::set_command_name("procession".as_ref());
    // Ctrl-C goes to all processes of the terminal; it is the caller who decides what it means. Not ignored, as programs
    // that tasks execute would then ignore it, too.
    let _ = os::install_noop_handler(os::SIGINT);
    for signal in [os::SIGTERM, os::SIGHUP, os::SIGQUIT] {
        if os::has_signal_handler(signal) {
            let _ = os::set_signal_default(signal);
        }
    }
}

fn supervise(supervisor: Supervisor, initializer: Option<&dyn Fn()>) -> i32 {
    // SAFETY: the supervisor has only this thread.
    match supervisor.run(&mut || unsafe { os::fork() }) {
        Ok(Role::Worker {
            seat,
            channel,
            results,
            output,
        }) => worker_main(Worker::new(channel, results, seat, output), initializer),
        Ok(Role::Over) => 0,
        Err(_) => 1,
    }
}
