//! The writer's side: one worker process, one thread at a time.

use super::layout::{
    Cells, Region, SeatState, SecondCells, Step, Text, MOST_EXAMPLE_BYTES, MOST_NAME_BYTES, SECONDS_KEPT,
};
use crate::histogram::bucket_of;
use crate::result::{ErrorKind, StepKind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;

/// Everything that is known of a request (or step, or iteration) that has ended. Moments are those of
/// [`now_ns`](crate::now_ns).
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// When it was due; the same as `sent_ns` if there is no schedule.
    pub intended_ns: u64,
    /// When it was begun.
    pub sent_ns: u64,
    /// When the request itself was sent, after a connection was made for it; 0 if that is `sent_ns`.
    pub written_ns: u64,
    /// When the first byte of its response came; 0 if none did.
    pub first_byte_ns: u64,
    /// When it was complete, or given up.
    pub ended_ns: u64,
    /// Bytes of the response, headers included.
    pub bytes_received: u64,
    /// The response's status; 0 if it has none.
    pub status: u16,
}

/// What can become of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datagram {
    /// It was sent.
    Sent = 0,
    /// It was answered.
    Received = 1,
    /// It was not answered in time.
    Lost = 2,
    /// Its answer came after that to a later one.
    Reordered = 3,
    /// Its answer came again.
    Duplicate = 4,
}

/// A step that was registered by [`Recorder::step`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StepId(u32);

/// Counts what happens, in one worker. Costs some tens of nanoseconds a sample and no system call.
#[derive(Debug)]
pub struct Recorder {
    region: Arc<Region>,
    seat: u32,
    steps: Vec<(StepKind, String)>,
    start_ns: u64,
    warmup_end_ns: u64,
    load_end_ns: u64,
    last_area_ns: u64,
    /// How many since the last look at the wait for a core.
    noted: u64,
    has_rate: bool,
}

/// A counter that only the caller writes: a load and a store, which compile to one addition without a bus lock.
#[inline]
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

#[inline]
fn add32(counter: &AtomicU32, n: u32) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

#[inline]
fn record(cells: &Cells, ns: u64) {
    record_many(cells, ns, 1);
}

#[inline]
fn record_many(cells: &Cells, ns: u64, times: u64) {
    add(&cells.sum_ns, ns.saturating_mul(times));
    // One more, so that 0 means none.
    let least = cells.least_ns.load(Ordering::Relaxed).wrapping_sub(1);
    if ns < least {
        cells.least_ns.store(ns + 1, Ordering::Relaxed);
    }
    if ns > cells.most_ns.load(Ordering::Relaxed) {
        cells.most_ns.store(ns, Ordering::Relaxed);
    }
    let bucket = &cells.buckets[bucket_of(ns)];
    // The range comes before the bucket, as readers look at no bucket outside of it.
    bucket.store(
        bucket.load(Ordering::Relaxed).wrapping_add(times),
        Ordering::Release,
    );
}

fn write_text<const N: usize>(text: &Text<N>, bytes: &[u8], most: usize) {
    let mut end = bytes.len().min(most);
    // Not in the middle of a character.
    while end > 0 && end < bytes.len() && (bytes[end] & 0xC0) == 0x80 {
        end -= 1;
    }
    for (word, chunk) in text.words.iter().zip(bytes[..end].chunks(8)) {
        let mut padded = [0; 8];
        padded[..chunk.len()].copy_from_slice(chunk);
        word.store(u64::from_ne_bytes(padded), Ordering::Relaxed);
    }
    // Sync points *step name* and *example*: the bytes come before the length.
    text.len.store(end as u32, Ordering::Release);
}

