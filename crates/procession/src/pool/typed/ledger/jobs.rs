//! Jobs and their functions: opened, cancelled, closed; what waits for their owners.

use super::*;

impl Ledger {
    /// The number of a function in the table that workers look it up in.
    pub fn register(&mut self, function: Function) -> Result<u32, Error> {
        if self.last_function.0 == function.key() {
            return Ok(self.last_function.1);
        }
        if let Some(&number) = self.functions.get(&function.key()) {
            self.last_function = (function.key(), number);
            return Ok(number);
        }
        if self.spawned && !function.code().is_in_this_file() {
            return Err(Error::new(Kind::FunctionElsewhere {
                task: function.name().to_string(),
            }));
        }
        let number = self.names.len() as u32;
        if number >= self.channel.most_functions() {
            return Err(Error::new(Kind::TooManyFunctions {
                most: self.channel.most_functions(),
            }));
        }
        self.channel
            .function_entry(number)
            .store(function.code().to_word(), Ordering::Release);
        self.channel
            .header()
            .life
            .functions
            .store(number + 1, Ordering::Release);
        self.channel.set_function_name(number, function.name());
        self.names.push(function.name());
        self.tallies.push(FunctionTally::default());
        self.functions.insert(function.key(), number);
        Ok(number)
    }

    /// What was seen of each function that was called.
    pub fn stats(&self) -> Vec<FunctionStats> {
        self.names
            .iter()
            .zip(&self.tallies)
            .filter(|(_, tally)| !tally.is_empty())
            .map(|(name, tally)| tally.stats(name.to_string()))
            .collect()
    }

    /// Opens a job.
    pub fn open_job(&mut self, function: u32, many: bool, callback: Option<Callback>, terms: Terms) -> u32 {
        self.callbacks_outstanding += usize::from(callback.is_some());
        let job = Job {
            task: Task { function, many },
            terms,
            abandoned: false,
            in_use: true,
            called: false,
            outstanding: 0,
            first: None,
            more: Vec::new(),
            callback,
        };
        match self.vacant_jobs.pop() {
            Some(number) => {
                self.jobs[number as usize] = job;
                number
            }
            None => {
                self.jobs.push(job);
                self.jobs.len() as u32 - 1
            }
        }
    }

    /// Closes a job: nobody will take what is still to come.
    pub fn close_job(&mut self, number: u32) {
        let job = &mut self.jobs[number as usize];
        job.abandoned = true;
        if job.callback.is_some() || job.called {
            // The helper frees it when the callback is over.
            return;
        }
        let (first, more) = (job.first.take(), std::mem::take(&mut job.more));
        let done = job.outstanding == 0;
        first
            .into_iter()
            .chain(more)
            .for_each(|delivery| self.discard(delivery));
        if done {
            self.free_job(number);
        }
    }

    pub(super) fn free_job(&mut self, number: u32) {
        let job = &mut self.jobs[number as usize];
        if std::mem::replace(&mut job.in_use, false) {
            if !self.failures.is_empty() {
                self.failures.retain(|&(job, _), _| job != number);
            }
            self.vacant_jobs.push(number);
        }
    }

    /// Takes back the batches of a job that no worker has begun. Their items count as delivered.
    pub fn cancel_job(&mut self, number: u32) {
        for slot in self.dispatcher.slots_in_flight() {
            if self.records[slot as usize].job == number && self.dispatcher.take_back(slot) {
                let record = self.records[slot as usize];
                let s = self.channel.slot(slot);
                let payload = self.keep_payload(s);
                self.drop_payload(&payload, s.kind.load(Ordering::Relaxed), record);
                self.jobs[number as usize].outstanding -= u64::from(record.limit - record.first);
                self.dispatcher.return_slot(slot);
            }
        }
        let (mine, others) = std::mem::take(&mut self.backlog)
            .into_iter()
            .partition(|w: &Waiting| w.record.job == number);
        self.backlog = others;
        let mine: VecDeque<Waiting> = mine;
        for Waiting {
            record,
            kind,
            payload,
        } in mine
        {
            self.drop_payload(&payload, kind, record);
            self.jobs[number as usize].outstanding -= u64::from(record.limit - record.first);
        }
    }

