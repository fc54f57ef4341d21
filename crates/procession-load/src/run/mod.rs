//! A run: its worker processes, and the process that controls them.

mod collect;
mod environment;
mod usage;
mod worker;

use crate::drive::{Driven, Protocol};
use crate::http::h2::Http2;
use crate::http::link::Http1;
use crate::net::Failure;
use crate::plan::{HttpVersion, Plan, Target};
use crate::raw::tcp::Tcp;
use crate::raw::udp::Udp;
use crate::record::{Region, SeatState};
use crate::result::{RunResult, RunState};
use crate::{now_ns, Error, Result, Slo};
use collect::Collector;
use procession::os::futex;
use procession::Process;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use worker::{Phase, Worker};

/// What runs in each worker process: a loop that asks the [`Worker`] when to begin what, and tells its recorder what
/// came of it.
pub trait Workload: Send + Sync {
    /// Runs until the worker's [`phase`](Worker::phase) is [`Phase::Over`], or until all that was asked for is through.
    /// Must call [`Worker::wait_for_start`] once, after what it needs is set up and before it begins anything.
    ///
    /// # Errors
    ///
    /// A text that says why the run cannot go on; it ends the run. A worker process that dies is replaced instead.
    fn run(&self, worker: &mut Worker) -> std::result::Result<(), String>;

    /// How many kinds of requests and named steps there will be at most.
    fn most_steps(&self) -> u32 {
        64
    }
}

/// What a host language needs to be done around a fork, such as Python's own preparations.
#[derive(Debug, Clone, Copy, Default)]
pub struct ForkHooks {
    /// Before each fork, in the process that forks.
    pub before: Option<fn()>,
    /// After it, in the process that forked.
    pub after_in_parent: Option<fn()>,
    /// After it, first thing in the new process.
    pub after_in_child: Option<fn()>,
    /// Whether forking is all right although this process has several threads: the hooks, and what workers do, see to it
    /// that nothing that a vanished thread may have held is needed.
    pub threads_allowed: bool,
}

/// A worker that dies sooner than this after its start, so often in a row, will not live the next time either.
const SHORT_LIFE: Duration = Duration::from_millis(100);
const MOST_SHORT_LIVES: u32 = 10;
/// How long workers have to get ready.
const SETUP_LIMIT: Duration = Duration::from_secs(60);
/// From the moment when all are ready to the first request, so that all are awake.
const LEAD_NS: u64 = 2_000_000;
/// How often the workers are looked after.
const TICK: Duration = Duration::from_millis(50);

struct Member {
    process: Process,
    started: Instant,
    short_lives: u32,
    restarts: u32,
    last_death: Option<String>,
    done: bool,
}

