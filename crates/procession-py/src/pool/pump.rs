//! Sending out what waits for room, and taking back what waits behind a slow item.

use super::*;

impl Core {
    pub(super) fn pump(&self, py: Python<'_>, pool: &Bound<'_, PoolBase>) {
        let (jobs, backlog) = self.inner.with(py, |i| {
            let jobs: Vec<_> = i
                .jobs
                .iter()
                .filter(|j| !j.state.with(py, |s| s.fed_by_thread))
                .cloned()
                .collect();
            (jobs, !i.backlog.is_empty())
        });
        for job in jobs {
            self.pump_job(py, &job);
        }
        if backlog {
            self.pump_backlog(py);
        }
        self.see_to_helper(py, pool);
    }

    pub(super) fn pump_backlog(&self, py: Python<'_>) {
        while let Some(queued) = self.inner.with(py, |i| i.backlog.pop_front()) {
            let keywords = queued.keywords.as_ref().map(|k| k.bind(py).clone());
            let result = queued.result.bind(py);
            let done = self.submit(
                py,
                queued.function.bind(py),
                queued.arguments.bind(py),
                keywords.as_ref(),
                result,
                queued.terms,
            );
            match done {
                Ok(()) => {}
                Err(EncodeError::Full) => {
                    if self.inner.with(py, |i| i.dispatcher.in_flight()) == 0 {
                        self.fail_one(py, queued.result, EncodeError::Full.into_py());
                        continue;
                    }
                    self.inner.with(py, |i| i.backlog.push_front(queued));
                    return;
                }
                Err(EncodeError::Python(e)) => self.fail_one(py, queued.result, e),
            }
        }
    }

    /// Sends out as much of a job as there is room for.
    pub fn pump_job(&self, py: Python<'_>, job: &Arc<Job>) {
        let mut published = 0u32;
        loop {
            let large = self.inner.with(py, |i| i.large_bytes);
            if large > LARGE_BYTES_IN_FLIGHT {
                break;
            }
            let wanted = job.state.with(py, |j| {
                let n = j.next_batch(job.chunk, self.workers);
                // An iterable may give more items than it said it has.
                let n = n.min(
                    j.total
                        .map_or(u64::MAX, |t| t - j.pulled)
                        .min(u64::from(u32::MAX)) as u32,
                );
                j.pumping |= n > 0;
                n
            });
            if wanted == 0 {
                break;
            }
            let room = self.send_batch(py, job, wanted);
            job.state.with(py, |j| j.pumping = false);
            if !room {
                break;
            }
            published += 1;
            if published.is_multiple_of(16) || job.state.with(py, |j| j.fed_by_thread) {
                self.inner.with(py, |i| i.dispatcher.flush());
            }
        }
        if published > 0 {
            self.inner.with(py, |i| {
                i.dispatcher.flush();
                self.finish_job(py, i, job);
            });
        }
    }

    /// Encodes and publishes one batch; false if there was no room.
    pub(super) fn send_batch(&self, py: Python<'_>, job: &Arc<Job>, wanted: u32) -> bool {
        if let Some(parked) = job.state.with(py, |j| j.parked.pop_front()) {
            return self.publish_batch(py, job, parked, 0, None);
        }
        // A batch of many is worth two stamps; single items take turns.
        let began_ns = if wanted > 1 {
            Some(time::monotonic_ns())
        } else {
            self.time_one_of_many(py)
        };
        let mut encoder = self.encoder(py);
        let mut failed = None;
        if let Function::Inline(function, _) = &job.function {
            failed = encoder.put(function.bind(py)).err();
        }
        let (first, held, mut source) = job
            .state
            .with(py, |j| (j.pulled, j.held.take(), j.own_source(py)));
        let mut held = held.map(|h| h.into_bound(py));
        let (mut items, mut exhausted, mut source_error) = (0u32, false, None);
        let mut room = true;
        let mut item_failed = None;
        while items < wanted && encoder.bytes.len() < 1 << 18 {
            if let (Some(Source::Range(numbers)), None, None) = (&mut source, &held, &failed) {
                let Some(number) = numbers.next() else {
                    exhausted = true;
                    break;
                };
                encoder.put_int(number);
                items += 1;
                continue;
            }
            let next = match held.take() {
                Some(item) => Ok(item),
                None => match source.as_mut().and_then(|s| s.next(py)) {
                    Some(next) => next,
                    None => {
                        exhausted = true;
                        break;
                    }
                },
            };
            let item = match next {
                Ok(item) => item,
                Err(e) => {
                    source_error = Some(e);
                    exhausted = true;
                    break;
                }
            };
            let put = match failed.take() {
                Some(e) => Err(e),
                None => encoder.put(&item),
            };
            match put {
                Ok(()) => items += 1,
                Err(EncodeError::Full)
                    if items > 0 || self.inner.with(py, |i| i.dispatcher.in_flight() > 0) =>
                {
                    held = Some(item);
                    room = false;
                    break;
                }
                Err(e) => {
                    item_failed = Some(e.into_py());
                    break;
                }
            }
            if encoder.blocks.len() >= 16 {
                break;
            }
        }
        let held = held.map(Bound::unbind);
        let ended = job.state.with(py, |j| {
            j.held = held;
            if let Some(Source::Range(left)) = &source {
                j.give_numbers_back(*left);
            }
            j.pulled += u64::from(items);
            let mut ended = None;
            if let Some(error) = item_failed {
                let index = j.pulled;
                j.pulled += 1;
                j.fail_item(index, error);
            }
            if let Some(error) = source_error {
                // As in multiprocessing: the iterator's error stands where its next item would have stood.
                let index = j.pulled;
                j.pulled += 1;
                j.total = Some(j.pulled);
                j.fail_item(index, error);
            }
            if exhausted || j.total == Some(j.pulled) {
                ended = j.end_source();
            }
            ended
        });
        drop(ended);
        if items == 0 {
            encoder.rewind(0, 0);
            self.give_back(py, encoder);
            self.inner.with(py, |i| self.finish_job(py, i, job));
            return room;
        }
        let large_bytes = encoder.blocks.iter().map(|b| b.capacity()).sum();
        let bytes = std::mem::take(&mut encoder.bytes);
        encoder.blocks.clear();
        self.publish_batch(
            py,
            job,
            Parked {
                bytes,
                first,
                begin: 0,
                items,
            },
            large_bytes,
            began_ns,
        ) && room
    }