impl Recorder {
    /// Takes a seat, which may have been another process's before.
    pub(crate) fn new(region: Arc<Region>, seat: u32, has_rate: bool) -> Recorder {
        let mut recorder = Recorder {
            region,
            seat,
            steps: Vec::new(),
            start_ns: 0,
            warmup_end_ns: 0,
            load_end_ns: u64::MAX,
            last_area_ns: 0,
            noted: 0,
            has_rate,
        };
        let head = recorder.head();
        head.pid.store(std::process::id(), Ordering::Relaxed);
        add32(&head.lives, 1);
        add(&head.lost_in_flight, head.in_flight.load(Ordering::Relaxed));
        head.in_flight.store(0, Ordering::Relaxed);
        head.users.store(0, Ordering::Relaxed);
        let known = head.steps.load(Ordering::Relaxed);
        let seat = recorder.region.seat(recorder.seat);
        recorder.steps = (0..known.min(seat.most_steps()))
            .filter_map(|number| super::read::step_name(seat.step(number)))
            .collect();
        recorder
    }

    #[inline]
    fn head(&self) -> &super::layout::Head {
        self.region.seat(self.seat).head()
    }

    #[inline]
    fn cells_of(&self, step: StepId) -> &Step {
        self.region.seat(self.seat).step(step.0)
    }

    pub(crate) fn begin(&mut self, start_ns: u64, warmup_end_ns: u64, load_end_ns: u64) {
        self.start_ns = start_ns;
        self.warmup_end_ns = warmup_end_ns;
        self.load_end_ns = load_end_ns;
        self.last_area_ns = crate::now_ns().max(start_ns);
    }

    /// The load has ended earlier than planned.
    pub(crate) fn begin_end(&mut self, load_end_ns: u64) {
        self.load_end_ns = load_end_ns;
    }

    /// Notes the moment at which this worker ended.
    pub(crate) fn leave(&mut self, now_ns: u64) {
        self.advance_area(now_ns);
        self.head().now_ns.store(now_ns, Ordering::Relaxed);
    }

    pub(crate) fn set_state(&self, state: SeatState) {
        self.head().state.store(state as u32, Ordering::Release);
    }

    pub(crate) fn fail(&self, why: &str) {
        write_text(&self.head().failure, why.as_bytes(), 512);
        self.set_state(SeatState::Failed);
    }

    /// The number of the step with this name; a new one if it is the first time.
    ///
    /// A run tells only so many steps apart. What is beyond is counted under the last one's name, which is then `(others)`.
    pub fn step(&mut self, kind: StepKind, name: &str) -> StepId {
        let same = |step: &(StepKind, String)| step.0 == kind && step.1 == name;
        if let Some(number) = self.steps.iter().position(same) {
            return StepId(number as u32);
        }
        let most = self.region.seat(self.seat).most_steps() as usize;
        if self.steps.len() + 1 > most {
            return StepId(most as u32 - 1);
        }
        let name = if self.steps.len() + 1 == most && most > 4 {
            "(others)"
        } else {
            name
        };
        let number = self.steps.len() as u32;
        let step = self.cells_of(StepId(number));
        step.kind.store(kind as u32, Ordering::Relaxed);
        write_text(&step.name, name.as_bytes(), MOST_NAME_BYTES);
        // Sync point *step name*.
        self.head().steps.store(number + 1, Ordering::Release);
        self.steps.push((kind, name.to_owned()));
        StepId(number)
    }

    /// Counts that a request has begun at this moment.
    #[inline]
    pub fn sent(&mut self, now_ns: u64, bytes: u64) {
        self.advance_area(now_ns);
        let head = self.head();
        add(&head.in_flight, 1);
        add(&head.bytes_sent, bytes);
    }

    /// Counts how late the generator itself was with a request: from the moment when it was due and could be sent.
    #[inline]
    pub fn delay(&mut self, ns: u64) {
        record(&self.region.seat(self.seat).distributions().delay, ns);
    }

    /// Says that the kernel has noted when the next request to be counted has ended, wherever this process was then.
    #[inline]
    pub(crate) fn noted(&mut self) {
        self.noted += 1;
    }

