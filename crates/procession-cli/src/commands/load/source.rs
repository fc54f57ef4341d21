//! Where results come from: workers of this process, or a Python host that has workers of its own.

use std::ffi::OsStr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use procession_load::plan::{Plan, Target};
use procession_load::result::RunResult;
use procession_load::server::{LoopbackServer, ServerOptions};
use procession_load::Run;

use super::intent::{plan_error, Intent, Scenario};
use crate::args::load::LoadArguments;
use crate::error::CommandError;
use crate::exit_codes;
use crate::host::protocol::{LoadJob, Report, Request};
use crate::host::{self, Group, Host, HostEvent, HostExit, Interpreter, Prints};

/// How long a host that was told to end at once has for it.
const HASTY_END: Duration = Duration::from_secs(2);

/// A run, wherever it goes on.
#[derive(Debug)]
pub enum Source {
    /// In workers that were forked from this process, which therefore has no other thread.
    Here {
        /// The run.
        run: Box<Run>,
        /// The server that is tested, if it is our own: it goes when the run is dropped.
        _server: Option<LoopbackServer>,
    },
    /// In a Python process.
    Host(Box<HostedRun>),
}

impl Source {
    /// Begins the run.
    ///
    /// # Errors
    ///
    /// When it cannot begin.
    pub fn start(
        intent: Intent,
        arguments: &LoadArguments,
        default_python: Option<&OsStr>,
        prints: Prints,
    ) -> Result<Self, CommandError> {
        match intent {
            Intent::Plan(plan) => Self::here(*plan, None),
            Intent::OwnServer(mut plan) => {
                let server =
                    LoopbackServer::start(ServerOptions::default()).map_err(|error| plan_error(&error))?;
                if let Target::Http(target) = &mut plan.target {
                    for request in &mut target.requests {
                        request.url = server.url();
                    }
                }
                Self::here(*plan, Some(server))
            }
            Intent::Scenario(scenario) => HostedRun::start(&scenario, arguments, default_python, prints)
                .map(|run| Self::Host(Box::new(run))),
        }
    }

    fn here(plan: Plan, server: Option<LoopbackServer>) -> Result<Self, CommandError> {
        let run = Run::start(plan).map_err(|error| plan_error(&error))?;
        Ok(Self::Here {
            run: Box::new(run),
            _server: server,
        })
    }

    /// Waits until the run is over or this time has passed, and says whether it is over. A signal ends the waiting early.
    ///
    /// # Errors
    ///
    /// When the run cannot go on.
    pub fn wait(&mut self, limit: Duration) -> Result<bool, CommandError> {
        match self {
            Self::Here { run, .. } => run.wait(limit).map_err(|error| plan_error(&error)),
            Self::Host(run) => run.wait(limit),
        }
    }

    /// What it has come to so far; none where nothing is known yet.
    ///
    /// # Errors
    ///
    /// When the run cannot go on.
    pub fn snapshot(&mut self) -> Result<Option<RunResult>, CommandError> {
        match self {
            Self::Here { run, .. } => run.snapshot().map(Some).map_err(|error| plan_error(&error)),
            Self::Host(run) => Ok(run.latest.clone()),
        }
    }

    /// Ends it early: what is under way has a second.
    pub fn stop(&mut self) {
        match self {
            Self::Here { run, .. } => run.stop(),
            Self::Host(run) => run.host.send(Request::Stop {}),
        }
    }
}

/// A run in a Python host, which sends what it has come to a few times a second.
#[derive(Debug)]
pub struct HostedRun {
    host: Host,
    group: Group,
    events: mpsc::Receiver<HostEvent>,
    interpreter: Interpreter,
    latest: Option<RunResult>,
    finished: bool,
    ready: bool,
    exit: Option<HostExit>,
}

