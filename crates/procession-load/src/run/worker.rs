//! What a worker process knows, whatever it runs.

use super::usage::{Usage, UsageMeter};
use super::Workload;
use crate::now_ns;
use crate::plan::Plan;
use crate::record::{Recorder, Region, SeatState};
use crate::schedule::{share_of_iterations, Place, Random, Schedule, Users};
use procession::os::futex;
use procession::os::process as os;
use rustix::process::{getrlimit, setrlimit, Resource};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// How long what is in flight is waited for when the tester ends the run.
const STOP_DRAIN_NS: u64 = 1_000_000_000;
const USAGE_INTERVAL_NS: u64 = 100_000_000;
/// How often it is looked at how long this worker waited for a core, which costs about a microsecond. What happened within
/// one such interval is not told apart, so a longer one would take more requests for delayed.
const CORE_WAIT_INTERVAL_NS: u64 = 1_000_000;

/// What a worker may do at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Begin new requests.
    Running,
    /// Finish what was begun.
    Draining,
    /// Count what is unfinished as censored, and return.
    Over,
}

/// One worker process of a run: when it is to begin something, and where it counts what came of it.
///
/// Who runs several threads in a worker puts this behind a lock: nothing here waits, except for
/// [`wait_for_start`](Worker::wait_for_start).
#[derive(Debug)]
pub struct Worker {
    number: u32,
    workers: u32,
    plan: Arc<Plan>,
    region: Arc<Region>,
    recorder: Recorder,
    schedule: Option<Schedule>,
    next: Option<(Place, u64)>,
    users: Users,
    begun: u64,
    budget: u64,
    start_ns: u64,
    load_end_ns: u64,
    over_ns: u64,
    stop_seen: u32,
    meter: UsageMeter,
    usage: Usage,
    usage_ns: u64,
    core_wait_ns: u64,
    core_wait_ended: u64,
    core_wait_next_ns: u64,
    random: Random,
}

/// The life of a worker process; gives its exit code.
pub(super) fn work(number: u32, plan: &Arc<Plan>, region: &Arc<Region>, workload: &dyn Workload) -> i32 {
    // Ctrl-C is for the controlling process: it decides what becomes of the workers.
    let _ = os::ignore_signal(os::SIGINT);
    // Without it timers are up to 50 µs late, which would be the schedule's error.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        rustix::process::Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
    let mut worker = Worker::new(number, plan, region);
    match workload.run(&mut worker) {
        Ok(()) => {
            worker.leave();
            0
        }
        Err(why) => {
            worker.recorder.fail(&why);
            1
        }
    }
}

impl Worker {
    fn new(number: u32, plan: &Arc<Plan>, region: &Arc<Region>) -> Worker {
        let workers = region.seats();
        let recorder = Recorder::new(Arc::clone(region), number, plan.pacing.has_rate());
        let begun = recorder.begun();
        let budget = plan.iterations.map_or(u64::MAX, |iterations| {
            share_of_iterations(iterations, number, workers)
        });
        Worker {
            number,
            workers,
            plan: Arc::clone(plan),
            region: Arc::clone(region),
            recorder,
            schedule: None,
            next: None,
            users: Users::new(plan, number, workers),
            begun,
            budget,
            start_ns: 0,
            load_end_ns: u64::MAX,
            over_ns: u64::MAX,
            stop_seen: 0,
            meter: UsageMeter::new(),
            usage: Usage::default(),
            usage_ns: 0,
            core_wait_ns: 0,
            core_wait_ended: 0,
            core_wait_next_ns: u64::MAX,
            random: Random::new(plan.seed ^ 0xA5A5, u64::from(number) << 32 | begun),
        }
    }