    /// Counts how long the responses of the `ended` requests that ended since the last time may have lain there while this
    /// worker waited for a core, which it has for `waited_ns` in all. As many of them as can have been in flight at the same
    /// time are taken to have met the whole of it, and the others none, nor those whose arrival was [noted](Recorder::noted):
    /// together that is never too little.
    pub(crate) fn core_wait(&mut self, ended: u64, waited_ns: u64) {
        let unnoted = ended.saturating_sub(std::mem::take(&mut self.noted));
        let head = self.head();
        let together = head
            .users
            .load(Ordering::Relaxed)
            .max(head.in_flight.load(Ordering::Relaxed));
        let delayed = unnoted.min(together.max(1));
        let cells = &self.region.seat(self.seat).distributions().core_wait;
        if delayed > 0 {
            record_many(cells, waited_ns, delayed);
        }
        if ended > delayed {
            record_many(cells, 0, ended - delayed);
        }
    }

    /// How many requests that count have ended in this seat.
    pub(crate) fn ended_so_far(&self) -> u64 {
        self.head().ended.load(Ordering::Relaxed)
    }

    #[inline]
    fn advance_area(&mut self, now_ns: u64) {
        let head = self.head();
        let passed = now_ns.saturating_sub(self.last_area_ns);
        add(&head.area_ns, passed * head.in_flight.load(Ordering::Relaxed));
        self.last_area_ns = self.last_area_ns.max(now_ns);
    }

    /// Counts a request that [`sent`](Recorder::sent) has begun and that ended well.
    #[inline]
    pub fn succeeded(&mut self, step: StepId, sample: &Sample) {
        self.leave_flight(sample);
        self.count(step, sample, None);
    }

    /// Counts a request that [`sent`](Recorder::sent) has begun and that failed. Of the first failure of each kind the text
    /// is kept.
    pub fn failed(&mut self, step: StepId, sample: &Sample, kind: ErrorKind, text: &str) {
        self.leave_flight(sample);
        self.error(kind, text);
        self.count(step, sample, Some(kind));
    }

    /// Counts a request that [`succeeded`](Recorder::succeeded) as failed after all: its scenario has looked at the response
    /// and did not like it.
    pub fn rejected(&mut self, step: StepId, sample: &Sample, kind: ErrorKind, text: &str) {
        self.error(kind, text);
        let cells = self.cells_of(step);
        let number = (sample.ended_ns.saturating_sub(self.start_ns) / 1_000_000_000) as u32;
        let slot = &cells.seconds[(number % SECONDS_KEPT) as usize];
        if slot.number.load(Ordering::Relaxed) == number + 1 {
            add32(&slot.errors, 1);
        }
        if sample.intended_ns < self.warmup_end_ns {
            return;
        }
        add(&cells.failed, 1);
        add(&cells.late_failed, u64::from(sample.ended_ns > self.load_end_ns));
        if self.steps[step.0 as usize].0 == StepKind::Request {
            add(&self.head().failed, 1);
        }
    }

    /// Counts bytes that were sent outside of requests.
    pub fn bytes_sent(&mut self, bytes: u64) {
        add(&self.head().bytes_sent, bytes);
    }

    /// Counts a step of a scenario, or an iteration, which are not requests and never in flight.
    pub fn ended(&mut self, step: StepId, sample: &Sample, failure: Option<(ErrorKind, &str)>) {
        self.count(step, sample, failure.map(|(kind, _)| kind));
    }

    /// Counts an error of a kind without a request that it belongs to, such as a failing script.
    pub fn error(&mut self, kind: ErrorKind, text: &str) {
        let head = self.head();
        add(&head.error_counts[kind as usize], 1);
        let example = &head.examples[kind as usize];
        if example.len.load(Ordering::Relaxed) == 0 {
            write_text(example, text.as_bytes(), MOST_EXAMPLE_BYTES);
        }
    }

    #[inline]
    fn leave_flight(&mut self, sample: &Sample) {
        self.advance_area(sample.ended_ns);
        let head = self.head();
        // One that is known later to have ended earlier was taken to be in flight for too long.
        let too_long_ns = self.last_area_ns.saturating_sub(sample.ended_ns);
        let area_ns = head.area_ns.load(Ordering::Relaxed).saturating_sub(too_long_ns);
        head.area_ns.store(area_ns, Ordering::Relaxed);
        head.in_flight.store(
            head.in_flight.load(Ordering::Relaxed).saturating_sub(1),
            Ordering::Relaxed,
        );
        add(&head.busy_ns, sample.ended_ns.saturating_sub(sample.sent_ns));
        add(&head.bytes_received, sample.bytes_received);
    }

