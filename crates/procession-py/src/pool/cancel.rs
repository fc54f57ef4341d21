//! Taking back what was submitted, and hearing of results without waiting for them.

use super::*;

impl Core {
    /// Frees a task's arguments that no worker has taken over.
    pub(super) fn free_arguments(&self, i: &mut Inner, slot: u32) {
        let s = self.channel.slot(slot);
        let payload = view(
            &self.channel,
            slot,
            s.payload_len.load(Ordering::Relaxed),
            s.payload_block.load(Ordering::Relaxed),
        );
        if let Some((bytes, _)) = payload {
            let mut reader = Reader::over(bytes);
            let arena = self.channel.arena();
            while reader.left() > 0 {
                // What a worker has decoded is its own, and not freed by this.
                let walked = reader.skip(&mut |attached| {
                    if let Some(block) = arena.check(attached.block) {
                        arena.free(block, Owner::CALLER);
                    }
                });
                if walked.is_none() {
                    break;
                }
            }
        }
        self.free_payload(i, slot);
    }

    /// Whether a worker has this slot.
    pub fn is_claimed(&self, slot: u32) -> bool {
        matches!(self.channel.slot_state(slot), SlotState::Claimed(..))
    }

    /// Takes a slot back or, if that is allowed, condemns the worker that has it. Gives what the slot held, or nothing if
    /// it is done.
    fn withdraw(&self, i: &mut Inner, slot: u32, also_running: bool) -> Option<Target> {
        if i.dispatcher.take_back(slot) {
            self.free_arguments(i, slot);
            i.dispatcher.return_slot(slot);
            return Some(std::mem::replace(
                &mut i.entries[slot as usize].target,
                Target::Vacant,
            ));
        }
        if also_running && self.channel.doom(slot) {
            return Some(std::mem::replace(
                &mut i.entries[slot as usize].target,
                Target::Abandoned,
            ));
        }
        None
    }

    /// Cancels one call; false if its result is there, or if it is running and that is not to be cancelled.
    pub fn cancel_one(&self, py: Python<'_>, result: &Bound<'_, AsyncResult>, also_running: bool) -> bool {
        // What is dropped, which must not happen inside; and what tells the function's name.
        let found = self.inner.with(py, |i| {
            let slot = match result.get().slot(py) {
                Some(slot) => slot,
                None => {
                    let at = i
                        .backlog
                        .iter()
                        .position(|q| q.result.as_ptr() == result.as_ptr())?;
                    return i.backlog.remove(at).map(|queued| (Some(queued), None, None));
                }
            };
            let s = self.channel.slot(slot);
            let by_number = s.kind.load(Ordering::Relaxed) & kind::WITH_FUNCTION == 0;
            let function = by_number.then(|| s.function.load(Ordering::Relaxed));
            self.withdraw(i, slot, also_running)
                .map(|target| (None, Some(target), function))
        });
        let Some((queued, target, function)) = found else {
            return false;
        };
        let task = match (&queued, function) {
            (Some(queued), _) => name_of(queued.function.bind(py)),
            (None, Some(number)) => self.function_name(py, number),
            (None, None) => result.get().task(py),
        };
        // The supervisor looks for workers that are condemned.
        self.tell(order::LOOK);
        let error = errors(py, "task_cancelled", (format!("{task}(...)"),));
        self.fail_one(py, result.clone().unbind(), error);
        drop((queued, target));
        self.waiter.wake_all();
        true
    }

    /// Cancels what is left of a map; false if nothing is.
    pub fn cancel_job(&self, py: Python<'_>, job: &Arc<Job>, also_running: bool) -> bool {
        if job.state.with(py, |j| j.is_complete() && !j.has_more()) {
            return false;
        }
        let dropped = self.inner.with(py, |i| {
            let mut dropped = Vec::new();
            for slot in i.dispatcher.slots_in_flight() {
                let its =
                    matches!(&i.entries[slot as usize].target, Target::Job(of, _) if Arc::ptr_eq(of, job));
                if !its {
                    continue;
                }
                let target = self.withdraw(i, slot, also_running).unwrap_or_else(|| {
                    // It runs or is done, and nobody wants it any more.
                    std::mem::replace(&mut i.entries[slot as usize].target, Target::Abandoned)
                });
                dropped.push(target);
            }
            dropped
        });
        self.tell(order::LOOK);
        let error = errors(py, "task_cancelled", (format!("{}(...)", job.task),));
        self.fail_job(py, job, error);
        drop(dropped);
        self.waiter.wake_all();
        true
    }

    /// Cancels everything; returns how many calls that were.
    pub(super) fn cancel_all(&self, py: Python<'_>, pool: &Bound<'_, PoolBase>, also_running: bool) -> usize {
        self.collect(py, pool);
        let (ones, jobs) = self.inner.with(py, |i| {
            let mut ones: Vec<Py<AsyncResult>> = Vec::new();
            for slot in i.dispatcher.slots_in_flight() {
                match &i.entries[slot as usize].target {
                    Target::One(pointer) => {
                        // SAFETY: the entry held the pointer, so its object has not been dropped; the GIL is held.
                        let result: Bound<'_, PyAny> = unsafe { Bound::from_borrowed_ptr(py, *pointer) };
                        // SAFETY: only pointers to these objects are put into entries.
                        ones.push(unsafe { result.cast_into_unchecked::<AsyncResult>() }.unbind());
                    }
                    Target::Held(result) => ones.push(result.clone_ref(py)),
                    _ => {}
                }
            }
            ones.extend(i.backlog.iter().map(|q| q.result.clone_ref(py)));
            (ones, i.jobs.clone())
        });
        let ones = ones
            .iter()
            .filter(|one| self.cancel_one(py, one.bind(py), also_running))
            .count();
        let jobs = jobs
            .iter()
            .filter(|job| self.cancel_job(py, job, also_running))
            .count();
        self.see_to_helper(py, pool);
        ones + jobs
    }

    /// Keeps a result alive until its listeners were called.
    pub fn hold(&self, py: Python<'_>, pool: &Bound<'_, PoolBase>, result: &Bound<'_, AsyncResult>) {
        self.inner.with(py, |i| {
            i.callbacks_outstanding += 1;
            if let Some(slot) = result.get().slot(py) {
                let target = &mut i.entries[slot as usize].target;
                if matches!(target, Target::One(_)) {
                    *target = Target::Held(result.clone().unbind());
                }
            }
        });
        self.see_to_helper(py, pool);
    }

    /// Has this called when a job's result, or a stream's next item, is there.
    pub fn listen_to_job(
        &self,
        py: Python<'_>,
        pool: &Bound<'_, PoolBase>,
        job: &Arc<Job>,
        listener: Py<PyAny>,
    ) {
        let counted = job.state.with(py, |j| {
            let counted = !j.listeners.is_empty() || j.calls.is_some() || j.calls_running;
            j.listeners.push(listener);
            counted
        });
        if !counted {
            self.inner.with(py, |i| i.callbacks_outstanding += 1);
        }
        self.see_to_helper(py, pool);
    }

    /// A promised result is there.
    pub fn is_fulfilled(&self, py: Python<'_>, pool: &Bound<'_, PoolBase>, result: &Bound<'_, AsyncResult>) {
        if result.get().has_calls() {
            self.inner
                .with(py, |i| i.due.push_back(Due::One(result.clone().unbind())));
        }
        self.waiter.wake_all();
        self.see_to_helper(py, pool);
    }
}
