//! What comes back, or is lost with its worker, and becomes a delivery.

use super::*;

impl Ledger {
    /// Collects what has come back, and publishes what waited. True if anything came.
    pub fn collect(&mut self) -> Collected {
        let mut collected = Collected::default();
        if self.dispatcher.has_arrivals() {
            let mut arrivals = std::mem::take(&mut self.arrivals);
            self.dispatcher.collect(&mut arrivals);
            collected.anything = true;
            for arrival in arrivals.drain(..) {
                match arrival {
                    Arrival::Done { slot } => self.land(slot),
                    Arrival::Lost { slot, loss } => self.lose(slot, loss),
                }
            }
            self.arrivals = arrivals;
            collected.seat_wanted = self.dispatcher.settle();
        }
        if !self.backlog.is_empty() {
            self.publish_backlog();
        }
        collected
    }

    pub(super) fn land(&mut self, slot: u32) {
        let channel = self.channel.clone();
        let s = channel.slot(slot);
        let record = self.records[slot as usize];
        let seat = match channel.slot_state(slot) {
            SlotState::Done(seat, _) => seat,
            _ => 0,
        };
        let finished = s
            .finished
            .load(Ordering::Acquire)
            .clamp(record.first, record.limit);
        let whole = self.adopt(s, record, finished, seat);
        let kind = s.kind.load(Ordering::Relaxed);
        self.count(slot, record, finished);
        self.free_payload_block(s);
        let delivery = Delivery {
            task: self.jobs[record.job as usize].task,
            from: record.base + u64::from(record.first),
            count: finished - record.first,
            content: Content::Slot(slot),
            has_parts: kind & RESULT_PARTS != 0,
            elapsed_ns: s.elapsed_ns.load(Ordering::Relaxed),
        };
        if !whole {
            let error = self.damaged(record.job, delivery.from);
            self.return_slot(slot);
            self.fail(record.job, delivery.from, record.limit - record.first, error);
            return;
        }
        if delivery.count == 0 {
            self.return_slot(slot);
        } else {
            let delivery = if self.held >= MOST_HELD {
                self.copy_out(delivery)
            } else {
                delivery
            };
            self.deliver(record.job, delivery);
        }
        if finished < record.limit {
            let from = record.base + u64::from(finished);
            let error = self.damaged(record.job, from);
            self.fail(record.job, from, record.limit - finished, error);
        }
    }

    fn count(&mut self, slot: u32, record: Record, finished: u32) {
        let (s, note) = (self.channel.slot(slot), self.channel.note(slot));
        let sent_ns = note.submitted_ns.load(Ordering::Relaxed);
        let times = (sent_ns != 0).then(|| {
            let began_ns = note.began_ns.load(Ordering::Relaxed);
            [
                sent_ns,
                began_ns,
                s.elapsed_ns.load(Ordering::Relaxed),
                monotonic_ns(),
            ]
        });
        let function = self.jobs[record.job as usize].task.function;
        self.tallies[function as usize].came(Came {
            items: finished - record.first,
            failed: note.failed.load(Ordering::Relaxed),
            result_bytes: s.result_len.load(Ordering::Relaxed),
            times,
        });
    }

    pub(super) fn lose(&mut self, slot: u32, loss: Loss) {
        let channel = self.channel.clone();
        let s = channel.slot(slot);
        let record = self.records[slot as usize];
        let seat = match channel.slot_state(slot) {
            SlotState::Claimed(seat, _) | SlotState::Doomed(seat, _) => seat,
            _ => 0,
        };
        // Whom the caller has condemned runs nothing again, however its worker came to its end.
        let is_doomed = matches!(channel.slot_state(slot), SlotState::Doomed(..));
        let cancelled = is_doomed && loss.killed != Seat::KILLED_FOR_MEMORY;
        let mut loss = loss;
        if cancelled {
            loss.killed = Seat::KILLED_BY_CANCEL;
        }
        let (next, limit) = s.range();
        let finished = s.finished.load(Ordering::Acquire);
        let sane = record.first <= finished
            && finished <= next
            && next <= finished + 1
            && limit == record.limit
            && next <= limit;
        let (finished, next) = if sane {
            (finished, next)
        } else {
            (record.first, record.limit)
        };
        let whole = self.adopt(s, record, finished, seat);
        if finished > record.first {
            let delivery = Delivery {
                task: self.jobs[record.job as usize].task,
                from: record.base + u64::from(record.first),
                count: finished - record.first,
                content: Content::Slot(slot),
                has_parts: s.kind.load(Ordering::Relaxed) & RESULT_PARTS != 0,
                elapsed_ns: 0,
            };
            if whole {
                let delivery = self.copy_frames(delivery);
                self.deliver(record.job, delivery);
            } else {
                let error = self.damaged(record.job, delivery.from);
                self.fail(record.job, delivery.from, delivery.count, error);
            }
        }
        let kind = s.kind.load(Ordering::Relaxed);
        let item = record.base + u64::from(finished);
        // An item that is tried again is the first of the rest.
        let again = next > finished && sane && !cancelled && self.is_tried_again(record.job, item, kind);
        let next = if again { finished } else { next };
        if next > finished {
            let function = self.jobs[record.job as usize].task.function;
            self.tallies[function as usize].lost();
            let victim = Record {
                first: finished,
                limit: next,
                ..record
            };
            self.drop_parts(payload_bytes(&channel, s).unwrap_or_default(), kind, victim);
            let limit_ms = s.timeout_ms.load(Ordering::Relaxed);
            let attempts = self.failures.get(&(record.job, item)).copied().unwrap_or(1);
            let error = self
                .blame(record.job, item, &loss, limit_ms)
                .with_attempts(attempts);
            self.fail(record.job, item, next - finished, error);
        }
        let rest = Record {
            first: next,
            ..record
        };
        if rest.first < rest.limit {
            let payload = self.keep_payload(s);
            let ended = self.ending.clone().or_else(|| {
                let from = rest.base + u64::from(rest.first);
                let task = self.task_name(self.jobs[rest.job as usize].task, from);
                cancelled.then(|| Error::new(Kind::TaskCancelled { task }))
            });
            if let Some(reason) = ended {
                self.drop_payload(&payload, kind, rest);
                self.fail(
                    rest.job,
                    rest.base + u64::from(rest.first),
                    rest.limit - rest.first,
                    reason,
                );
            } else {
                // Who waited longest goes first.
                self.backlog.push_front(Waiting {
                    record: rest,
                    kind,
                    payload,
                });
            }
        } else {
            self.free_payload_block(s);
        }
        self.return_slot(slot);
    }