    #[inline]
    fn count(&mut self, step: StepId, sample: &Sample, failure: Option<ErrorKind>) {
        let cells = self.cells_of(step);
        let head = self.head();
        let is_request = self.steps[step.0 as usize].0 == StepKind::Request;
        let response_ns = sample.ended_ns.saturating_sub(sample.intended_ns);
        // Failures without a response tell nothing of how long one takes.
        let is_timed = failure.is_none_or(|kind| kind.has_response() || kind.is_timeout());
        self.count_second(cells, sample, failure.is_some(), is_timed.then_some(response_ns));
        if sample.intended_ns < self.warmup_end_ns {
            if is_request {
                add(&head.warmup, 1);
            }
            return;
        }
        let is_late = sample.ended_ns > self.load_end_ns;
        add(&cells.ended, 1);
        add(&cells.late, u64::from(is_late));
        if failure.is_some() {
            add(&cells.failed, 1);
            add(&cells.late_failed, u64::from(is_late));
        }
        if is_request {
            add(&head.ended, 1);
            add(&head.late, u64::from(is_late));
            if failure.is_some() {
                add(&head.failed, 1);
            }
            if sample.status > 0 {
                if let Some(count) = head.statuses.get(sample.status as usize) {
                    add(count, 1);
                }
            }
        }
        if !is_timed {
            return;
        }
        record(&cells.response, response_ns);
        if self.has_rate {
            record(&cells.service, sample.ended_ns.saturating_sub(sample.sent_ns));
            record(&cells.lag, sample.sent_ns.saturating_sub(sample.intended_ns));
        }
        if sample.first_byte_ns > 0 {
            record(
                &cells.first_byte,
                sample
                    .first_byte_ns
                    .saturating_sub(sample.sent_ns.max(sample.written_ns)),
            );
            record(&cells.body, sample.ended_ns.saturating_sub(sample.first_byte_ns));
        }
    }

