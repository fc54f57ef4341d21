//! What comes back from the workers: results, and losses.

use super::*;

impl Core {
    /// Takes in what has come back, sends out what waits for room. Runs user code only where iterators or pickling are
    /// the user's.
    pub fn collect(&self, py: Python<'_>, pool: &Bound<'_, PoolBase>) {
        let (lost, wanted, ends, any) = self.inner.with(py, |i| {
            if !i.dispatcher.has_arrivals() {
                self.look_for_stall(i);
                return (Vec::new(), false, None, false);
            }
            i.stalled_since = None;
            let mut arrivals = std::mem::take(&mut i.arrivals);
            let ends = self.channel.header().life.ends.load(Ordering::Acquire);
            i.dispatcher.collect(&mut arrivals);
            let mut lost = Vec::new();
            for arrival in arrivals.drain(..) {
                match arrival {
                    Arrival::Done { slot } => self.take_result(py, i, slot),
                    Arrival::Lost { slot, loss } => self.take_loss(py, i, slot, loss, &mut lost),
                }
            }
            i.arrivals = arrivals;
            let wanted = i.dispatcher.settle();
            (lost, wanted, Some(ends), true)
        });
        drop(self.inner.with(py, |i| std::mem::take(&mut i.graveyard)));
        if let Some(ends) = ends {
            self.waiter.saw_ends(ends);
        }
        if wanted {
            self.tell(order::LOOK);
        }
        for loss in lost {
            self.tell_loss(py, loss);
        }
        if any {
            self.waiter.announce();
        }
        self.look_for_breakage(py);
        self.pump(py, pool);
    }

    /// One who was woken for a task may be unable to take it: stopped, or starved of its CPU. While it counts as
    /// searching nobody else would be woken, so after a while somebody else is.
    pub(super) fn look_for_stall(&self, i: &mut Inner) {
        if !self.is_stalled() {
            i.stalled_since = None;
            return;
        }
        match i.stalled_since {
            None => i.stalled_since = Some(Instant::now()),
            Some(since) if since.elapsed() >= STALL => {
                i.stalled_since = None;
                self.channel.wake_another_worker();
            }
            Some(_) => {}
        }
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.channel.any_worker_sleeps() && self.channel.has_tasks()
    }

    pub(super) fn tell(&self, order: u8) {
        if let Some(lines) = self.waiter.lines() {
            let _ = socket::send(lines.control.as_fd(), &[order], &[]);
        }
    }

    pub(super) fn free_payload(&self, inner: &mut Inner, slot: u32) {
        let block = self.channel.slot(slot).payload_block.load(Ordering::Relaxed);
        if let Some(block) = self.channel.arena().check(block) {
            self.channel.arena().free(block, Owner::CALLER);
        }
        let entry = &mut inner.entries[slot as usize];
        inner.large_bytes -= std::mem::take(&mut entry.large_bytes);
    }