    /// Counts a failed attempt at an item; whether there is another one. What has changed memory that it was lent is not tried
    /// again.
    fn is_tried_again(&mut self, job: u32, item: u64, kind: u32) -> bool {
        if self.retries == 0 || kind & ARGUMENT_PARTS != 0 || self.ending.is_some() {
            return false;
        }
        let failures = self.failures.entry((job, item)).or_insert(0);
        *failures += 1;
        if *failures > self.retries {
            return false;
        }
        let task = self.jobs[job as usize].task;
        self.channel.tell_event(&channel::Record {
            what: What::Retried,
            time_ns: monotonic_ns(),
            worker: 0,
            pid: 0,
            function: task.function,
            item: if task.many { item } else { Note::NO_ITEM },
            value: 0,
        });
        true
    }

    pub(super) fn blame(&self, job: u32, item: u64, loss: &Loss, limit_ms: u32) -> Error {
        if let Some(reason) = &self.ending {
            return reason.clone();
        }
        let task = self.task_name(self.jobs[job as usize].task, item);
        let kind = match loss.killed {
            Seat::KILLED_FOR_TIME => Kind::TaskTimeout {
                task,
                pid: loss.pid,
                elapsed: loss.elapsed(),
                limit: Duration::from_millis(limit_ms.into()),
            },
            Seat::KILLED_FOR_MEMORY => Kind::MemoryLimit {
                task,
                pid: loss.pid,
                peak_bytes: loss.peak_bytes,
                limit_bytes: self.channel.header().life.memory_limit.load(Ordering::Relaxed),
            },
            Seat::KILLED_BY_CANCEL => Kind::TaskCancelled { task },
            _ => Kind::WorkerDied {
                worker: worker_name(loss.number),
                pid: loss.pid,
                status: ExitStatus::from_exit_code_like_python(loss.exit_code),
                task,
            },
        };
        Error::new(kind).with_output(self.dispatcher.output_of(loss))
    }

    /// Makes the caller's own what a slot's finished items brought, and frees what they had lent. False if the worker's
    /// bytes make no sense.
    pub(super) fn adopt(&self, s: &Slot, record: Record, finished: u32, seat: u32) -> bool {
        let arena = self.channel.arena();
        let seat = Channel::owner(seat);
        let mut whole = true;
        if let Some(block) = arena.check(s.result_block.load(Ordering::Relaxed)) {
            whole = arena.hand_over(block, seat, Owner::CALLER);
        }
        let kind = s.kind.load(Ordering::Relaxed);
        if !whole || kind & (ARGUMENT_PARTS | RESULT_PARTS) == 0 {
            return whole;
        }
        let payload = if kind & ARGUMENT_PARTS != 0 {
            payload_bytes(&self.channel, s).unwrap_or_default()
        } else {
            &[]
        };
        let mut arguments = Frames::of(payload);
        let _ = arguments.by_ref().take(record.first as usize).count();
        let Some(bytes) = result_bytes(&self.channel, s) else {
            return false;
        };
        let mut results = Frames::of(bytes);
        for _ in record.first..finished {
            let lent: Vec<u32> = arguments
                .next()
                .map(|f| f.parts().map(|(block, _)| block).collect())
                .unwrap_or_default();
            let Some(result) = results.next() else {
                return false;
            };
            let returned: Vec<u32> = result.parts().map(|(block, _)| block).collect();
            for &block in &returned {
                let handed = arena
                    .check(block)
                    .is_some_and(|block| arena.hand_over(block, seat, Owner::CALLER));
                whole &= handed || lent.contains(&block);
            }
            for block in lent.iter().filter(|block| !returned.contains(block)) {
                // Blocks that the worker has kept are its own by now, and stay so.
                arena.check(*block).map(|block| arena.free(block, Owner::CALLER));
            }
        }
        whole
    }

