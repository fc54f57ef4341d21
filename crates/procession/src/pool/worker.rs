//! The worker's side of a pool: taking tasks, giving results.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use crate::channel::{Channel, Idle, Note, Record, Seat, Slot, SpinBudget, What};
use crate::os::event::Event;
use crate::os::process::{exit_now, flush_c_streams, private_resident_bytes};
use crate::os::time;

use super::output::OutputFile;

/// A worker's place in its pool.
#[derive(Debug)]
pub struct Worker {
    channel: Arc<Channel>,
    results: Event,
    seat: u32,
    budget: SpinBudget,
    searching: bool,
    tasks_left: u64,
    /// Bytes of memory of its own with which it ends; 0 for any.
    recycle_bytes: u64,
    weigh_at_ns: u64,
    /// When the running item began, if somebody reads events; 0 else.
    told_ns: Cell<u64>,
    failed: Cell<bool>,
    /// Where the tasks' output goes, if it is kept.
    output: Option<OutputFile>,
}

/// The exit code of a worker that cannot tell its caller of results any more.
const CLOSED: i32 = 71;

/// How often a worker that is recycled at some size looks at its memory.
const WEIGH_EVERY_NS: u64 = 20_000_000;

impl Worker {
    /// Sits down in `seat`; `results` is the event that the caller awaits, `output` the supervisor's file for this worker.
    pub fn new(channel: Arc<Channel>, results: Event, seat: u32, output: Option<OutputFile>) -> Self {
        let limit = channel.header().life.tasks_per_worker.load(Ordering::Relaxed);
        let recycle_bytes = channel.header().life.recycle_memory.load(Ordering::Relaxed);
        let tasks_left = if limit == 0 { u64::MAX } else { limit };
        Worker {
            channel,
            results,
            seat,
            budget: SpinBudget::default(),
            searching: false,
            tasks_left,
            recycle_bytes,
            weigh_at_ns: 0,
            told_ns: Cell::new(0),
            failed: Cell::new(false),
            output,
        }
    }

    /// The number of the seat.
    pub fn seat(&self) -> u32 {
        self.seat
    }

    /// The shared memory.
    pub fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    /// Has the worker write its stack down when the supervisor asks for it by `signal`, into the file of `descriptor`.
    pub fn offer_stack(&self, signal: i32, descriptor: u32) {
        let seat = self.channel.seat(self.seat);
        seat.stack_fd.store(descriptor, Ordering::Relaxed);
        // Sync point *stack offered*: pairs with the Acquire in the supervisor.
        seat.stack_signal.store(signal as u32, Ordering::Release);
    }

    /// Whether what tasks write is kept.
    pub fn keeps_output(&self) -> bool {
        self.output.is_some()
    }

    /// What the running item has written, if that is kept and anything was. The language's own buffers must be empty.
    pub fn output_text(&self) -> Option<String> {
        let output = self.output.as_ref()?;
        flush_c_streams();
        output.text()
    }

    /// Forgets what the item has written whose result is out.
    #[inline]
    pub fn forget_output(&self) {
        if let Some(output) = &self.output {
            output.empty();
        }
    }

    /// Says that the worker is ready: from now on a failure is a task's, not the start's, and so is what is written, if
    /// that is kept.
    pub fn ready(&self) {
        if let Some(output) = &self.output {
            // Without it the output goes where it went before.
            let _ = output.take_over_standard();
        }
        #[cfg(feature = "crash-points")]
        crate::crash::arm();
        // Nobody is woken for this: who waits, waits for results.
        self.channel
            .seat(self.seat)
            .stage
            .store(Seat::READY, Ordering::Release);
        self.tell(What::WorkerReady, time::monotonic_ns(), 0, None);
    }

    /// Whether the worker has run as many tasks as one may.
    #[inline]
    pub fn is_spent(&self) -> bool {
        self.tasks_left == 0
    }

    /// Claims a task, if there is one.
    #[inline]
    pub fn claim(&mut self) -> Option<u32> {
        let slot = self.channel.claim(self.seat)?;
        let seat = self.channel.seat(self.seat);
        seat.claimed_ns
            .store(time::coarse_monotonic_ns(), Ordering::Relaxed);
        if self.searching {
            self.searching = false;
            self.channel.stop_searching(self.seat);
        }
        Some(slot)
    }

    /// Waits until there may be a task.
    pub fn idle(&mut self) -> Idle {
        self.searching = true;
        self.channel.idle(self.seat, &mut self.budget)
    }

    /// Begins the next item of a claimed slot; none is left when this returns `None`.
    #[inline]
    pub fn begin_item(&self, slot: &Slot) -> Option<u32> {
        let item = slot.next_item()?;
        let limit_ms = slot.timeout_ms.load(Ordering::Relaxed);
        if limit_ms != 0 {
            let now = time::monotonic_ns();
            let seat = self.channel.seat(self.seat);
            seat.started_ns.store(now, Ordering::Relaxed);
            seat.deadline_ns
                .store(now + u64::from(limit_ms) * 1_000_000, Ordering::Release);
        }
        self.failed.set(false);
        if self.channel.has_event_readers() {
            let now = time::monotonic_ns();
            self.told_ns.set(now);
            self.tell(What::Started, now, 0, Some((slot, item)));
        }
        Some(item)
    }

