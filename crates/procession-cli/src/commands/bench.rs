//! `procession bench`: the same work in a plain loop and in pools, each measurement in a fresh host.
//!
//! A fresh host, because a function that remembers (a cache, a warm connection) would hand what one measurement has
//! learnt to the next. Rounds go through all numbers of processes in turn, so that a machine that gets slower or
//! faster meanwhile treats them alike.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::args::BenchArguments;
use crate::chart;
use crate::commands::usable_cores;
use crate::error::CommandError;
use crate::exit_codes;
use crate::host::protocol::{Job, Report, Request};
use crate::host::{self, Group, Host, HostEvent, Interpreter, Prints};
use crate::inputs::{Form, Payload, Source};
use crate::measure::{self, Bench, Rounds};
use crate::output::Target;
use crate::screen::Screen;
use crate::signals;

/// How long a host may take to end after its measurement.
const END: Duration = Duration::from_secs(10);

/// Runs `procession bench`.
pub fn run(arguments: &BenchArguments, default_python: Option<&OsStr>) -> Result<i32, CommandError> {
    let work = &arguments.work;
    let source = Source::new(work, arguments.range).map_err(|error| {
        if work.inputs.is_empty() && work.glob.is_empty() {
            return error.with_help("give numbers with --range N, files with --glob 'PATTERN', or arguments");
        }
        error
    })?;
    let json_file = arguments
        .export_json
        .as_deref()
        .map(|path| Target::open("--export-json", path))
        .transpose()?;
    let svg_file = arguments
        .export_svg
        .as_deref()
        .map(|path| Target::open("--export-svg", path))
        .transpose()?;
    let interpreter = Interpreter::choose(
        work.python.as_deref(),
        default_python,
        std::env::var_os("VIRTUAL_ENV").as_deref(),
    );
    let cores = usable_cores();

    let (events, queue) = mpsc::channel();
    let group = Group::default();
    let signal_events = events.clone();
    signals::watch(group.clone(), move |signal| {
        drop(signal_events.send(Event::Signal(signal)))
    })?;
    let reading = events.clone();
    // A thread of its own, so that Ctrl-C is answered while standard input is waited for.
    let form = Form {
        json: work.json || arguments.range.is_some(),
        star: work.star,
    };
    host::spawn_thread("inputs", move || {
        drop(reading.send(Event::Inputs(read_all(source, form))))
    })?;
    let inputs = match queue.recv() {
        Ok(Event::Inputs(inputs)) => inputs?,
        Ok(Event::Signal(signal)) => return Ok(exit_codes::interrupted_by(signal)),
        Ok(Event::Host(..)) | Err(_) => unreachable!("no host runs, and this function holds a sender"),
    };
    if inputs.is_empty() {
        return Err(CommandError::new(
            exit_codes::USAGE,
            "there are no inputs, so there is nothing to measure",
        )
        .with_help("give some as arguments, by --glob or --range, or on standard input with `-`"));
    }

    let mut bench = Measuring {
        arguments,
        interpreter,
        form,
        inputs,
        events,
        queue,
        group,
        screen: Screen::new(!arguments.quiet),
        python: String::new(),
        serial: 0,
    };
    let mut counts = vec![None];
    counts.extend(match arguments.processes.as_slice() {
        [] => measure::default_processes(cores)
            .into_iter()
            .map(Some)
            .collect::<Vec<_>>(),
        asked_for => asked_for.iter().copied().map(Some).collect(),
    });
    let mut measured: Vec<(Option<usize>, Rounds)> = counts
        .into_iter()
        .map(|processes| (processes, Rounds::default()))
        .collect();
    let interrupted = bench.all_rounds(&mut measured)?;
    bench.screen.finish();

    let report = Bench::new(
        work.function.to_string(),
        bench.inputs.len() as u64,
        cores,
        bench.python,
        work.start_method.map(|method| method.name()),
        &measured,
    );
    if report.rows.is_empty() {
        return Ok(interrupted.map_or(exit_codes::DONE, exit_codes::interrupted_by));
    }
    if let Some(signal) = interrupted {
        // Nobody is left to tell when standard error itself is gone.
        let _ = writeln!(io::stderr(), "interrupted by {}; so far:", signals::name(signal));
    }
    let shown = show(&report);
    if let Some(file) = json_file {
        let mut text = serde_json::to_vec_pretty(&report).expect("plain fields always serialize");
        text.push(b'\n');
        file.write_whole(&text)?;
    }
    if let Some(file) = svg_file {
        file.write_whole(chart::svg(&report).as_bytes())?;
    }
    Ok(match (interrupted, shown) {
        (Some(signal), _) => exit_codes::interrupted_by(signal),
        (None, Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => exit_codes::OUTPUT_CLOSED,
        (None, Err(error)) => {
            return Err(CommandError::new(
                exit_codes::BROKE_OFF,
                format!("cannot write to standard output: {error}"),
            ));
        }
        (None, Ok(())) => exit_codes::DONE,
    })
}

#[derive(Debug)]
enum Event {
    Inputs(Result<Vec<Payload>, CommandError>),
    /// From the host with this serial number.
    Host(u64, HostEvent),
    Signal(i32),
}

fn read_all(source: Source, form: Form) -> Result<Vec<Payload>, CommandError> {
    source
        .into_payloads(form)
        .map(|payload| match payload {
            Ok(Payload::Unreadable { why, .. }) => Err(CommandError::new(exit_codes::COULD_NOT_START, why)
                .with_help("a measurement needs inputs that the function can do; leave this one out")),
            Ok(payload) => Ok(payload),
            Err(error) => Err(CommandError::new(
                exit_codes::COULD_NOT_START,
                format!("cannot read standard input: {error}"),
            )),
        })
        .collect()
}

fn show(report: &Bench) -> io::Result<()> {
    let mut text = chart::table(report);
    text.push('\n');
    text.push_str(&chart::plot(report));
    if let Some(advice) = &report.advice {
        text.push('\n');
        text.push_str(advice);
        text.push('\n');
    }
    io::stdout().write_all(text.as_bytes())?;
    io::stdout().flush()
}

struct Measuring<'a> {
    arguments: &'a BenchArguments,
    interpreter: Interpreter,
    form: Form,
    inputs: Vec<Payload>,
    events: mpsc::Sender<Event>,
    queue: mpsc::Receiver<Event>,
    group: Group,
    screen: Screen,
    python: String,
    /// How many hosts were started; what a former one still says is not of this one.
    serial: u64,
}

