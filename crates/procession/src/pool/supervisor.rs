//! The supervisor: one single-threaded process per pool that forks the workers and answers for them.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use crate::channel::{Channel, Note, Record, Seat, Stage, What};
use crate::os::children::{same_session, ChildEvents};
use crate::os::event::{wait_readable, Event};
use crate::os::process::{
    become_subreaper, block_all_signals, children_of, exit_now, kill, kill_main_thread, len_of_file_of,
    parent_pid, private_resident_bytes, read_file_of, restore_signal_mask, set_parent_death_signal,
    wait_any_child, ExitStatus, Forked, SignalMask,
};
use crate::os::{socket, time};
use crate::shm::Owner;

use super::output::OutputFile;
use super::worker::report_broken;

/// What the caller tells the supervisor, one byte a message.
pub mod order {
    /// End everything at once.
    pub const TERMINATE: u8 = b'T';
    /// Look at the shared words again: a seat became vacant, or the stage has changed.
    pub const LOOK: u8 = b'L';
}

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
const SIGCONT: i32 = 18;
/// How long the ended have to end by themselves before they are killed.
const GRACE: Duration = Duration::from_millis(300);
/// How long the worker of a task that ran too long, took too much or was cancelled has after SIGTERM.
const TASK_GRACE: Duration = Duration::from_millis(100);
/// How long a worker may take to write its stack down.
const STACK_PATIENCE: Duration = Duration::from_millis(50);
/// How much of a stack is kept.
const MOST_STACK_BYTES: usize = 16 << 10;
/// How often the workers' memory is looked at, if it is limited and one of them has used half of it, and otherwise.
const WEIGH_OFTEN: Duration = Duration::from_millis(5);
const WEIGH_SELDOM: Duration = Duration::from_millis(50);
/// How often the memory of what the workers write is bounded, if it is kept: in this time a task can write some megabytes.
const TRIM_EVERY: Duration = Duration::from_millis(50);
/// Workers that may end one after the other before any is ready, before the pool counts as broken.
const FAILED_STARTS: u32 = 3;
/// The same for workers that somebody killed (SIGKILL, SIGTERM): as likely from outside as for what they did.
const KILLED_STARTS: u32 = 20;

/// What a supervisor is made of. Whoever starts the process hands these in, inherited or received.
#[derive(Debug)]
pub struct Supervisor {
    /// The pool's shared memory.
    pub channel: Arc<Channel>,
    /// The event that the caller awaits.
    pub results: Event,
    /// The line to the caller; its end is the pool's end.
    pub control: OwnedFd,
    /// The caller's pidfd; its end is the pool's end, too, even if another process holds the line open.
    pub caller: OwnedFd,
}

/// Who this process is when [`Supervisor::run`] returns.
#[derive(Debug)]
pub enum Role {
    /// A worker, forked just now.
    Worker {
        /// Its seat.
        seat: u32,
        /// The pool's memory.
        channel: Arc<Channel>,
        /// The event that the caller awaits.
        results: Event,
        /// Where its tasks' output goes, if that is kept.
        output: Option<OutputFile>,
    },
    /// The supervisor, whose pool is over.
    Over,
}

struct Hand {
    seat: u32,
    ending: Ending,
    output: Option<OutputFile>,
}

struct Watch {
    workers: HashMap<u32, Hand>,
    failed_starts: u32,
    /// When those who have been asked to end will be killed; 0 if nobody was asked.
    kill_at_ns: u64,
    /// Processes that dead workers left, and when they will be killed.
    strays_kill_at_ns: u64,
    /// When the workers' memory will be looked at next, if it is limited.
    weigh_at_ns: u64,
    /// When the workers' output will be looked at next, if it is kept.
    trim_at_ns: u64,
    ending: bool,
}