    /// Counts the running item's time from now on, with something on top.
    ///
    /// For what an item needs before it begins, such as a function that is loaded: that is not the item's own time.
    #[cold]
    pub fn restart_clock(&self, slot: &Slot, extra: Duration) {
        let limit_ms = slot.timeout_ms.load(Ordering::Relaxed);
        if limit_ms == 0 {
            return;
        }
        let now = time::monotonic_ns();
        let at = now + u64::from(limit_ms) * 1_000_000 + extra.as_nanos() as u64;
        let seat = self.channel.seat(self.seat);
        seat.started_ns.store(now, Ordering::Relaxed);
        // Once the supervisor has decided to kill, it does.
        let _ = seat
            .deadline_ns
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |was| {
                (was != 0 && was != Seat::DOOMED).then_some(at)
            });
    }

    /// Ends the running item, before anything of its result is published.
    ///
    /// Waits to be killed if its time was over: the supervisor has decided so, and the caller will be told so.
    #[inline]
    pub fn end_item(&self, slot: &Slot) {
        count(&self.channel.seat(self.seat).items);
        if self.told_ns.get() != 0 {
            let (now, began) = (time::monotonic_ns(), self.told_ns.take());
            let (next, _) = slot.range();
            let what = if self.failed.get() {
                What::Failed
            } else {
                What::Finished
            };
            self.tell(what, now, (now - began) as i64, Some((slot, next - 1)));
        }
        if slot.timeout_ms.load(Ordering::Relaxed) != 0 {
            let seat = self.channel.seat(self.seat);
            while seat.deadline_ns.swap(0, Ordering::AcqRel) == Seat::DOOMED {
                seat.deadline_ns.store(Seat::DOOMED, Ordering::Release);
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Counts the running item as one that raised or panicked.
    ///
    /// Comes before [`Worker::end_item`].
    pub fn count_failure(&self) {
        self.failed.set(true);
        count(&self.channel.seat(self.seat).failed);
    }

    /// Tells an event of this worker, and of an item of a slot.
    #[cold]
    fn tell(&self, what: What, time_ns: u64, value: i64, of: Option<(&Slot, u32)>) {
        let seat = self.channel.seat(self.seat);
        let current = seat.current.load(Ordering::Relaxed).saturating_sub(1);
        self.channel.tell_event(&Record {
            what,
            time_ns,
            worker: seat.number.load(Ordering::Relaxed),
            pid: std::process::id(),
            function: of.map_or(0, |(slot, _)| slot.function.load(Ordering::Relaxed)),
            item: of.map_or(Note::NO_ITEM, |(_, item)| self.channel.note(current).item(item)),
            value,
        });
    }

    /// Publishes a slot's result.
    #[inline]
    pub fn complete(&mut self, slot: u32) {
        self.tasks_left -= 1;
        count(&self.channel.seat(self.seat).items_done);
        let wakes = self.channel.complete(self.seat, slot) && self.channel.caller_wants_waking();
        if wakes && !self.results.signal() {
            // The task has closed descriptors that are not its own. The result is out, and the supervisor wakes the caller
            // for a worker that has ended.
            exit_now(CLOSED);
        }
        if self.recycle_bytes != 0 && self.tasks_left != 0 {
            self.weigh();
        }
    }

    /// Has the worker end, now that it has no task, if it has grown too much.
    #[cold]
    fn weigh(&mut self) {
        let now = time::monotonic_ns();
        if now < self.weigh_at_ns {
            return;
        }
        self.weigh_at_ns = now + WEIGH_EVERY_NS;
        let seat = self.channel.seat(self.seat);
        let bytes = private_resident_bytes(std::process::id()).unwrap_or(0);
        if bytes.saturating_sub(seat.inherited_bytes.load(Ordering::Relaxed)) >= self.recycle_bytes {
            self.tasks_left = 0;
        }
    }

    /// Says why the pool can have no workers; the first to say so is heard.
    pub fn report_broken(&self, text: &str) {
        report_broken(&self.channel, &self.results, text);
    }
}

/// Adds one to a word that nobody else writes.
#[inline]
fn count(word: &AtomicU64) {
    word.store(word.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Records why a pool can have no workers, and tells its caller. The first record stays.
pub fn report_broken(channel: &Channel, results: &Event, text: &str) {
    let life = &channel.header().life;
    let arena = channel.arena();
    let bytes = text.as_bytes();
    let block = arena.alloc(bytes.len() as u64, crate::shm::Owner::CALLER).ok();
    if let Some(block) = block {
        // SAFETY: the block has at least that many bytes, and it is nobody else's until its number is stored below.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), arena.start(block), bytes.len()) };
        let mine = life
            .broken_block
            .compare_exchange(0, block.raw(), Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        if mine {
            life.broken_len.store(bytes.len() as u64, Ordering::Relaxed);
        } else {
            arena.free(block, crate::shm::Owner::CALLER);
        }
    }
    // Sync point *broken text*: pairs with the Acquire in `Dispatcher::broken`.
    life.broken.store(1, Ordering::Release);
    results.signal();
}
