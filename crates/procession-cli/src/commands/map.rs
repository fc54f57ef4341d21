//! `procession map`: one loop that all events come to, fed by threads that each wait for one thing.
//!
//! ```text
//!   standard input ─► inputs ──┐                      ┌─► output ─► standard output
//!   host reports   ─► reports ─┼─► events ─► this loop┤
//!   signals, host's end ───────┘                      └─► requests ─► host
//! ```
//!
//! The loop itself never blocks on anything but its events, so Ctrl-C is answered whatever else is stuck. An item is
//! in the [`Window`] from before it is read until its line is written: that bounds the memory, and a slow reader of
//! the output slows the reading of the input.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::args::MapArguments;
use crate::commands::usable_cores;
use crate::error::CommandError;
use crate::exit_codes;
use crate::host::protocol::{ItemError, ItemReport, Job, Report, Request, Status};
use crate::host::{self, Group, Host, HostEvent, HostExit, Interpreter, Prints};
use crate::inputs::{Form, Payload, Source};
use crate::output::{self, Line, OutputEvent, Target};
use crate::record::Outcome;
use crate::resume::Former;
use crate::screen::{self, Screen};
use crate::signals;
use crate::summary::{self, Failure, Summary, Tally};
use crate::window::Window;

/// Items under way for each process. Enough that a worker never waits for the next input, even with tasks of a few
/// microseconds, and few enough that the input is not read far ahead.
const WINDOW_PER_PROCESS: usize = 64;
/// The least number of items under way.
const MIN_WINDOW: usize = 256;
/// With `--ordered`, how many times more items may be under way, as results that come early wait in the window.
const ORDERED_WINDOW_FACTOR: usize = 4;
/// How long a host may take to end its pool in order after the last item.
const ORDERLY_END: Duration = Duration::from_secs(10);
/// The same when the run was cut short, and for the results already there to be written.
const HASTY_END: Duration = Duration::from_secs(2);

/// The longest pause before a further attempt, unless a longer one was asked for.
const MOST_DELAY_SECONDS: f64 = 60.0;

/// Runs `procession map`.
pub fn run(arguments: &MapArguments, default_python: Option<&OsStr>) -> Result<i32, CommandError> {
    let started = Instant::now();
    let work = &arguments.work;
    let source = Source::new(work, None)?;
    let (target, former) = match (&arguments.output, &arguments.resume) {
        (_, Some(path)) => {
            let former = Former::read(path)?;
            (Target::append("--resume", path, former.end())?, Some(former))
        }
        (Some(path), None) => (Target::open("--output", path)?, None),
        (None, None) => (Target::standard_output()?, None),
    };
    let processes = arguments.processes.unwrap_or_else(usable_cores);
    let interpreter = Interpreter::choose(
        work.python.as_deref(),
        default_python,
        std::env::var_os("VIRTUAL_ENV").as_deref(),
    );

    let (events, queue) = mpsc::channel();
    let group = Group::default();
    let signal_events = events.clone();
    signals::watch(group.clone(), move |signal| {
        drop(signal_events.send(Event::Signal(signal)))
    })?;

    let screen = Screen::new(!arguments.quiet && !arguments.no_progress);
    let hello = host::hello(
        work,
        work.json,
        Job::Map {
            processes,
            timeout_seconds: arguments.timeout,
            memory_limit_bytes: arguments.memory_limit,
            output: arguments.task_output.name(),
        },
    );
    let prints = if screen.has_bar() {
        Prints::AboveBar(screen.clone())
    } else {
        Prints::ToStandardError
    };
    let host_events = events.clone();
    let mut host = Host::start(&interpreter, hello, prints, &group, move |event| {
        // The loop is gone only when the whole command ends.
        let _ = host_events.send(Event::Host(event));
    })?;
    match wait_until_ready(&queue, &host, &interpreter) {
        Ok(None) => {}
        Ok(Some(signal)) => return Ok(exit_codes::interrupted_by(signal)),
        Err(error) => {
            wait_until_gone(&queue, &mut host);
            return Err(error);
        }
    }
    target.empty()?;

    let window = Arc::new(Window::new(
        (processes * WINDOW_PER_PROCESS).max(MIN_WINDOW)
            * if arguments.ordered {
                ORDERED_WINDOW_FACTOR
            } else {
                1
            },
    ));
    let output_name = target.name();
    let output_events = events.clone();
    let lines = output::start(
        target,
        arguments.ordered,
        Arc::clone(&window),
        screen.clone(),
        move |event| {
            let _ = output_events.send(Event::Output(event));
        },
    )?;
    let total = source.total();
    screen.start(total);
    let form = Form {
        json: work.json,
        star: work.star,
    };
    let reading = Arc::clone(&window);
    host::spawn_thread("inputs", move || read_inputs(source, form, &reading, &events))?;

    let mut run = Run {
        arguments,
        total,
        queue,
        host,
        host_exit: None,
        lines: Some(lines),
        output_ended: false,
        output_name,
        window,
        screen,
        waiting: HashMap::new(),
        delayed: BinaryHeap::new(),
        former,
        tally: Tally::default(),
        inputs_ended: false,
        cut: None,
    };
    run.until_done();
    run.end();
    run.screen.finish();
    Ok(run.report(started.elapsed(), processes))
}