impl Supervisor {
    /// Supervises until the pool is over, or returns as a worker in a process forked by `fork`.
    ///
    /// `fork` is called with all signals blocked but SIGCHLD, and must be a libc fork, with whatever its language needs around it.
    ///
    /// # Errors
    /// When the system refuses what every supervisor needs; the pool has been told that it is broken.
    pub fn run(self, fork: &mut dyn FnMut() -> io::Result<Forked>) -> io::Result<Role> {
        let mask = block_all_signals();
        let supervisor = std::process::id();
        self.channel
            .header()
            .watch
            .supervisor_pid
            .store(supervisor, Ordering::Relaxed);
        let prepared = become_subreaper().and_then(|()| ChildEvents::new());
        let children = match prepared {
            Ok(children) => children,
            Err(e) => {
                report_broken(
                    &self.channel,
                    &self.results,
                    &format!("the supervisor cannot watch its workers: {e}"),
                );
                return Err(e);
            }
        };
        let mut watch = Watch {
            workers: HashMap::new(),
            failed_starts: 0,
            kill_at_ns: 0,
            strays_kill_at_ns: 0,
            weigh_at_ns: 0,
            trim_at_ns: 0,
            ending: false,
        };
        loop {
            let retry = match self.staff(&mut watch, fork) {
                Staffed::Child(seat, output) => {
                    children.hand_back();
                    return Ok(self.become_worker(seat, output, supervisor, &mask));
                }
                Staffed::Later => Some(Duration::from_millis(50)),
                Staffed::Full => None,
            };
            if watch.ending && watch.workers.is_empty() {
                self.end_strays();
                return Ok(Role::Over);
            }
            let timeout = [retry, self.next_deadline(&watch)].into_iter().flatten().min();
            let fds = [children.as_fd(), self.caller.as_fd(), self.control.as_fd()];
            let ready = wait_readable(&fds, timeout).unwrap_or(0);
            if ready & 1 != 0 {
                children.clear();
            }
            if ready & 2 != 0 {
                self.kill_all(&mut watch);
            } else if ready & 4 != 0 {
                self.obey(&mut watch);
            }
            self.reap(&mut watch);
            self.enforce(&mut watch);
        }
    }

    /// `supervisor` is the number of the process that forked this one. It comes by the memory that both had before the
    /// fork: the seat's words are being written by the supervisor at this moment.
    fn become_worker(
        self,
        seat: u32,
        output: Option<OutputFile>,
        supervisor: u32,
        mask: &SignalMask,
    ) -> Role {
        // The supervisor never has a second thread, so its "parent thread" lives as long as it does. Should it have
        // died just now, before the request was in force, the worker sees another parent.
        let _ = set_parent_death_signal(SIGKILL);
        if parent_pid() != supervisor {
            exit_now(1);
        }
        self.channel
            .seat(seat)
            .pid
            .store(std::process::id(), Ordering::Relaxed);
        restore_signal_mask(mask);
        Role::Worker {
            seat,
            channel: self.channel,
            results: self.results,
            output,
        }
    }