    pub(super) fn take_result(&self, py: Python<'_>, i: &mut Inner, slot: u32) {
        let SlotState::Done(seat, _) = self.channel.slot_state(slot) else {
            return;
        };
        let s = self.channel.slot(slot);
        let target = std::mem::replace(&mut i.entries[slot as usize].target, Target::Vacant);
        let (begin, items) = (i.entries[slot as usize].begin, i.entries[slot as usize].items);
        let finished = s.finished.load(Ordering::Acquire).clamp(begin, items);
        self.free_payload(i, slot);
        let found = view(
            &self.channel,
            slot,
            s.result_len.load(Ordering::Relaxed),
            s.result_block.load(Ordering::Relaxed),
        );
        let (bytes, block) = found.unwrap_or((&[], None));
        let note = self.channel.note(slot);
        if let Some(known) = i.known.get_mut(s.function.load(Ordering::Relaxed) as usize) {
            let sent_ns = note.submitted_ns.load(Ordering::Relaxed);
            known.tally.came(Came {
                items: finished - begin,
                failed: note.failed.load(Ordering::Relaxed),
                result_bytes: bytes.len() as u64,
                times: (sent_ns != 0).then(|| {
                    [
                        sent_ns,
                        note.began_ns.load(Ordering::Relaxed),
                        s.elapsed_ns.load(Ordering::Relaxed),
                        time::monotonic_ns(),
                    ]
                }),
            });
        }
        let owner = Owner::seat(seat);
        match target {
            Target::One(pointer) => {
                // SAFETY: the entry held the pointer, so its object has not been dropped; the GIL is held.
                let result: Bound<'_, PyAny> = unsafe { Bound::from_borrowed_ptr(py, pointer) };
                // SAFETY: only pointers to these objects are put into entries.
                let result = unsafe { result.cast_unchecked::<AsyncResult>() };
                result.get().arrive(py, &self.channel, owner, block, bytes);
                // The reference taken above is not the last one: somebody else holds the object, or it would have
                // taken itself out.
            }
            Target::Held(result) => {
                result.get().arrive(py, &self.channel, owner, block, bytes);
                i.due.push_back(Due::One(result));
            }
            Target::Job(job, first) => {
                let elapsed = s.elapsed_ns.load(Ordering::Relaxed);
                let (_, limit) = s.range();
                let cost = job.state.with(py, |j| {
                    j.in_flight -= 1;
                    let message = Message {
                        channel: &self.channel,
                        seat: owner,
                        block,
                        bytes,
                    };
                    j.accept(py, message, first + u64::from(begin), finished - begin);
                    j.learn(finished - begin, elapsed);
                    // Items that a worker had to leave unrun, for want of memory.
                    for item in finished..limit.min(items) {
                        let error = PyMemoryError::new_err("no shared memory left for results");
                        j.fail_item(first + u64::from(item), error);
                    }
                    j.cost_ns
                });
                if let Function::Number(n) = job.function {
                    i.known[n as usize].cost_ns = cost;
                }
                self.finish_job(py, i, &job);
                i.graveyard.push(job);
            }
            Target::Abandoned | Target::Vacant => {
                drop(Raw::adopt(
                    &self.channel,
                    owner,
                    block,
                    bytes,
                    0,
                    finished - begin,
                ));
            }
        }
        self.channel.vacate(slot);
        i.dispatcher.return_slot(slot);
    }

    pub(super) fn finish_job(&self, py: Python<'_>, i: &mut Inner, job: &Arc<Job>) {
        let (due, complete, woken) = job.state.with(py, |j| {
            let complete = j.is_complete();
            if matches!(j.sink, Sink::Stream { .. }) {
                let woken = if !j.listeners.is_empty() && j.has_next() {
                    std::mem::take(&mut j.listeners)
                } else {
                    Vec::new()
                };
                return (false, complete, woken);
            }
            let wanted = j.calls.is_some() || !j.listeners.is_empty();
            let due = complete && wanted && !std::mem::replace(&mut j.announced, true);
            (due, complete, Vec::new())
        });
        if !woken.is_empty() {
            i.due.push_back(Due::Wake(woken));
        }
        if due {
            i.due.push_back(Due::Job(job.clone()));
        }
        if complete {
            i.jobs.retain(|other| !Arc::ptr_eq(other, job));
        }
    }