impl Measuring<'_> {
    /// Takes all rounds; ends early with the number of the signal that interrupted it.
    fn all_rounds(&mut self, measured: &mut [(Option<usize>, Rounds)]) -> Result<Option<i32>, CommandError> {
        for round in 1..=self.arguments.rounds {
            for (processes, rounds) in measured.iter_mut() {
                let what = processes.map_or("a plain loop".to_owned(), |processes| {
                    crate::units::counted(processes as u64, "process")
                });
                self.screen
                    .start_message(format!("round {round} of {}: {what}", self.arguments.rounds));
                match self.once(*processes)? {
                    Ok((seconds, busy_seconds)) => {
                        rounds.seconds.push(seconds);
                        rounds.busy_seconds.push(busy_seconds);
                    }
                    Err(signal) => return Ok(Some(signal)),
                }
            }
        }
        Ok(None)
    }

    /// One measurement in a host of its own: wall and busy seconds, or the signal that interrupted it.
    fn once(&mut self, processes: Option<usize>) -> Result<Result<(f64, f64), i32>, CommandError> {
        let hello = host::hello(&self.arguments.work, self.form.json, Job::Measure { processes });
        let prints = if self.screen.has_bar() {
            Prints::AboveBar(self.screen.clone())
        } else {
            Prints::ToStandardError
        };
        self.serial += 1;
        let (serial, events) = (self.serial, self.events.clone());
        let mut host = Host::start(&self.interpreter, hello, prints, &self.group, move |event| {
            let _ = events.send(Event::Host(serial, event));
        })?;
        let outcome = self.serve(&mut host);
        self.wait_until_gone(&mut host);
        outcome
    }

    fn serve(&mut self, host: &mut Host) -> Result<Result<(f64, f64), i32>, CommandError> {
        let mut is_ready = false;
        loop {
            match self.queue.recv() {
                Ok(Event::Host(serial, _)) if serial != self.serial => {}
                Ok(Event::Host(_, HostEvent::Report(report))) => match report {
                    Report::Hello {
                        protocol,
                        version,
                        python,
                    } => {
                        if !host::speaks_our_protocol(protocol) {
                            return Err(self.interpreter.other_version(&version));
                        }
                        self.python = python;
                    }
                    Report::Ready {} => {
                        is_ready = true;
                        for (index, input) in self.inputs.iter().enumerate() {
                            if let Some(input) = input.for_host() {
                                host.send(Request::Item {
                                    index: index as u64,
                                    input,
                                });
                            }
                        }
                        host.send(Request::Measure {});
                    }
                    Report::Measured {
                        seconds,
                        busy_seconds,
                    } => return Ok(Ok((seconds, busy_seconds))),
                    Report::Fatal {
                        kind,
                        message,
                        traceback,
                        help,
                    } => {
                        return Err(self.interpreter.fatal(kind, message, traceback, help));
                    }
                    Report::Result(_) | Report::Progress(_) | Report::Finished(_) => {}
                },
                Ok(Event::Host(_, HostEvent::Garbled(line))) => return Err(host::garbled(&line)),
                Ok(Event::Host(_, HostEvent::Exited(exit))) if is_ready => {
                    return Err(CommandError::new(
                        exit_codes::BROKE_OFF,
                        format!("the Python host process {exit} while it was measured"),
                    )
                    .with_help(
                        "`procession map` with the same inputs shows which of them ends its process",
                    ));
                }
                Ok(Event::Host(_, HostEvent::Exited(exit))) => {
                    return Err(self.interpreter.ended_early(exit))
                }
                Ok(Event::Signal(signal)) => {
                    host.kill();
                    return Ok(Err(signal));
                }
                Ok(Event::Inputs(_)) => {}
                Err(_) => unreachable!("this struct holds a sender"),
            }
        }
    }

    fn wait_until_gone(&mut self, host: &mut Host) {
        host.finish();
        let until = Instant::now() + END;
        while !host.is_gone() {
            match self
                .queue
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(Event::Host(serial, HostEvent::Exited(_))) if serial == self.serial => return,
                Ok(Event::Signal(signal)) => {
                    host.kill();
                    // For whoever looks next.
                    let _ = self.events.send(Event::Signal(signal));
                    return;
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return host.kill(),
            }
        }
    }
}