#[derive(Debug)]
enum Event {
    Host(HostEvent),
    Input(u64, Payload),
    InputsEnded(io::Result<()>),
    Output(OutputEvent),
    Signal(i32),
}

/// Why a run ends before all items are done.
#[derive(Debug)]
enum Cut {
    Signal(i32),
    OutputClosed,
    Error(CommandError),
}

struct Waiting {
    input: Payload,
    attempts: u32,
}

struct Run<'a> {
    arguments: &'a MapArguments,
    total: Option<u64>,
    queue: mpsc::Receiver<Event>,
    host: Host,
    host_exit: Option<HostExit>,
    lines: Option<mpsc::Sender<Line>>,
    output_ended: bool,
    output_name: String,
    window: Arc<Window>,
    screen: Screen,
    waiting: HashMap<u64, Waiting>,
    /// Items that wait for their next attempt, and until when; they are in `waiting`, too.
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    former: Option<Former>,
    tally: Tally,
    inputs_ended: bool,
    cut: Option<Cut>,
}

fn wait_until_ready(
    queue: &mpsc::Receiver<Event>,
    host: &Host,
    interpreter: &Interpreter,
) -> Result<Option<i32>, CommandError> {
    loop {
        match queue.recv() {
            Ok(Event::Host(event)) => match event {
                HostEvent::Report(Report::Hello {
                    protocol, version, ..
                }) => {
                    if !host::speaks_our_protocol(protocol) {
                        return Err(interpreter.other_version(&version));
                    }
                }
                HostEvent::Report(Report::Ready {}) => return Ok(None),
                HostEvent::Report(Report::Fatal {
                    kind,
                    message,
                    traceback,
                    help,
                }) => {
                    return Err(interpreter.fatal(kind, message, traceback, help));
                }
                HostEvent::Report(_) => {}
                HostEvent::Garbled(line) => return Err(host::garbled(&line)),
                HostEvent::Exited(exit) => return Err(interpreter.ended_early(exit)),
            },
            Ok(Event::Signal(signal)) => {
                host.kill();
                return Ok(Some(signal));
            }
            Ok(_) => {}
            Err(_) => unreachable!("this function's caller holds a sender"),
        }
    }
}

/// Lets a host that failed end, so that what it prints comes before the error and nobody is left behind.
fn wait_until_gone(queue: &mpsc::Receiver<Event>, host: &mut Host) {
    host.finish();
    let until = Instant::now() + HASTY_END;
    while !host.is_gone() {
        match queue.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Event::Host(HostEvent::Exited(_))) => return,
            Ok(Event::Signal(_)) | Err(_) => return host.kill(),
            Ok(_) => {}
        }
    }
}

fn read_inputs(source: Source, form: Form, window: &Window, events: &mpsc::Sender<Event>) {
    let mut payloads = source.into_payloads(form);
    let mut index = 0;
    let ended = loop {
        // Only when there is room is the next one read.
        if !window.enter() {
            return;
        }
        match payloads.next() {
            Some(Ok(payload)) => {
                window.hold(payload.size_bytes());
                if events.send(Event::Input(index, payload)).is_err() {
                    return;
                }
                index += 1;
            }
            Some(Err(error)) => break Err(error),
            None => break Ok(()),
        }
    };
    window.leave(0);
    let _ = events.send(Event::InputsEnded(ended));
}