    pub(super) fn take_loss(
        &self,
        py: Python<'_>,
        i: &mut Inner,
        slot: u32,
        loss: Loss,
        lost: &mut Vec<Lost>,
    ) {
        let s = self.channel.slot(slot);
        if let Some(known) = i.known.get_mut(s.function.load(Ordering::Relaxed) as usize) {
            known.tally.lost();
        }
        let (next, limit) = s.range();
        let (begin, items) = (i.entries[slot as usize].begin, i.entries[slot as usize].items);
        let (next, limit) = (next.clamp(begin, items), limit.min(items));
        let kind = s.kind.load(Ordering::Relaxed);
        let is_map = matches!(kind & kind::MASK, kind::MAP | kind::STARMAP);
        // Of a single item, the result is out when the slot is done, not when its counter says so.
        let finished = match is_map && items - begin > 1 {
            true => s.finished.load(Ordering::Acquire).clamp(begin, next),
            false => begin,
        };
        if matches!(i.entries[slot as usize].target, Target::Abandoned) {
            self.free_arguments(i, slot);
            self.channel.vacate(slot);
            i.entries[slot as usize].target = Target::Vacant;
            i.dispatcher.return_slot(slot);
            return;
        }
        if next == begin {
            // It had not begun: another worker runs it.
            self.channel.vacate(slot);
            i.dispatcher.publish_again(slot);
            i.dispatcher.flush();
            return;
        }
        let function = (kind & kind::WITH_FUNCTION == 0).then(|| s.function.load(Ordering::Relaxed));
        // A single item's result may have overwritten its arguments from "finished" on.
        let victim = if is_map && items - begin > 1 {
            finished
        } else {
            begin
        };
        let intact = s.finished.load(Ordering::Relaxed) == victim;
        let readable = function.is_some() && finished == victim && intact;
        let limit_ms = s.timeout_ms.load(Ordering::Relaxed);
        let stack = match loss.killed {
            Seat::NOT_KILLED => String::new(),
            _ => i.dispatcher.stack_of(&loss),
        };
        let output = i.dispatcher.output_of(&loss);
        let arguments = readable
            .then(|| {
                view(
                    &self.channel,
                    slot,
                    s.payload_len.load(Ordering::Relaxed),
                    s.payload_block.load(Ordering::Relaxed),
                )
            })
            .flatten()
            .filter(|(bytes, _)| bytes.len() < 1 << 16)
            .map(|(bytes, _)| (if is_map { victim } else { 0 }, bytes.to_vec()));
        let target = std::mem::replace(&mut i.entries[slot as usize].target, Target::Vacant);
        match target {
            Target::Job(job, first) => {
                if is_map && items - begin > 1 && finished > begin {
                    let found = view(
                        &self.channel,
                        slot,
                        s.result_len.load(Ordering::Acquire),
                        s.result_block.load(Ordering::Acquire),
                    );
                    if let Some((bytes, _)) = found {
                        // The block is still the dead worker's and will be swept: what is needed is copied.
                        let seat = match self.channel.slot_state(slot) {
                            SlotState::Claimed(seat, _) | SlotState::Doomed(seat, _) => Owner::seat(seat),
                            _ => Owner::CALLER,
                        };
                        job.state.with(py, |j| {
                            let message = Message {
                                channel: &self.channel,
                                seat,
                                block: None,
                                bytes,
                            };
                            j.accept(py, message, first + u64::from(begin), finished - begin);
                        });
                    }
                }
                self.channel.vacate(slot);
                if next > finished {
                    lost.push(Lost {
                        target: LostTarget::Job(job.clone(), first + u64::from(finished)),
                        loss,
                        limit_ms,
                        stack,
                        output,
                        function,
                        arguments,
                    });
                }
                if next < limit {
                    i.entries[slot as usize] = Entry {
                        target: Target::Job(job, first),
                        begin: next,
                        items: limit,
                        large_bytes: 0,
                    };
                    s.range
                        .store(u64::from(limit) << 32 | u64::from(next), Ordering::Relaxed);
                    s.finished.store(next, Ordering::Relaxed);
                    s.result_block.store(Block::NONE, Ordering::Relaxed);
                    s.result_len.store(0, Ordering::Relaxed);
                    i.dispatcher.publish_again(slot);
                    i.dispatcher.flush();
                    return;
                }
                job.state.with(py, |j| j.in_flight -= 1);
                self.finish_job(py, i, &job);
                i.graveyard.push(job);
            }
            Target::One(pointer) => {
                // SAFETY: as in `take_result`.
                let result: Bound<'_, PyAny> = unsafe { Bound::from_borrowed_ptr(py, pointer) };
                // SAFETY: as in `take_result`.
                let result = unsafe { result.cast_into_unchecked::<AsyncResult>() };
                result.get().forget_slot();
                lost.push(Lost {
                    target: LostTarget::One(result.unbind()),
                    loss,
                    limit_ms,
                    stack,
                    output,
                    function,
                    arguments,
                });
                self.channel.vacate(slot);
            }
            Target::Held(result) => {
                lost.push(Lost {
                    target: LostTarget::One(result),
                    loss,
                    limit_ms,
                    stack,
                    output,
                    function,
                    arguments,
                });
                self.channel.vacate(slot);
            }
            Target::Abandoned | Target::Vacant => self.channel.vacate(slot),
        }
        self.free_payload(i, slot);
        i.dispatcher.return_slot(slot);
    }