/// A load test that is going on. Dropping it ends its workers.
///
/// It has no thread of its own: whoever holds it calls [`wait`](Run::wait), [`snapshot`](Run::snapshot) or
/// [`finish`](Run::finish) at least every ten seconds, which replaces workers that died and keeps the series of seconds.
pub struct Run {
    plan: Arc<Plan>,
    workload: Arc<dyn Workload>,
    hooks: ForkHooks,
    region: Arc<Region>,
    members: Vec<Member>,
    collector: Collector,
    start_ns: u64,
    stopped_ns: Option<u64>,
    finished: bool,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl Run {
    /// Begins a run whose target is built in. When this returns, all workers are ready and the first requests due within
    /// milliseconds.
    ///
    /// # Errors
    ///
    /// If the plan makes no sense ([`Error::is_plan`]), a host's name cannot be looked up, the system allows no more
    /// processes, or this process has several threads, as workers are forked from it.
    pub fn start(plan: Plan) -> Result<Run> {
        Run::start_hooked(plan, ForkHooks::default())
    }

    /// As [`Run::start`], in a host that needs something to be done around each fork.
    ///
    /// # Errors
    ///
    /// As [`Run::start`]; several threads are no error if the hooks allow them.
    pub fn start_hooked(plan: Plan, hooks: ForkHooks) -> Result<Run> {
        plan.check()?;
        let workload = built_in(&plan.target)?;
        Run::start_workload(plan, workload, hooks)
    }

    /// Begins a run of the caller's own workload.
    ///
    /// # Errors
    ///
    /// As [`Run::start`], and if a worker's setup fails.
    pub fn start_workload(plan: Plan, workload: Arc<dyn Workload>, hooks: ForkHooks) -> Result<Run> {
        plan.check()?;
        let workers = plan.workers();
        let region = Region::new(workers, workload.most_steps().max(1))?;
        let collector = Collector::new(&plan);
        let mut run = Run {
            plan: Arc::new(plan),
            workload,
            hooks,
            region,
            members: Vec::new(),
            collector,
            start_ns: 0,
            stopped_ns: None,
            finished: false,
        };
        for number in 0..workers {
            let process = run.fork(number)?;
            run.members.push(Member {
                process,
                started: Instant::now(),
                short_lives: 0,
                restarts: 0,
                last_death: None,
                done: false,
            });
        }
        run.await_setup()?;
        run.go();
        Ok(run)
    }

    fn fork(&self, number: u32) -> Result<Process> {
        let (plan, workload, region) = (
            Arc::clone(&self.plan),
            Arc::clone(&self.workload),
            Arc::clone(&self.region),
        );
        let hooks = self.hooks;
        let builder = Process::builder()
            .name(format!("LoadWorker-{}", number + 1))
            .daemon(true);
        let builder = if hooks.threads_allowed {
            // SAFETY: who set this has promised it.
            unsafe { builder.fork_despite_threads() }
        } else {
            builder
        };
        let process = builder.target(move || {
            if let Some(after) = hooks.after_in_child {
                after();
            }
            worker::work(number, &plan, &region, &*workload)
        });
        if let Some(before) = hooks.before {
            before();
        }
        let started = process.start();
        if let Some(after) = hooks.after_in_parent {
            after();
        }
        started?;
        Ok(process)
    }

    fn seat_state(&self, number: u32) -> u32 {
        self.region
            .seat(number)
            .read_head(|head| head.state.load(Ordering::Acquire))
    }

    fn await_setup(&mut self) -> Result<()> {
        let deadline = Instant::now() + SETUP_LIMIT;
        let mut pause = Duration::from_micros(100);
        loop {
            self.check_failures()?;
            let ready =
                (0..self.region.seats()).all(|number| self.seat_state(number) >= SeatState::Ready as u32);
            if ready {
                return Ok(());
            }
            for (number, member) in self.members.iter().enumerate() {
                let state = self.seat_state(number as u32);
                if state < SeatState::Ready as u32 {
                    if let Some(status) = member.process.exit_status() {
                        return Err(Error::system(format!(
                            "worker {number} {status} before it was ready"
                        )));
                    }
                }
            }
            if Instant::now() > deadline {
                return Err(Error::system(format!(
                    "the workers were not ready after {SETUP_LIMIT:?}"
                )));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }

    fn go(&mut self) {
        self.collector.begin();
        self.start_ns = now_ns() + LEAD_NS;
        let control = self.region.control();
        // Sync point *start*: the moment comes before the word that workers sleep on.
        control.start_ns.store(self.start_ns, Ordering::Relaxed);
        control.go.store(1, Ordering::Release);
        futex::wake(&control.go, u32::MAX);
    }

    fn check_failures(&self) -> Result<()> {
        for number in 0..self.region.seats() {
            if self.seat_state(number) == SeatState::Failed as u32 {
                let why = self
                    .region
                    .seat(number)
                    .read_head(|head| head.failure.read_failure());
                return Err(Error::system(why));
            }
        }
        Ok(())
    }

    /// The moment after which no new requests begin; `None` if only their number ends the run.
    fn load_end_ns(&self) -> Option<u64> {
        let planned = self
            .plan
            .load_duration()
            .map(|duration| self.start_ns.saturating_add(duration.as_nanos() as u64));
        match (planned, self.stopped_ns) {
            (Some(planned), Some(stopped)) => Some(planned.min(stopped)),
            (planned, stopped) => planned.or(stopped),
        }
    }

    /// How far it has come.
    pub fn state(&self) -> RunState {
        let now = now_ns();
        if self.finished {
            return if self.stopped_ns.is_some() {
                RunState::Stopped
            } else {
                RunState::Finished
            };
        }
        if self.load_end_ns().is_some_and(|end| now >= end) {
            return RunState::Draining;
        }
        if now < self.start_ns.saturating_add(self.plan.warmup.as_nanos() as u64)
            && !self.plan.warmup.is_zero()
        {
            return RunState::WarmingUp;
        }
        RunState::Running
    }

    /// Looks after the workers once: notes who is through, replaces who has died, fetches the seconds that are over.
    fn tick(&mut self) -> Result<()> {
        if self.finished {
            return Ok(());
        }
        self.check_failures()?;
        let now = now_ns();
        // A worker that dies now would have nothing left to begin.
        let replace = self.load_end_ns().is_none_or(|end| now < end);
        for number in 0..self.members.len() {
            if self.members[number].done {
                continue;
            }
            let Some(status) = self.members[number].process.exit_status() else {
                continue;
            };
            if self.seat_state(number as u32) >= SeatState::Done as u32 {
                self.check_failures()?;
                self.members[number].done = true;
                continue;
            }
            let death = format!(
                "worker {number} (pid {}) {status}",
                self.members[number].process.pid().unwrap_or(0)
            );
            let short = self.members[number].started.elapsed() < SHORT_LIFE;
            let member = &mut self.members[number];
            member.short_lives = if short { member.short_lives + 1 } else { 0 };
            member.last_death = Some(death.clone());
            if member.short_lives > MOST_SHORT_LIVES {
                return Err(Error::system(format!(
                    "{death}, as have {MOST_SHORT_LIVES} before it, as soon as they had begun"
                )));
            }
            member.restarts += 1;
            if replace {
                let process = self.fork(number as u32)?;
                let member = &mut self.members[number];
                member.process = process;
                member.started = Instant::now();
            } else {
                member.done = true;
            }
        }
        if replace {
            self.collector.look_at_cores(now);
        }
        self.finished = self.members.iter().all(|member| member.done);
        self.collector
            .fetch_seconds(&self.region, &self.plan, self.start_ns, now, self.finished);
        Ok(())
    }

    /// Looks after the workers until the run is over or this time has passed, and says whether it is over. Returns early
    /// when a signal arrives.
    ///
    /// # Errors
    ///
    /// If the run cannot go on: a workload gave up, or workers die as soon as they start.
    pub fn wait(&mut self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            self.tick()?;
            let now = Instant::now();
            if self.finished || now >= deadline {
                return Ok(self.finished);
            }
            let pause = TICK.min(deadline - now);
            let living: Vec<_> = self
                .members
                .iter()
                .filter(|member| !member.done)
                .filter_map(|member| member.process.pidfd().ok())
                .collect();
            match procession::os::event::wait_readable(&living, Some(pause)) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(self.finished),
                Err(error) => return Err(Error::os("wait for the workers")(error)),
                Ok(_) => {}
            }
        }
    }

    /// What it has come to so far. Reads shared memory; the workers do not notice.
    ///
    /// # Errors
    ///
    /// As [`Run::wait`].
    pub fn snapshot(&mut self) -> Result<RunResult> {
        self.tick()?;
        Ok(self.result())
    }

    /// Promises one thing more, which a scenario has said while it ran. Workers do not need to know.
    pub fn add_slo(&mut self, slo: Slo) {
        if !self.plan.slos.contains(&slo) {
            Arc::make_mut(&mut self.plan).slos.push(slo);
        }
    }

    /// Ends it early: nothing new begins, and what is in flight has a second to end. Called again, it ends at once.
    pub fn stop(&mut self) {
        let control = self.region.control();
        let stage = control.stop.load(Ordering::Relaxed);
        if self.stopped_ns.is_none() {
            self.stopped_ns = Some(now_ns().max(self.start_ns));
        }
        control.stop.store((stage + 1).min(2), Ordering::Release);
    }

    /// Waits until it is over, however long that takes, and says what it came to.
    ///
    /// # Errors
    ///
    /// As [`Run::wait`].
    pub fn finish(mut self) -> Result<RunResult> {
        while !self.wait(Duration::from_secs(1))? {}
        Ok(self.result())
    }

    fn result(&self) -> RunResult {
        self.collector.result(&collect::Progress {
            plan: &self.plan,
            region: &self.region,
            members: &self.members,
            state: self.state(),
            start_ns: self.start_ns,
            load_end_ns: self.load_end_ns(),
            now_ns: now_ns(),
        })
    }

    /// Process numbers of the workers, by their numbers; those that have ended included.
    pub fn worker_pids(&self) -> Vec<u32> {
        self.members
            .iter()
            .filter_map(|member| member.process.pid())
            .collect()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.region.control().stop.store(2, Ordering::Release);
        for member in &self.members {
            if !member.done {
                let _ = member.process.kill();
                let _ = member.process.join();
            }
        }
    }
}

/// The workload of a target that needs nothing from the caller.
fn built_in(target: &Target) -> Result<Arc<dyn Workload>> {
    match target {
        Target::Custom { name } => Err(Error::plan(format!(
            "{name} is not built in: start it with its workload"
        ))),
        // Looked up here, so that a wrong name is an error before anything begins.
        Target::Http(target) => match target.version {
            HttpVersion::Http1 => driven(Http1::new(target), target.requests.len()),
            HttpVersion::Http2 => driven(Http2::new(target), target.requests.len()),
        },
        Target::Tcp(target) => driven(Tcp::new(target), 1),
        Target::Udp(target) => driven(Udp::new(target), 1),
    }
}

fn driven<P: Protocol + Clone + Send + Sync + 'static>(
    prepared: std::result::Result<P, Failure>,
    steps: usize,
) -> Result<Arc<dyn Workload>> {
    let prepared = prepared.map_err(|failure| Error::system(failure.text))?;
    Ok(Arc::new(Driven::new(steps, move |_: &Plan| Ok(prepared.clone()))))
}