/// What the command line says about a scenario.
fn said(scenario: &Scenario, arguments: &LoadArguments) -> LoadJob {
    let seconds = |time: Duration| time.as_secs_f64();
    LoadJob {
        users: arguments.users.or(arguments.connections),
        rate: arguments.rate,
        arrivals: arguments.arrivals.map(|arrivals| arrivals.name()),
        stages: arguments.stages.as_ref().map(ToString::to_string),
        think_seconds: arguments
            .think
            .map(|(least, most)| (seconds(least), seconds(most))),
        duration: arguments.duration.map(seconds),
        iterations: arguments.requests,
        warmup: arguments.warmup.map(seconds),
        timeout: arguments.timeout.map(seconds),
        processes: arguments.processes,
        vuser: arguments.vuser.map(|vuser| vuser.name()),
        slo: (!scenario.slos.is_empty()).then(|| scenario.slos.clone()),
        seed: scenario.seed,
        insecure: arguments.insecure,
        cacert: arguments.cacert.clone(),
        cert: arguments.cert.clone(),
        key: arguments.key.clone(),
        http2: arguments.http2,
        redirects: arguments.redirects,
        own_target: arguments.yes_i_own_this_target,
    }
}

impl HostedRun {
    fn start(
        scenario: &Scenario,
        arguments: &LoadArguments,
        default_python: Option<&OsStr>,
        prints: Prints,
    ) -> Result<Self, CommandError> {
        let interpreter = Interpreter::choose(
            arguments.python.as_deref(),
            default_python,
            std::env::var_os("VIRTUAL_ENV").as_deref(),
        );
        let hello = host::hello_for_load(
            &scenario.place,
            scenario.function.as_deref(),
            said(scenario, arguments),
        );
        let group = Group::default();
        let (deliver, events) = mpsc::channel();
        let host = Host::start(&interpreter, hello, prints, &group, move |event| {
            // When nobody listens any more, the run is over.
            let _ = deliver.send(event);
        })?;
        Ok(Self {
            host,
            group,
            events,
            interpreter,
            latest: None,
            finished: false,
            ready: false,
            exit: None,
        })
    }

    fn wait(&mut self, limit: Duration) -> Result<bool, CommandError> {
        let deadline = Instant::now() + limit;
        while self.exit.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) => self.take(event)?,
                Err(RecvTimeoutError::Timeout) => return Ok(false),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if self.finished {
            return Ok(true);
        }
        Err(match self.exit {
            Some(exit) if !self.ready => self.interpreter.ended_early(exit),
            Some(exit) => CommandError::new(
                exit_codes::LOAD_BROKE,
                format!("the Python process {exit} in the middle of the run"),
            ),
            None => CommandError::new(exit_codes::LOAD_BROKE, "the Python process is gone"),
        })
    }

    fn take(&mut self, event: HostEvent) -> Result<(), CommandError> {
        match event {
            HostEvent::Report(Report::Hello {
                protocol, version, ..
            }) => {
                if !host::speaks_our_protocol(protocol) {
                    return Err(self.interpreter.other_version(&version));
                }
            }
            HostEvent::Report(Report::Ready {}) => self.ready = true,
            HostEvent::Report(Report::Progress(result)) => self.latest = Some(*result),
            HostEvent::Report(Report::Finished(result)) => {
                self.latest = Some(*result);
                self.finished = true;
                self.host.finish();
            }
            HostEvent::Report(Report::Fatal {
                kind,
                message,
                help,
                traceback,
            }) => {
                return Err(self.interpreter.fatal(kind, message, traceback, help));
            }
            HostEvent::Report(Report::Result(_) | Report::Measured { .. }) => {}
            HostEvent::Garbled(line) => return Err(host::garbled(&line)),
            HostEvent::Exited(exit) => self.exit = Some(exit),
        }
        Ok(())
    }
}

impl Drop for HostedRun {
    fn drop(&mut self) {
        self.host.finish();
        let deadline = Instant::now() + HASTY_END;
        while self.exit.is_none() {
            match self
                .events
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(HostEvent::Exited(exit)) => self.exit = Some(exit),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        self.group.kill();
    }
}