    pub(super) fn worker_name(&self, number: u32) -> String {
        format!(
            "{}PoolWorker-{}",
            self.names.0,
            self.names.1 + u64::from(number) - 1
        )
    }

    pub fn function_name(&self, py: Python<'_>, number: u32) -> String {
        let function = self.inner.with(py, |i| {
            i.known
                .get(number as usize)
                .map(|k| (k.function.clone_ref(py), k.name.get().cloned()))
        });
        match function {
            Some((_, Some(name))) => name,
            Some((function, None)) => {
                let name = name_of(function.bind(py));
                self.inner.with(py, |i| {
                    let _ = i.known[number as usize].name.set(name.clone());
                });
                name
            }
            None => "task".into(),
        }
    }

    pub(super) fn describe(&self, py: Python<'_>, loss: &Lost) -> String {
        let name = match (&loss.target, loss.function) {
            (_, Some(number)) => self.function_name(py, number),
            (LostTarget::Job(job, _), None) => job.task.clone(),
            (LostTarget::One(result), None) => result.get().task(py),
        };
        let mut text = None;
        if let Some((skip, bytes)) = &loss.arguments {
            let mut reader = Reader::over(bytes);
            let walked = (0..*skip).all(|_| reader.skip(&mut |_| {}).is_some());
            if walked {
                let mut boxed = false;
                let mut ahead = reader;
                // Only what is decoded without running anybody's code is shown.
                if ahead.skip_simple() {
                    let mine = Receiver {
                        arena: self.channel.shared_arena(),
                        owner: Owner::CALLER,
                        from: Owner::CALLER,
                        copies: false,
                    };
                    if let Ok(value) = reader.value(py, &mine) {
                        boxed =
                            value.is_instance_of::<PyTuple>() && matches!(loss.target, LostTarget::One(_));
                        text = value.repr().ok().map(|r| r.to_string());
                    }
                }
                if boxed {
                    text = text.map(|t| {
                        let inside = t
                            .strip_prefix('(')
                            .and_then(|t| t.strip_suffix(')'))
                            .unwrap_or(&t);
                        inside.strip_suffix(',').unwrap_or(inside).to_string()
                    });
                }
            }
        }
        let mut text = text.unwrap_or_else(|| "...".into());
        if text.chars().count() > 100 {
            text = text.chars().take(97).collect::<String>() + "...";
        }
        format!("{name}({text})")
    }

    pub(super) fn tell_loss(&self, py: Python<'_>, lost: Lost) {
        let task = self.describe(py, &lost);
        let name = self.worker_name(lost.loss.number);
        let loss = lost.loss;
        let error = match loss.killed {
            Seat::KILLED_FOR_TIME => {
                let elapsed = loss.elapsed().as_secs_f64();
                let limit = f64::from(lost.limit_ms) / 1e3;
                let facts = (name, loss.pid, task, elapsed, limit, &lost.stack, &lost.output);
                errors(py, "task_timeout", facts)
            }
            Seat::KILLED_FOR_MEMORY => {
                let facts = (
                    name,
                    loss.pid,
                    task,
                    loss.peak_bytes,
                    self.memory_limit,
                    &lost.stack,
                    &lost.output,
                );
                errors(py, "memory_limit_exceeded", facts)
            }
            Seat::KILLED_BY_CANCEL => errors(py, "task_cancelled", (task, &lost.output)),
            _ => {
                let facts = (name, loss.pid, loss.exit_code, task, &lost.output);
                errors(py, "worker_died", facts)
            }
        };
        match lost.target {
            LostTarget::One(result) => self.fail_one(py, result, error),
            LostTarget::Job(job, index) => {
                let output =
                    (!lost.output.is_empty()).then(|| PyString::new(py, &lost.output).into_any().unbind());
                job.state.with(py, |j| {
                    j.outputs.extend(output.map(|text| (index, text)));
                    j.fail_item(index, error);
                });
                self.inner.with(py, |i| self.finish_job(py, i, &job));
            }
        }
    }

    pub(super) fn fail_one(&self, py: Python<'_>, result: Py<AsyncResult>, error: PyErr) {
        result.get().fail(py, error);
        if result.get().has_calls() {
            self.inner.with(py, |i| i.due.push_back(Due::One(result)));
        }
    }
}