    /// Fills vacant seats with workers.
    fn staff(&self, watch: &mut Watch, fork: &mut dyn FnMut() -> io::Result<Forked>) -> Staffed {
        let life = &self.channel.header().life;
        while !watch.ending && self.channel.header().stage() == Stage::Running {
            if life.broken.load(Ordering::Relaxed) != 0 {
                self.ask_all_to_end(watch);
                return Staffed::Full;
            }
            if watch.workers.len() >= life.workers.load(Ordering::Relaxed) as usize {
                return Staffed::Full;
            }
            let vacant = |seat: &u32| self.channel.seat(*seat).stage.load(Ordering::Acquire) == Seat::VACANT;
            let Some(seat) = (0..self.channel.geometry().seats).find(vacant) else {
                life.seats_wanted.store(1, Ordering::SeqCst);
                if (0..self.channel.geometry().seats).any(|s| vacant(&s)) {
                    continue;
                }
                return Staffed::Full;
            };
            let s = self.channel.seat(seat);
            s.number.store(
                life.started.fetch_add(1, Ordering::Relaxed) + 1,
                Ordering::Relaxed,
            );
            s.killed.store(Seat::NOT_KILLED, Ordering::Relaxed);
            s.deadline_ns.store(0, Ordering::Relaxed);
            s.items_done.store(0, Ordering::Relaxed);
            s.claimed_ns.store(0, Ordering::Relaxed);
            s.pid.store(0, Ordering::Relaxed);
            s.stack_signal.store(0, Ordering::Relaxed);
            s.stack_done.store(0, Ordering::Relaxed);
            s.peak_bytes.store(0, Ordering::Relaxed);
            if life.memory_limit.load(Ordering::Relaxed) != 0
                || life.recycle_memory.load(Ordering::Relaxed) != 0
            {
                let inherited = private_resident_bytes(std::process::id()).unwrap_or(0);
                s.inherited_bytes.store(inherited, Ordering::Relaxed);
            }
            s.stage.store(Seat::STARTING, Ordering::Release);
            self.channel.set_live(seat, true);
            let kept = life.capture.load(Ordering::Relaxed) != 0;
            let output = kept.then(OutputFile::new).transpose();
            match output.and_then(|output| Ok((fork()?, output))) {
                Ok((Forked::Child, output)) => return Staffed::Child(seat, output),
                Ok((Forked::Parent(pid), output)) => {
                    s.pid.store(pid, Ordering::Relaxed);
                    watch.workers.insert(
                        pid,
                        Hand {
                            seat,
                            ending: Ending::NotAsked,
                            output,
                        },
                    );
                }
                Err(e) => {
                    self.channel.set_live(seat, false);
                    s.stage.store(Seat::VACANT, Ordering::Release);
                    watch.failed_starts += 1;
                    // A machine without room for a process may have some in a moment; for ever is another matter.
                    if watch.failed_starts > 40 || watch.workers.is_empty() && watch.failed_starts > 20 {
                        report_broken(
                            &self.channel,
                            &self.results,
                            &format!("cannot fork a worker: {e}"),
                        );
                    }
                    return Staffed::Later;
                }
            }
        }
        Staffed::Full
    }