    /// Says that this worker is ready, and sleeps until the moment at which all begin, which it returns. A worker that
    /// takes a dead one's place returns at once.
    pub fn wait_for_start(&mut self) -> u64 {
        self.recorder.set_state(SeatState::Ready);
        let region = Arc::clone(&self.region);
        let control = region.control();
        // Sync point *start*.
        while control.go.load(Ordering::Acquire) == 0 {
            futex::wait(&control.go, 0, Some(Duration::from_millis(200)));
        }
        self.start_ns = control.start_ns.load(Ordering::Relaxed);
        let after = |duration: Duration| self.start_ns.saturating_add(duration.as_nanos() as u64);
        self.load_end_ns = self.plan.load_duration().map_or(u64::MAX, after);
        self.over_ns = self.load_end_ns.saturating_add(self.plan.drain.as_nanos() as u64);
        let warmup_end_ns = after(self.plan.warmup);
        loop {
            let now = now_ns();
            if now >= self.start_ns {
                break;
            }
            std::thread::sleep(Duration::from_nanos(self.start_ns - now));
        }
        self.recorder
            .begin(self.start_ns, warmup_end_ns, self.load_end_ns);
        self.schedule = Schedule::new(&self.plan, self.number, self.workers, self.start_ns);
        let place = Place {
            taken: self.begun,
            position: f64::from_bits(self.recorder.last_due_ns()),
        };
        self.next = self.schedule.as_ref().and_then(|schedule| schedule.after(place));
        self.usage = self.meter.read();
        self.usage_ns = now_ns();
        self.core_wait_ns = self.usage.cpu_wait_ns;
        self.core_wait_ended = self.recorder.ended_so_far();
        self.core_wait_next_ns = self.usage_ns + CORE_WAIT_INTERVAL_NS;
        self.recorder.set_state(SeatState::Running);
        self.start_ns
    }

    /// Which worker this is, counting from 0.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// How many there are.
    pub fn workers(&self) -> u32 {
        self.workers
    }

    /// What is run.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// When the run began.
    pub fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// Where it counts.
    pub fn recorder(&mut self) -> &mut Recorder {
        &mut self.recorder
    }

    /// What all workers together have asked of machines of others.
    pub(crate) fn strangers_ns(&self) -> &AtomicU64 {
        &self.region.control().strangers_ns
    }

    /// Random numbers of this worker, which depend on the plan's seed.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// What may be done at this moment. Cheap enough to be asked in each turn of a loop, which should happen at least every
    /// 100 ms.
    #[inline]
    pub fn phase(&mut self, now_ns: u64) -> Phase {
        let stop = self.region.control().stop.load(Ordering::Relaxed);
        if stop != self.stop_seen {
            self.stop(stop, now_ns);
        }
        if now_ns.saturating_sub(self.usage_ns) > USAGE_INTERVAL_NS {
            self.publish_usage(now_ns);
        }
        if now_ns < self.load_end_ns {
            Phase::Running
        } else if now_ns < self.over_ns {
            Phase::Draining
        } else {
            Phase::Over
        }
    }

    #[cold]
    fn stop(&mut self, stage: u32, now_ns: u64) {
        if self.stop_seen == 0 {
            self.load_end_ns = self.load_end_ns.min(now_ns);
            self.recorder.begin_end(self.load_end_ns);
        }
        self.stop_seen = stage;
        let drain = if stage >= 2 { 0 } else { STOP_DRAIN_NS };
        self.over_ns = self.over_ns.min(now_ns.saturating_add(drain));
    }

    /// Says that everything that has come is counted, and that the loop is about to wait for more: the moment to ask how
    /// long this worker had to wait for a core. One that never says so is judged by the share of time alone.
    #[inline]
    pub fn turned(&mut self, now_ns: u64) {
        if now_ns >= self.core_wait_next_ns {
            self.look_at_core_wait(now_ns);
        }
    }

    #[cold]
    fn look_at_core_wait(&mut self, now_ns: u64) {
        self.core_wait_next_ns = now_ns + CORE_WAIT_INTERVAL_NS;
        let (waited, ended) = (self.meter.wait_ns(), self.recorder.ended_so_far());
        // If nothing has ended, the responses that waited are yet to be read, so the time is theirs.
        if ended == self.core_wait_ended {
            return;
        }
        self.recorder.core_wait(
            ended - self.core_wait_ended,
            waited.saturating_sub(self.core_wait_ns),
        );
        (self.core_wait_ns, self.core_wait_ended) = (waited, ended);
    }