    /// Takes the payload out of a slot.
    pub(super) fn keep_payload(&self, s: &Slot) -> Kept {
        let len = s.payload_len.load(Ordering::Relaxed);
        match self
            .channel
            .arena()
            .check(s.payload_block.swap(Block::NONE, Ordering::Relaxed))
        {
            Some(block) => Kept::Block(block, len),
            None => Kept::Inline(payload_bytes(&self.channel, s).unwrap_or_default().into()),
        }
    }

    pub(super) fn free_payload_block(&self, s: &Slot) {
        if let Some(block) = self
            .channel
            .arena()
            .check(s.payload_block.swap(Block::NONE, Ordering::Relaxed))
        {
            self.channel.arena().free(block, Owner::CALLER);
        }
    }

    /// Frees the arrays that were lent to items which will not run (again).
    pub(super) fn drop_parts(&self, payload: &[u8], kind: u32, record: Record) {
        if kind & ARGUMENT_PARTS == 0 {
            return;
        }
        let arena = self.channel.arena();
        let items = (record.limit - record.first) as usize;
        for frame in Frames::of(payload).skip(record.first as usize).take(items) {
            for (block, _) in frame.parts() {
                arena.check(block).map(|block| arena.free(block, Owner::CALLER));
            }
        }
    }

    pub(super) fn drop_payload(&self, payload: &Kept, kind: u32, record: Record) {
        match payload {
            Kept::Inline(bytes) => self.drop_parts(bytes, kind, record),
            Kept::Block(block, len) => {
                let len = (*len).min(block.capacity()) as usize;
                // SAFETY: the block is the caller's, and nobody writes to it.
                let bytes = unsafe { std::slice::from_raw_parts(self.channel.arena().start(*block), len) };
                self.drop_parts(bytes, kind, record);
                self.channel.arena().free(*block, Owner::CALLER);
            }
        }
    }

    /// Delivers an error for `count` items.
    pub(super) fn fail(&mut self, job: u32, from: u64, count: u32, error: Error) {
        let task = self.jobs[job as usize].task;
        let content = Content::Failed(error);
        self.deliver(
            job,
            Delivery {
                task,
                from,
                count,
                content,
                has_parts: false,
                elapsed_ns: 0,
            },
        );
    }

    pub(super) fn damaged(&self, job: u32, item: u64) -> Error {
        Error::new(Kind::Damaged {
            task: self.task_name(self.jobs[job as usize].task, item),
        })
    }

    #[inline]
    pub(super) fn deliver(&mut self, number: u32, delivery: Delivery) {
        let job = &mut self.jobs[number as usize];
        job.outstanding -= u64::from(delivery.count);
        if job.callback.is_some() {
            self.called_for.push_back(number);
        } else if job.abandoned {
            let complete = job.outstanding == 0;
            self.discard_arrived(delivery);
            if complete {
                self.free_job(number);
            }
            return;
        }
        self.held += usize::from(matches!(delivery.content, Content::Slot(_)));
        match &mut job.first {
            Some(_) => job.more.push(delivery),
            first => *first = Some(delivery),
        }
    }

    /// The bytes of a delivery's frames; none if it has none.
    pub fn frames_of<'a>(channel: &'a Channel, content: &'a Content) -> &'a [u8] {
        match content {
            Content::Slot(slot) => result_bytes(channel, channel.slot(*slot)).unwrap_or_default(),
            Content::Copied(bytes) => bytes,
            Content::Failed(_) | Content::Value(_) => &[],
        }
    }

    pub(super) fn copy_frames(&self, delivery: Delivery) -> Delivery {
        let copied = Self::frames_of(&self.channel, &delivery.content).to_vec();
        if let Content::Slot(slot) = delivery.content {
            free_result_block(&self.channel, slot);
        }
        Delivery {
            content: Content::Copied(copied),
            ..delivery
        }
    }

    pub(super) fn copy_out(&mut self, delivery: Delivery) -> Delivery {
        let Content::Slot(slot) = delivery.content else {
            return delivery;
        };
        let delivery = self.copy_frames(delivery);
        self.return_slot(slot);
        delivery
    }

    pub(super) fn return_slot(&mut self, slot: u32) {
        free_result_block(&self.channel, slot);
        self.dispatcher.return_slot(slot);
    }

    /// Drops a delivery that waited in its job.
    pub(super) fn discard(&mut self, delivery: Delivery) {
        self.held -= usize::from(matches!(delivery.content, Content::Slot(_)));
        self.discard_arrived(delivery);
    }

    /// Drops a delivery that nobody will take.
    pub fn discard_arrived(&mut self, delivery: Delivery) {
        drop_result_parts(&self.channel, &delivery, 0);
        match delivery.content {
            Content::Slot(slot) => self.return_slot(slot),
            Content::Value(value) => self.trash.push(value),
            Content::Copied(_) | Content::Failed(_) => {}
        }
    }
}
