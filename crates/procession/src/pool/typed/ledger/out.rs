//! Batches on their way out: published, or kept until there is room.

use super::*;

impl Ledger {
    /// Publishes items `base..base + items` of a job, now or, if no slot is vacant, later. Workers are not woken yet.
    #[inline]
    pub fn submit(&mut self, job: u32, base: u64, items: u32, payload: Payload<'_>, kind: u32) {
        self.jobs[job as usize].outstanding += u64::from(items);
        let function = self.jobs[job as usize].task.function;
        self.tallies[function as usize].sent(items, payload.len(), None);
        let mut kind = kind;
        if items == 1 {
            self.singles = self.singles.wrapping_add(1);
            if self.singles % TIMED_ONE_OF == 1 {
                kind |= MEASURE;
            }
        }
        let record = Record {
            job,
            base,
            first: 0,
            limit: items,
        };
        if self.backlog.is_empty() && self.publish(record, payload, kind) {
            return;
        }
        self.backlog.push_back(Waiting {
            record,
            kind,
            payload: payload.keep(),
        });
    }

    /// Instead of [`Ledger::submit`], when nothing can be submitted any more.
    pub fn refuse(
        &mut self,
        job: u32,
        base: u64,
        items: u32,
        payload: Payload<'_>,
        kind: u32,
        reason: Error,
    ) {
        self.jobs[job as usize].outstanding += u64::from(items);
        self.throw_away(payload, kind);
        self.fail(job, base, items, reason);
    }

    /// Frees a payload that was never submitted.
    pub fn throw_away(&self, payload: Payload<'_>, kind: u32) {
        let record = Record {
            limit: u32::MAX,
            ..Record::default()
        };
        self.drop_payload(&payload.keep(), kind, record);
    }

    #[inline]
    pub(super) fn publish(&mut self, record: Record, payload: Payload<'_>, kind: u32) -> bool {
        let Some(slot) = self.dispatcher.take_slot() else {
            return false;
        };
        if self.records.len() <= slot as usize {
            self.records.resize(slot as usize + 1, Record::default());
        }
        self.records[slot as usize] = record;
        let s = self.channel.slot(slot);
        let mut kind = kind & !RESULT_PARTS;
        match payload {
            Payload::Inline(bytes) => {
                let len = bytes.len().min(SLOT_INLINE_BYTES);
                // SAFETY: the slot is vacant, so its inline bytes are ours; `len` is no more than there are.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), s.inline(), len) };
                s.payload_len.store(len as u64, Ordering::Relaxed);
                s.payload_block.store(Block::NONE, Ordering::Relaxed);
                if record.limit > 1 || kind & ARGUMENT_PARTS != 0 || self.retries > 0 {
                    kind |= RESULTS_BEHIND;
                }
            }
            Payload::Block(block, len) => {
                s.payload_len.store(len, Ordering::Relaxed);
                s.payload_block.store(block.raw(), Ordering::Relaxed);
            }
        }
        s.range.store(
            u64::from(record.limit) << 32 | u64::from(record.first),
            Ordering::Relaxed,
        );
        s.finished.store(record.first, Ordering::Relaxed);
        s.kind.store(kind, Ordering::Relaxed);
        let task = &self.jobs[record.job as usize].task;
        s.function.store(task.function, Ordering::Relaxed);
        let first_item = if task.many { record.base } else { Note::NO_ITEM };
        self.channel
            .note(slot)
            .first_item
            .store(first_item, Ordering::Relaxed);
        let now = if kind & MEASURE != 0 { monotonic_ns() } else { 0 };
        self.channel.note(slot).submitted_ns.store(now, Ordering::Relaxed);
        self.channel.note(slot).failed.store(0, Ordering::Relaxed);
        let terms = self.jobs[record.job as usize].terms;
        s.timeout_ms
            .store(terms.timeout_ms.unwrap_or(self.timeout_ms), Ordering::Relaxed);
        s.result_block.store(Block::NONE, Ordering::Relaxed);
        s.result_len.store(0, Ordering::Relaxed);
        s.elapsed_ns.store(0, Ordering::Relaxed);
        self.dispatcher.publish_with_priority(slot, terms.priority);
        true
    }

    pub(super) fn publish_backlog(&mut self) {
        let mut any = false;
        while let Some(waiting) = self.backlog.pop_front() {
            if !self.publish(waiting.record, waiting.payload.as_payload(), waiting.kind) {
                self.backlog.push_front(waiting);
                break;
            }
            any = true;
        }
        if any {
            self.dispatcher.flush();
        }
    }

    /// Takes items away from busy workers that have not begun them, so that idle workers have something to do.
    ///
    /// For the end of a job, when nothing else is left to be claimed.
    pub fn share_out(&mut self, job: u32) {
        if self.channel.has_tasks() || !self.channel.any_worker_sleeps() {
            return;
        }
        let workers = self.channel.header().life.workers.load(Ordering::Relaxed).max(1);
        for slot in self.dispatcher.slots_in_flight() {
            let record = self.records[slot as usize];
            let s = self.channel.slot(slot);
            if record.job != job || !matches!(self.channel.slot_state(slot), SlotState::Claimed(..)) {
                continue;
            }
            let (next, limit) = s.range();
            if next >= limit || limit > record.limit {
                continue;
            }
            let (from, to) = s.take_rest();
            if from >= to {
                continue;
            }
            self.records[slot as usize].limit = from;
            // In small pieces: one of them may be as long as the one that the worker is stuck in.
            let piece = ((to - from) / (4 * workers)).max(1);
            let payload = payload_bytes(&self.channel, s).unwrap_or_default().to_vec();
            let mut frames = Frames::of(&payload);
            let _ = frames.by_ref().take(from as usize).count();
            let kind = s.kind.load(Ordering::Relaxed) & (ARGUMENT_PARTS | MEASURE);
            let mut at = from;
            while at < to {
                let items = piece.min(to - at);
                let before = frames.rest();
                let whole = frames.by_ref().take(items as usize).count() == items as usize;
                let bytes = &before[..before.len() - frames.rest().len()];
                let base = record.base + u64::from(at);
                let placed = match whole {
                    true => self.place(bytes, items, kind & ARGUMENT_PARTS != 0),
                    false => Err(self.damaged(job, base)),
                };
                match placed {
                    Ok(kept) => {
                        self.jobs[job as usize].outstanding -= u64::from(items);
                        self.submit(job, base, items, kept.as_payload(), kind);
                    }
                    Err(error) => self.fail(job, base, items, error),
                }
                at += items;
            }
        }
        self.dispatcher.flush();
    }

    pub(super) fn place(&self, bytes: &[u8], items: u32, has_parts: bool) -> Result<Kept, Error> {
        if Payload::fits(bytes.len(), items, has_parts) {
            return Ok(Kept::Inline(bytes.into()));
        }
        let arena = self.channel.arena();
        let block = arena
            .alloc(bytes.len() as u64, Owner::CALLER)
            .map_err(|failure| Error::memory(&failure))?;
        // SAFETY: the block is ours, and has that many bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), arena.start(block), bytes.len()) };
        Ok(Kept::Block(block, bytes.len() as u64))
    }
}