    #[cold]
    fn publish_usage(&mut self, now_ns: u64) {
        let usage = self.meter.read();
        self.recorder.usage(
            now_ns.saturating_sub(self.usage_ns),
            usage.cpu_ns.saturating_sub(self.usage.cpu_ns),
            usage.cpu_wait_ns.saturating_sub(self.usage.cpu_wait_ns),
        );
        self.usage = usage;
        self.usage_ns = now_ns;
    }

    /// The moment of the next arrival, in the open model; `None` if there is none any more, or in the closed model.
    #[inline]
    pub fn next_due_ns(&self) -> Option<u64> {
        match self.next {
            Some((_, due_ns)) if self.begun < self.budget && due_ns < self.load_end_ns => Some(due_ns),
            _ => None,
        }
    }

    /// Until when a rate lasts of which nothing is due any more: it is one over all of the time for which it was asked. `None` if
    /// only a number of requests ends it, or it has ended.
    #[inline]
    pub(crate) fn rate_lasts_until_ns(&self, now_ns: u64) -> Option<u64> {
        let lasts = self.schedule.is_some() && self.begun < self.budget && now_ns < self.load_end_ns;
        (lasts && self.load_end_ns < u64::MAX).then_some(self.load_end_ns)
    }

    /// Takes the next arrival, if it is due: something begins that was to begin at the moment that is returned.
    #[inline]
    pub fn take_arrival(&mut self, now_ns: u64) -> Option<u64> {
        let due_ns = self.next_due_ns().filter(|&due_ns| due_ns <= now_ns)?;
        let (place, _) = self.next?;
        self.begun = place.taken;
        self.recorder.begin_arrival(place.taken, place.position.to_bits());
        self.next = self.schedule.as_ref().and_then(|schedule| schedule.after(place));
        Some(due_ns)
    }

    /// In the closed model: whether one more may begin, which is counted as begun if so.
    #[inline]
    pub fn take_iteration(&mut self, now_ns: u64) -> bool {
        if self.begun >= self.budget || now_ns >= self.load_end_ns {
            return false;
        }
        self.begun += 1;
        self.recorder.begin_arrival(self.begun, 0);
        true
    }

    /// Whether something may still begin, now or later.
    #[inline]
    pub fn may_begin(&self, now_ns: u64) -> bool {
        if self.schedule.is_some() {
            return self.next_due_ns().is_some();
        }
        self.begun < self.budget && now_ns < self.load_end_ns
    }

    /// Counts all arrivals that were due and not taken until this moment as unsent, at the end of a run.
    pub fn give_up_arrivals(&mut self, step: crate::StepId, now_ns: u64) {
        while let Some(due_ns) = self.take_arrival(now_ns) {
            self.recorder.unsent(step, due_ns, now_ns);
        }
    }

    /// In the closed model: how many users of this worker there are at this moment. In the open model: how many of its
    /// requests may be in flight.
    pub fn users_at(&self, now_ns: u64) -> u32 {
        self.users.at(now_ns.saturating_sub(self.start_ns) as f64 * 1e-9)
    }

    /// The most users this worker will have.
    pub fn most_users(&self) -> u32 {
        self.users.most()
    }

    /// Whether the number of users changes during the run.
    pub fn users_change(&self) -> bool {
        self.users.change()
    }

    /// The number among all users of the one that this worker calls `local`, both counting from 0.
    pub fn user_id(&self, local: u32) -> u64 {
        u64::from(self.number) + u64::from(local) * u64::from(self.workers)
    }

    /// How long a user thinks now, in nanoseconds.
    #[inline]
    pub fn think_ns(&mut self) -> u64 {
        let think = self.plan.pacing.think();
        if think.most.is_zero() {
            return 0;
        }
        let (least, most) = (think.least.as_nanos() as f64, think.most.as_nanos() as f64);
        (least + (most - least) * self.random.unit()) as u64
    }

    fn leave(&mut self) {
        let now = now_ns();
        self.publish_usage(now);
        self.recorder.leave(now);
        self.recorder.set_state(SeatState::Done);
    }
}