    #[inline]
    fn count_second(&self, cells: &Step, sample: &Sample, failed: bool, response_ns: Option<u64>) {
        let number = (sample.ended_ns.saturating_sub(self.start_ns) / 1_000_000_000) as u32;
        let slot = &cells.seconds[(number % SECONDS_KEPT) as usize];
        let known = slot.number.load(Ordering::Relaxed);
        if known > number + 1 {
            // That second was so long ago that its place is another one's by now.
            return;
        }
        if known <= number {
            empty(slot, number);
        }
        let head = self.head();
        add32(&slot.ended, 1);
        add32(&slot.errors, u32::from(failed));
        add(&slot.bytes_received, sample.bytes_received);
        slot.in_flight
            .store(head.in_flight.load(Ordering::Relaxed) as u32, Ordering::Relaxed);
        slot.users
            .store(head.users.load(Ordering::Relaxed) as u32, Ordering::Relaxed);
        let Some(ns) = response_ns else { return };
        add(&slot.sum_ns, ns);
        if ns < slot.least_ns.load(Ordering::Relaxed).wrapping_sub(1) {
            slot.least_ns.store(ns + 1, Ordering::Relaxed);
        }
        if ns > slot.most_ns.load(Ordering::Relaxed) {
            slot.most_ns.store(ns, Ordering::Relaxed);
        }
        let bucket = &slot.buckets[bucket_of(ns)];
        // As in `record`.
        bucket.store(bucket.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }

    /// Counts a request that was begun and is unfinished at the end: all that is known is that it takes longer than this.
    pub fn censored(&mut self, step: StepId, intended_ns: u64, sent_ns: u64, now_ns: u64) {
        self.advance_area(now_ns);
        let head = self.head();
        head.in_flight.store(
            head.in_flight.load(Ordering::Relaxed).saturating_sub(1),
            Ordering::Relaxed,
        );
        add(&head.busy_ns, now_ns.saturating_sub(sent_ns));
        if intended_ns >= self.warmup_end_ns {
            record(&self.cells_of(step).censored, now_ns.saturating_sub(intended_ns));
        }
    }

    /// Counts a request that was due at this moment and could not be begun before the end.
    pub fn unsent(&mut self, step: StepId, intended_ns: u64, now_ns: u64) {
        add(&self.head().unsent, 1);
        if intended_ns >= self.warmup_end_ns {
            record(&self.cells_of(step).censored, now_ns.saturating_sub(intended_ns));
        }
    }

    /// Counts a new connection, and how long its making took; phases that there were not are `None`.
    pub fn connected(&mut self, dns_ns: Option<u64>, connect_ns: Option<u64>, tls_ns: Option<u64>) {
        let seat = self.region.seat(self.seat);
        add(&seat.head().connections, 1);
        let distributions = seat.distributions();
        for (ns, cells) in [
            (dns_ns, &distributions.dns),
            (connect_ns, &distributions.connect),
            (tls_ns, &distributions.tls),
        ] {
            if let Some(ns) = ns {
                record(cells, ns);
            }
        }
    }

    /// Counts a look at what the kernel knows of a connection: retransmits since the last look, whether its first packet had
    /// to be sent again, and the smoothed round trip.
    pub fn tcp(&mut self, retransmits: u64, connect_retransmits: u64, round_trip_ns: Option<u64>) {
        let seat = self.region.seat(self.seat);
        let head = seat.head();
        add(&head.tcp_samples, 1);
        add(&head.retransmits, retransmits);
        add(&head.connect_retransmits, connect_retransmits);
        if let Some(ns) = round_trip_ns {
            record(&seat.distributions().round_trip, ns);
        }
    }

    /// Counts what became of a datagram.
    pub fn datagram(&mut self, what: Datagram) {
        add(&self.head().udp[what as usize], 1);
    }

    /// Counts by how much the time of a datagram's answer differs from that of the one before.
    pub fn jitter(&mut self, ns: u64) {
        let head = self.head();
        add(&head.jitter_ns, ns);
        add(&head.jitters, 1);
    }

    /// Says how many users there are now.
    pub fn users(&mut self, users: u64) {
        self.head().users.store(users, Ordering::Relaxed);
    }

    pub(crate) fn begun(&self) -> u64 {
        self.head().begun.load(Ordering::Relaxed)
    }

    /// Stores a place in the schedule, so that a successor goes on from there: the moment first, by the parity of its
    /// number, then the number. Killed in between, the old place holds.
    #[inline]
    pub(crate) fn begin_arrival(&self, begun: u64, due_ns: u64) {
        let head = self.head();
        head.due_ns[(begun & 1) as usize].store(due_ns, Ordering::Relaxed);
        head.begun.store(begun, Ordering::Release);
    }

    pub(crate) fn last_due_ns(&self) -> u64 {
        self.head().due_ns[(self.begun() & 1) as usize].load(Ordering::Relaxed)
    }

    /// Publishes what this process has used of the CPU since the last time.
    pub(crate) fn usage(&self, active_ns: u64, cpu_ns: u64, cpu_wait_ns: u64) {
        let head = self.head();
        add(&head.active_ns, active_ns);
        add(&head.cpu_ns, cpu_ns);
        add(&head.cpu_wait_ns, cpu_wait_ns);
    }

    /// When requests that are due count.
    pub fn warmup_end_ns(&self) -> u64 {
        self.warmup_end_ns
    }
}

#[cold]
fn empty(slot: &SecondCells, number: u32) {
    slot.number.store(0, Ordering::Release);
    for counter in [&slot.errors, &slot.ended, &slot.in_flight, &slot.users] {
        counter.store(0, Ordering::Relaxed);
    }
    for counter in [&slot.bytes_received, &slot.sum_ns, &slot.least_ns, &slot.most_ns] {
        counter.store(0, Ordering::Relaxed);
    }
    for bucket in &slot.buckets {
        // Untouched pages stay untouched.
        if bucket.load(Ordering::Relaxed) != 0 {
            bucket.store(0, Ordering::Relaxed);
        }
    }
    // Sync point *second*: emptied before it is named.
    slot.number.store(number + 1, Ordering::Release);
}