    /// Cancels a job: what no worker has begun fails at once, and who runs some of it is condemned. True if anything was
    /// left, and the supervisor is to be told.
    pub fn condemn_job(&mut self, number: u32) -> bool {
        let mut any = false;
        for slot in self.dispatcher.slots_in_flight() {
            let record = self.records[slot as usize];
            if record.job != number {
                continue;
            }
            if self.dispatcher.take_back(slot) {
                let channel = self.channel.clone();
                let s = channel.slot(slot);
                let payload = self.keep_payload(s);
                self.drop_payload(&payload, s.kind.load(Ordering::Relaxed), record);
                self.dispatcher.return_slot(slot);
                self.fail_cancelled(record);
                any = true;
            } else {
                any |= self.channel.doom(slot);
            }
        }
        let (mine, others) = std::mem::take(&mut self.backlog)
            .into_iter()
            .partition(|w: &Waiting| w.record.job == number);
        self.backlog = others;
        let mine: VecDeque<Waiting> = mine;
        for waiting in mine {
            self.drop_payload(&waiting.payload, waiting.kind, waiting.record);
            self.fail_cancelled(waiting.record);
            any = true;
        }
        any
    }

    pub(super) fn fail_cancelled(&mut self, record: Record) {
        let from = record.base + u64::from(record.first);
        let task = self.task_name(self.jobs[record.job as usize].task, from);
        let error = Error::new(Kind::TaskCancelled { task });
        self.fail(record.job, from, record.limit - record.first, error);
    }

    /// The jobs that have something in the works.
    pub fn jobs_in_flight(&self) -> Vec<u32> {
        let in_slots = self.dispatcher.slots_in_flight();
        let mut jobs: Vec<u32> = in_slots
            .iter()
            .map(|&slot| self.records[slot as usize].job)
            .chain(self.backlog.iter().map(|waiting| waiting.record.job))
            .collect();
        jobs.sort_unstable();
        jobs.dedup();
        jobs
    }

    /// Items of a job that were submitted and not delivered.
    #[inline]
    pub fn outstanding(&self, job: u32) -> u64 {
        self.jobs[job as usize].outstanding
    }

    /// Whether the delivery of a job with one item waits for its owner, its callback being over.
    #[inline]
    pub fn is_delivered(&self, job: u32) -> bool {
        let job = &self.jobs[job as usize];
        job.first.is_some() && job.callback.is_none()
    }

    /// A look at the first delivery.
    pub fn first_delivery(&self, job: u32) -> Option<&Delivery> {
        self.jobs[job as usize].first.as_ref()
    }

    /// A look at all deliveries.
    pub fn deliveries_of(&self, job: u32) -> impl Iterator<Item = &Delivery> {
        let job = &self.jobs[job as usize];
        job.first.iter().chain(&job.more)
    }

    /// Takes the delivery of a job with one item, which ends the job.
    #[inline]
    pub fn take_only(&mut self, job: u32) -> Option<Delivery> {
        let delivery = self.jobs[job as usize].first.take()?;
        self.held -= usize::from(matches!(delivery.content, Content::Slot(_)));
        self.free_job(job);
        Some(delivery)
    }

    /// Moves all deliveries of a job to `taken`.
    pub fn take_deliveries(&mut self, job: u32, taken: &mut Vec<Delivery>) {
        let job = &mut self.jobs[job as usize];
        let before = taken.len();
        taken.extend(job.first.take());
        taken.append(&mut job.more);
        self.held -= taken[before..]
            .iter()
            .filter(|d| matches!(d.content, Content::Slot(_)))
            .count();
    }

    /// Takes what a callback is to be called with.
    pub fn take_callback(&mut self, number: u32) -> Option<(Callback, Delivery)> {
        let job = &mut self.jobs[number as usize];
        // Without a callback it was forgotten meanwhile, and the delivery is its owner's.
        let callback = job.callback.take()?;
        let delivery = job.first.take()?;
        job.called = true;
        self.held -= usize::from(matches!(delivery.content, Content::Slot(_)));
        Some((callback, delivery))
    }

    /// Gives a job the value that its callback has seen.
    pub fn end_callback(&mut self, number: u32, value: Box<dyn Any + Send>) {
        self.callbacks_outstanding -= 1;
        let job = &mut self.jobs[number as usize];
        job.called = false;
        if job.abandoned {
            self.trash.push(value);
            self.free_job(number);
        } else {
            job.first = Some(Delivery {
                from: 0,
                count: 1,
                content: Content::Value(value),
                has_parts: false,
                elapsed_ns: 0,
                task: job.task,
            });
        }
    }

    /// The task of a job.
    pub fn task_of(&self, job: u32) -> Task {
        self.jobs[job as usize].task
    }

    /// How people call an item of a task.
    pub fn task_name(&self, task: Task, item: u64) -> String {
        let name = self
            .names
            .get(task.function as usize)
            .copied()
            .unwrap_or("a function");
        if task.many {
            format!("{name} (item {item})")
        } else {
            name.to_string()
        }
    }
}