    pub(super) fn publish_batch(
        &self,
        py: Python<'_>,
        job: &Arc<Job>,
        batch: Parked,
        large_bytes: u64,
        began_ns: Option<u64>,
    ) -> bool {
        let place = self.place(&batch.bytes);
        let (function, kind) = match &job.function {
            Function::Number(n) => (*n, job.kind),
            Function::Inline(_, named) => (*named, job.kind | kind::WITH_FUNCTION),
        };
        let refused = match place {
            Ok(place) => self.inner.with(py, |i| {
                let Some(slot) = i.dispatcher.take_slot() else {
                    return Some(place);
                };
                let target = Target::Job(job.clone(), batch.first);
                self.publish(
                    i,
                    slot,
                    &batch.bytes,
                    place,
                    kind,
                    function,
                    batch.begin,
                    batch.items,
                    target,
                    large_bytes,
                    job.terms,
                    began_ns,
                );
                job.state.with(py, |j| {
                    j.in_flight += 1;
                    j.batch = j.batch.max(batch.items - batch.begin);
                });
                None
            }),
            Err(EncodeError::Python(e)) => {
                job.state.with(py, |j| {
                    for item in batch.begin..batch.items {
                        j.fail_item(batch.first + u64::from(item), e.clone_ref(py));
                    }
                });
                return true;
            }
            Err(EncodeError::Full) => Some(Place::Inline),
        };
        match refused {
            None => {
                let mut bytes = batch.bytes;
                bytes.clear();
                if bytes.capacity() <= 1 << 20 {
                    self.inner.with(py, |i| i.spare.push(bytes));
                }
                true
            }
            Some(place) => {
                if let Place::Block(block) = place {
                    self.channel.arena().free(block, Owner::CALLER);
                }
                job.state.with(py, |j| j.parked.push_front(batch));
                false
            }
        }
    }

    /// A feeding thread has sent its last item.
    pub fn source_has_ended(&self, py: Python<'_>, job: &Arc<Job>) {
        self.inner.with(py, |i| self.finish_job(py, i, job));
        self.waiter.announce();
    }

    /// Takes back what waits behind an item that takes long, if workers have nothing to do. True if something could be.
    pub(super) fn relieve(&self, py: Python<'_>, job: &Arc<Job>) {
        if !self.channel.any_worker_sleeps() || self.channel.has_tasks() {
            return;
        }
        let mut taken = Vec::new();
        self.inner.with(py, |i| {
            for slot in i.dispatcher.slots_in_flight() {
                let entry = &i.entries[slot as usize];
                let Target::Job(of, first) = &entry.target else {
                    continue;
                };
                if !Arc::ptr_eq(of, job) || entry.items - entry.begin < 2 {
                    continue;
                }
                if !matches!(self.channel.slot_state(slot), SlotState::Claimed(..)) {
                    continue;
                }
                let s = self.channel.slot(slot);
                let (next, limit) = s.take_rest();
                if next >= limit {
                    continue;
                }
                let found = view(
                    &self.channel,
                    slot,
                    s.payload_len.load(Ordering::Relaxed),
                    s.payload_block.load(Ordering::Relaxed),
                );
                if let Some((bytes, _)) = found {
                    let parts = self.workers.min(limit - next);
                    for part in 0..parts {
                        let at = |p: u32| {
                            next + (u64::from(limit - next) * u64::from(p) / u64::from(parts)) as u32
                        };
                        taken.push(Parked {
                            bytes: bytes.to_vec(),
                            first: *first,
                            begin: at(part),
                            items: at(part + 1),
                        });
                    }
                }
                i.entries[slot as usize].items = next;
            }
        });
        for batch in taken {
            job.state.with(py, |j| j.batch = 1);
            self.publish_batch(py, job, batch, 0, None);
        }
        self.inner.with(py, |i| i.dispatcher.flush());
    }
}