impl Run<'_> {
    /// Handles events until all items are over or the run is cut short.
    fn until_done(&mut self) {
        while self.cut.is_none() && !(self.inputs_ended && self.waiting.is_empty()) {
            let event = match self.delayed.peek() {
                None => self.queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(Reverse((due, _))) => self
                    .queue
                    .recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match event {
                Ok(event) => self.handle(event),
                Err(RecvTimeoutError::Timeout) => self.send_delayed(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Sends the items again whose pause is over.
    fn send_delayed(&mut self) {
        let now = Instant::now();
        while let Some(&Reverse((due, index))) = self.delayed.peek() {
            if due > now {
                return;
            }
            self.delayed.pop();
            if let Some(input) = self.waiting.get(&index).and_then(|item| item.input.for_host()) {
                self.host.send(Request::Item { index, input });
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Input(index, input) => self.start_item(index, input),
            Event::InputsEnded(Ok(())) => self.inputs_ended = true,
            Event::InputsEnded(Err(error)) => {
                self.inputs_ended = true;
                self.cut(Cut::Error(
                    CommandError::new(
                        exit_codes::BROKE_OFF,
                        format!("cannot read standard input: {error}"),
                    )
                    .with_help("standard input must be a file, a pipe or a terminal with one input a line"),
                ));
            }
            Event::Host(HostEvent::Report(Report::Result(report))) => self.take_result(*report),
            Event::Host(HostEvent::Report(Report::Fatal {
                message,
                traceback,
                help,
                ..
            })) => {
                let mut error = CommandError::new(exit_codes::BROKE_OFF, message);
                if let Some(traceback) = traceback {
                    error = error.with_details(traceback);
                }
                if let Some(help) = help {
                    error = error.with_help(help);
                }
                self.cut(Cut::Error(error));
            }
            Event::Host(HostEvent::Report(_)) => {}
            Event::Host(HostEvent::Garbled(line)) => self.cut(Cut::Error(host::garbled(&line))),
            Event::Host(HostEvent::Exited(exit)) => {
                self.host_exit = Some(exit);
                if !(self.inputs_ended && self.waiting.is_empty()) {
                    self.cut(Cut::Error(
                        CommandError::new(
                            exit_codes::BROKE_OFF,
                            format!("the Python host process, which keeps the pool, {exit}"),
                        )
                        .with_help("results so far are written; items under way are lost, run those again"),
                    ));
                }
            }
            Event::Output(OutputEvent::Finished) => self.output_ended = true,
            Event::Output(OutputEvent::Closed) => {
                self.output_ended = true;
                self.cut(Cut::OutputClosed);
            }
            Event::Output(OutputEvent::Failed(error)) => {
                self.output_ended = true;
                self.cut(Cut::Error(
                    CommandError::new(
                        exit_codes::BROKE_OFF,
                        format!("cannot write results to {}: {error}", self.output_name),
                    )
                    .with_help("make room or choose another place with --output FILE, then run again"),
                ));
            }
            Event::Signal(signal) => self.cut(Cut::Signal(signal)),
        }
    }

    fn cut(&mut self, cut: Cut) {
        // What comes later is a consequence of the first.
        self.cut.get_or_insert(cut);
    }

    fn start_item(&mut self, index: u64, input: Payload) {
        if self.cut.is_some() {
            return;
        }
        if let Some(former) = &self.former {
            match former.was_done(index, &input, self.arguments.work.json) {
                Some(true) => return self.skip_item(index, &input),
                Some(false) => {
                    let error = CommandError::new(
                        exit_codes::BROKE_OFF,
                        format!(
                            "the inputs are not those of the former run: item {index} was another one then"
                        ),
                    );
                    let help = "give the same inputs in the same order, or another file to --resume";
                    return self.cut(Cut::Error(error.with_help(help)));
                }
                None => {}
            }
        }
        if let Some(for_host) = input.for_host() {
            self.host.send(Request::Item {
                index,
                input: for_host,
            });
            self.waiting.insert(index, Waiting { input, attempts: 1 });
            return;
        }
        let Payload::Unreadable { why, .. } = &input else {
            return;
        };
        let error = ItemError {
            kind: "BadInput".to_owned(),
            message: why.clone(),
            traceback: None,
            exitcode: None,
            signal: None,
            limit_seconds: None,
        };
        self.finish_item(&Outcome {
            index,
            input: &input,
            status: Status::BadInput,
            result: None,
            result_is_repr: false,
            error: Some(&error),
            seconds: None,
            pid: None,
            attempts: 0,
            output: None,
        });
    }

    fn take_result(&mut self, report: ItemReport) {
        // While a cut run ends, its workers are killed: that is not what became of their items.
        if self.cut.is_some() && !matches!(report.status, Status::Ok | Status::Error) {
            return;
        }
        let Some(mut item) = self.waiting.remove(&report.index) else {
            return;
        };
        self.tally.task_seconds += report.seconds.unwrap_or(0.0);
        if report.status != Status::Ok && item.attempts <= self.arguments.retries && self.cut.is_none() {
            if let Some(input) = item.input.for_host() {
                self.tally.retries += 1;
                match self.arguments.retry_delay {
                    None => self.host.send(Request::Item {
                        index: report.index,
                        input,
                    }),
                    Some(seconds) => {
                        let pause = seconds * 2_f64.powi(item.attempts.min(64) as i32 - 1);
                        let due = Instant::now()
                            + Duration::from_secs_f64(pause.min(MOST_DELAY_SECONDS.max(seconds)));
                        self.delayed.push(Reverse((due, report.index)));
                    }
                }
                item.attempts += 1;
                self.waiting.insert(report.index, item);
                return;
            }
        }
        self.finish_item(&Outcome {
            index: report.index,
            input: &item.input,
            status: report.status,
            result: report.result.as_deref(),
            result_is_repr: report.result_is_repr,
            error: report.error.as_ref(),
            seconds: report.seconds,
            pid: report.pid,
            attempts: item.attempts,
            output: report.output.as_deref(),
        });
    }

    /// Passes over an item that a former run has done.
    fn skip_item(&mut self, index: u64, input: &Payload) {
        self.tally.count(Status::Ok);
        self.tally.resumed += 1;
        if let Some(lines) = &self.lines {
            let _ = lines.send(Line {
                index,
                text: Vec::new(),
                held_bytes: input.size_bytes(),
            });
        }
        self.screen.advance(self.tally.finished(), self.tally.not_done());
    }

    fn finish_item(&mut self, outcome: &Outcome<'_>) {
        self.tally.count(outcome.status);
        if let Some(error) = outcome.error {
            if self.tally.failures.len() < self.arguments.show_failures {
                self.tally.failures.push(Failure {
                    index: outcome.index,
                    input: outcome.input.quoted(),
                    error: summary::error_line(error, outcome.attempts),
                    last_words: summary::last_words(outcome.output),
                });
            }
        }
        let text = if self.arguments.jsonl || self.former.is_some() {
            outcome.json_line(self.arguments.work.json)
        } else {
            outcome.plain_line()
        };
        self.window.hold(text.len());
        let held_bytes = outcome.input.size_bytes() + text.len();
        if let Some(lines) = &self.lines {
            // When the output has failed, its event tells.
            let _ = lines.send(Line {
                index: outcome.index,
                text,
                held_bytes,
            });
        }
        self.screen.advance(self.tally.finished(), self.tally.not_done());
    }

    /// Ends host and output: in order after a whole run, soon after one that was cut short.
    fn end(&mut self) {
        let mut hasty = self.cut.is_some();
        self.window.close();
        self.host.finish();
        let mut host_limit = Instant::now() + if hasty { HASTY_END } else { ORDERLY_END };
        let mut output_limit = hasty.then_some(host_limit);
        loop {
            if self.host_exit.is_some() {
                // Every report has come, so every line that will ever be is on its way.
                self.lines = None;
            }
            if self.host_exit.is_some() && self.output_ended {
                return;
            }
            if !hasty && self.cut.is_some() {
                hasty = true;
                host_limit = Instant::now() + HASTY_END;
                output_limit = Some(host_limit);
            }
            let now = Instant::now();
            let limit = if self.host_exit.is_none() {
                Some(host_limit)
            } else {
                output_limit
            };
            let wait = limit.map_or(Duration::MAX, |limit| limit.saturating_duration_since(now));
            match self.queue.recv_timeout(wait) {
                Ok(event) => self.handle(event),
                Err(RecvTimeoutError::Timeout) if self.host_exit.is_none() => {
                    self.host.kill();
                    // Its end is reported as soon as the kernel has cleared it away.
                    host_limit = Instant::now() + HASTY_END;
                    output_limit = output_limit.map(|limit| limit.max(host_limit));
                }
                Err(_) => return,
            }
        }
    }

    /// Prints the summary and returns the exit code.
    fn report(&self, wall: Duration, processes: usize) -> i32 {
        let mut text = String::new();
        if !self.arguments.quiet && !matches!(self.cut, Some(Cut::OutputClosed)) {
            text = Summary {
                tally: &self.tally,
                wall,
                processes,
                cut_short: match &self.cut {
                    Some(Cut::Signal(signal)) => Some(format!("interrupted by {}", signals::name(*signal))),
                    _ => None,
                },
                unfinished: self
                    .total
                    .map_or(self.waiting.len() as u64, |total| total - self.tally.finished()),
            }
            .render();
        }
        if let Some(Cut::Error(error)) = &self.cut {
            screen::print_error(error);
        }
        // Nobody is left to tell when standard error itself is gone.
        let _ = io::stderr().write_all(text.as_bytes());
        match &self.cut {
            Some(Cut::Signal(signal)) => exit_codes::interrupted_by(*signal),
            Some(Cut::OutputClosed) => exit_codes::OUTPUT_CLOSED,
            Some(Cut::Error(error)) => error.exit_code(),
            None if self.tally.not_done() > 0 => exit_codes::SOME_ITEMS_FAILED,
            None => exit_codes::DONE,
        }
    }
}