    fn obey(&self, watch: &mut Watch) {
        match socket::receive(self.control.as_fd(), false) {
            Ok((bytes, _)) if bytes.is_empty() => self.kill_all(watch),
            Ok((bytes, _)) if bytes.contains(&order::TERMINATE) => self.ask_all_to_end(watch),
            Ok(_) => {
                if self.channel.header().stage() == Stage::Finishing {
                    watch.ending = true;
                    self.channel.wake_all_workers();
                }
                self.look_for_doomed(watch);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.kill_all(watch),
        }
    }

    fn ask_all_to_end(&self, watch: &mut Watch) {
        watch.ending = true;
        if watch.kill_at_ns == 0 {
            watch.kill_at_ns = time::monotonic_ns() + GRACE.as_nanos() as u64;
            for &pid in watch.workers.keys() {
                let _ = kill(pid, SIGTERM);
                // A stopped process hears nothing before it goes on.
                let _ = kill(pid, SIGCONT);
            }
        }
    }

    fn kill_all(&self, watch: &mut Watch) {
        watch.ending = true;
        watch.kill_at_ns = u64::MAX;
        for &pid in watch.workers.keys() {
            let _ = kill(pid, SIGKILL);
        }
    }

    fn reap(&self, watch: &mut Watch) {
        let mut told = false;
        while let Ok(Some((pid, status))) = wait_any_child(true) {
            let Some(hand) = watch.workers.remove(&pid) else {
                continue;
            };
            self.settle(watch, &hand, pid, status);
            told = true;
        }
        if told {
            self.results.signal();
        }
    }

    fn settle(&self, watch: &mut Watch, hand: &Hand, pid: u32, status: ExitStatus) {
        let seat = self.channel.seat(hand.seat);
        if let Some(text) = hand.output.as_ref().and_then(OutputFile::text) {
            if let Some((block, len)) = self.give_to_caller(text.as_bytes()) {
                seat.output_len.store(len, Ordering::Relaxed);
                seat.output_block.store(block, Ordering::Relaxed);
            }
        }
        let was_ready = seat.stage.load(Ordering::Acquire) == Seat::READY;
        let code = status.exit_code_like_python();
        seat.exit_code.store(code, Ordering::Relaxed);
        seat.ended_ns.store(time::monotonic_ns(), Ordering::Relaxed);
        self.channel.tell_event(&Record {
            what: What::WorkerEnded,
            time_ns: time::monotonic_ns(),
            worker: seat.number.load(Ordering::Relaxed),
            pid,
            function: 0,
            item: Note::NO_ITEM,
            value: i64::from(code),
        });
        self.channel.add_up(hand.seat, code == 0 || watch.ending);
        // Sync point *worker's end*: the caller's Acquire comes before it looks at what the dead one left.
        seat.stage.store(Seat::ENDED, Ordering::Release);
        self.channel.forget_worker(hand.seat);
        self.channel.header().life.ends.fetch_add(1, Ordering::Release);
        if was_ready {
            watch.failed_starts = 0;
        } else if !watch.ending {
            watch.failed_starts += 1;
            let from_outside = matches!(status.signal(), Some(SIGKILL | SIGTERM));
            if watch.failed_starts
                >= if from_outside {
                    KILLED_STARTS
                } else {
                    FAILED_STARTS
                }
            {
                let text = format!(
                    "{} workers in a row ended before they were ready; the last (pid {pid}) {status}",
                    watch.failed_starts
                );
                report_broken(&self.channel, &self.results, &text);
            }
        }
        if code != 0 && !watch.ending {
            // What a crashed worker had started has lost its owner.
            if self.signal_strays(watch, SIGTERM) {
                watch.strays_kill_at_ns = time::monotonic_ns() + GRACE.as_nanos() as u64;
            }
        }
    }

    /// Signals our children that are no workers: processes that workers started and left to us. Those that made a
    /// session of their own wanted to stay.
    fn signal_strays(&self, watch: &Watch, signal: i32) -> bool {
        let mut any = false;
        for pid in children_of(std::process::id()) {
            if !watch.workers.contains_key(&pid) && same_session(pid) {
                let _ = kill(pid, signal);
                any = true;
            }
        }
        any
    }

    fn next_deadline(&self, watch: &Watch) -> Option<Duration> {
        let now = time::monotonic_ns();
        let mut next = u64::MAX;
        for at in [watch.kill_at_ns, watch.strays_kill_at_ns] {
            if at != 0 && at != u64::MAX {
                next = next.min(at);
            }
        }
        let shortest = self
            .channel
            .header()
            .life
            .shortest_timeout_ms
            .load(Ordering::Relaxed);
        if shortest != 0 && !watch.workers.is_empty() {
            // A task that starts while we sleep cannot be due before the shortest limit is over.
            next = next.min(now + u64::from(shortest) * 1_000_000);
            for hand in watch.workers.values() {
                let at = self.channel.seat(hand.seat).deadline_ns.load(Ordering::Acquire);
                if at != 0 && at != Seat::DOOMED {
                    next = next.min(at);
                }
            }
        }
        if self.channel.header().life.memory_limit.load(Ordering::Relaxed) != 0 && !watch.workers.is_empty() {
            next = next.min(watch.weigh_at_ns);
        }
        if self.channel.header().life.capture.load(Ordering::Relaxed) != 0 && !watch.workers.is_empty() {
            next = next.min(watch.trim_at_ns);
        }
        for hand in watch.workers.values() {
            match hand.ending {
                // The worker cannot ring; it is done within a fraction of a millisecond.
                Ending::Dumping { .. } => next = next.min(now + 200_000),
                Ending::Asked { kill_at_ns } => next = next.min(kill_at_ns),
                Ending::NotAsked | Ending::Killed => {}
            }
        }
        (next != u64::MAX).then(|| Duration::from_nanos(next.saturating_sub(now)))
    }

    /// Kills in time: the whole pool, what dead workers have left, and workers for what their tasks did.
    fn enforce(&self, watch: &mut Watch) {
        let now = time::monotonic_ns();
        if watch.kill_at_ns != 0 && watch.kill_at_ns <= now {
            self.kill_all(watch);
        }
        if watch.strays_kill_at_ns != 0 && watch.strays_kill_at_ns <= now {
            watch.strays_kill_at_ns = 0;
            self.signal_strays(watch, SIGKILL);
        }
        self.weigh(watch, now);
        self.trim(watch, now);
        for (&pid, hand) in &mut watch.workers {
            let seat = self.channel.seat(hand.seat);
            match hand.ending {
                Ending::NotAsked => {
                    let at = seat.deadline_ns.load(Ordering::Acquire);
                    // The exchange fails if the item ended in this instant; then nobody is killed.
                    if at != 0
                        && at != Seat::DOOMED
                        && at <= now
                        && seat
                            .deadline_ns
                            .compare_exchange(at, Seat::DOOMED, Ordering::AcqRel, Ordering::Relaxed)
                            .is_ok()
                    {
                        seat.killed.store(Seat::KILLED_FOR_TIME, Ordering::Release);
                        hand.ending = ask_for_stack(seat, pid, true);
                    }
                }
                Ending::Dumping { until_ns, patient } => {
                    if seat.stack_done.load(Ordering::Acquire) != 0 || until_ns <= now {
                        self.take_stack(seat, pid);
                        hand.ending = if patient { ask_to_end(pid) } else { kill_now(pid) };
                    }
                }
                Ending::Asked { kill_at_ns } if kill_at_ns <= now => hand.ending = kill_now(pid),
                Ending::Asked { .. } | Ending::Killed => {}
            }
        }
    }

    /// Ends the workers whose tasks the caller has condemned.
    fn look_for_doomed(&self, watch: &mut Watch) {
        for (&pid, hand) in &mut watch.workers {
            if matches!(hand.ending, Ending::NotAsked) && self.channel.doomed_slot(hand.seat).is_some() {
                let seat = self.channel.seat(hand.seat);
                seat.killed.store(Seat::KILLED_BY_CANCEL, Ordering::Release);
                hand.ending = ask_to_end(pid);
            }
        }
    }

    /// Looks at the workers' memory, if it is limited, and kills those that have too much: for the task that they run, or
    /// if they run none, for what earlier ones have left.
    fn weigh(&self, watch: &mut Watch, now: u64) {
        let limit = self.channel.header().life.memory_limit.load(Ordering::Relaxed);
        if limit == 0 || now < watch.weigh_at_ns {
            return;
        }
        let mut heaviest = 0;
        for (&pid, hand) in &mut watch.workers {
            let seat = self.channel.seat(hand.seat);
            if !matches!(hand.ending, Ending::NotAsked) || seat.stage.load(Ordering::Acquire) != Seat::READY {
                continue;
            }
            let Some(bytes) = private_resident_bytes(pid) else {
                continue;
            };
            let own = bytes.saturating_sub(seat.inherited_bytes.load(Ordering::Relaxed));
            seat.peak_bytes.fetch_max(own, Ordering::Relaxed);
            heaviest = heaviest.max(own);
            if own <= limit {
                continue;
            }
            let slot = seat.current.load(Ordering::Acquire).checked_sub(1);
            let running = slot.filter(|&slot| slot < self.channel.geometry().slots);
            if running.is_some_and(|slot| !self.channel.doom(slot)) {
                // It has finished in this instant: its result counts, and its memory the next time.
                continue;
            }
            seat.killed.store(Seat::KILLED_FOR_MEMORY, Ordering::Release);
            hand.ending = match running {
                Some(_) => ask_for_stack(seat, pid, false),
                None => kill_now(pid),
            };
        }
        // Who has used half of it may use the other half soon.
        let pace = if heaviest > limit / 2 {
            WEIGH_OFTEN
        } else {
            WEIGH_SELDOM
        };
        watch.weigh_at_ns = now + pace.as_nanos() as u64;
    }

    /// Bounds the memory of what the workers write, if it is kept.
    fn trim(&self, watch: &mut Watch, now: u64) {
        if self.channel.header().life.capture.load(Ordering::Relaxed) == 0 || now < watch.trim_at_ns {
            return;
        }
        for output in watch.workers.values().filter_map(|hand| hand.output.as_ref()) {
            output.trim();
        }
        watch.trim_at_ns = now + TRIM_EVERY.as_nanos() as u64;
    }

    /// Keeps what a worker has written down of its stack, for the caller.
    fn take_stack(&self, seat: &Seat, pid: u32) {
        if seat.stack_signal.load(Ordering::Acquire) == 0 {
            return;
        }
        let descriptor = seat.stack_fd.load(Ordering::Relaxed);
        let from = seat.stack_from.load(Ordering::Relaxed);
        let bytes = read_file_of(pid, descriptor, u64::from(from), MOST_STACK_BYTES).unwrap_or_default();
        if bytes.is_empty() {
            return;
        }
        if let Some((block, len)) = self.give_to_caller(&bytes) {
            seat.stack_len.store(len, Ordering::Relaxed);
            seat.stack_block.store(block, Ordering::Release);
        }
    }

    /// Copies this into a block of the caller's, which is to be told the block's number and how many bytes of it count.
    fn give_to_caller(&self, bytes: &[u8]) -> Option<(u32, u32)> {
        let arena = self.channel.arena();
        let block = arena.alloc(bytes.len() as u64, Owner::CALLER).ok()?;
        // SAFETY: the block has at least that many bytes, and nobody else knows its number yet.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), arena.start(block), bytes.len()) };
        Some((block.raw(), bytes.len() as u32))
    }

    /// Ends what the workers have left behind; the pool's end waits for it, but not long.
    fn end_strays(&self) {
        let none = Watch {
            workers: HashMap::new(),
            failed_starts: 0,
            kill_at_ns: 0,
            strays_kill_at_ns: 0,
            weigh_at_ns: 0,
            trim_at_ns: 0,
            ending: true,
        };
        if !self.signal_strays(&none, SIGTERM) {
            return;
        }
        let kill_at = time::monotonic_ns() + GRACE.as_nanos() as u64;
        loop {
            while let Ok(Some(_)) = wait_any_child(true) {}
            if !children_of(std::process::id()).into_iter().any(same_session) {
                return;
            }
            if time::monotonic_ns() > kill_at {
                self.signal_strays(&none, SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Has a worker write its stack down, if it has offered to.
fn ask_for_stack(seat: &Seat, pid: u32, patient: bool) -> Ending {
    // Sync point *stack offered*: pairs with the Release in `Worker::offer_stack`.
    let signal = seat.stack_signal.load(Ordering::Acquire);
    // Somebody who watches may have asked before.
    let from = len_of_file_of(pid, seat.stack_fd.load(Ordering::Relaxed)).unwrap_or(0);
    seat.stack_from
        .store(u32::try_from(from).unwrap_or(0), Ordering::Relaxed);
    seat.stack_done.store(0, Ordering::Relaxed);
    if signal == 0 || kill_main_thread(pid, signal as i32).is_err() {
        return if patient { ask_to_end(pid) } else { kill_now(pid) };
    }
    Ending::Dumping {
        until_ns: time::monotonic_ns() + STACK_PATIENCE.as_nanos() as u64,
        patient,
    }
}

fn ask_to_end(pid: u32) -> Ending {
    let _ = kill(pid, SIGTERM);
    // A stopped process hears nothing before it goes on.
    let _ = kill(pid, SIGCONT);
    Ending::Asked {
        kill_at_ns: time::monotonic_ns() + TASK_GRACE.as_nanos() as u64,
    }
}

fn kill_now(pid: u32) -> Ending {
    let _ = kill(pid, SIGKILL);
    Ending::Killed
}

/// How far the end of one worker has come that is killed for its task.
enum Ending {
    /// It is not.
    NotAsked,
    /// It writes its stack down, if it can, until then; `patient` if it is asked to end before it is killed.
    Dumping { until_ns: u64, patient: bool },
    /// It was sent SIGTERM.
    Asked { kill_at_ns: u64 },
    /// It was sent SIGKILL.
    Killed,
}

enum Staffed {
    /// Nothing to do now.
    Full,
    /// No room for a process now; try again soon.
    Later,
    /// This process is the new worker.
    Child(u32, Option<OutputFile>),
}
