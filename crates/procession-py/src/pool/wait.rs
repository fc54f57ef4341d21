//! Waiting, and the helper thread that attends where nobody waits.

use super::*;

impl Core {
    pub(super) fn helper_is_needed(&self, py: Python<'_>) -> bool {
        self.inner.with(py, |i| {
            i.callbacks_outstanding > 0
                || !i.due.is_empty()
                || !i.backlog.is_empty()
                || i.dispatcher.has_queue()
                || i.jobs
                    .iter()
                    .any(|j| j.state.with(py, |s| s.has_more() && !s.fed_by_thread))
        })
    }

    pub(super) fn see_to_helper(&self, py: Python<'_>, pool: &Bound<'_, PoolBase>) {
        let start = self.inner.with(py, |i| {
            let needed = i.callbacks_outstanding > 0
                || !i.due.is_empty()
                || !i.backlog.is_empty()
                || i.dispatcher.has_queue();
            needed && !std::mem::replace(&mut i.helper_runs, true)
        });
        if start && pool.call_method0(intern!(py, "_start_helper")).is_err() {
            self.inner.with(py, |i| i.helper_runs = false);
        }
    }

    /// A job that nobody waits for needs the helper, if not all of it could be sent out at once.
    pub(super) fn leave_unattended(&self, py: Python<'_>, pool: &Bound<'_, PoolBase>, job: &Arc<Job>) {
        let start = job.state.with(py, |j| j.has_more() || j.calls.is_some())
            && self
                .inner
                .with(py, |i| !std::mem::replace(&mut i.helper_runs, true));
        if start && pool.call_method0(intern!(py, "_start_helper")).is_err() {
            self.inner.with(py, |i| i.helper_runs = false);
        }
    }

    /// Waits for the next callback that is due; `None` when the helper thread has nothing more to attend to.
    pub(super) fn next_due(&self, py: Python<'_>, pool: &Bound<'_, PoolBase>) -> Option<Due> {
        let mut idle_since: Option<Instant> = None;
        loop {
            let epoch = self.waiter.epoch();
            self.collect(py, pool);
            if let Some(due) = self.inner.with(py, |i| i.due.pop_front()) {
                return Some(due);
            }
            let mut limit = None;
            if self.helper_is_needed(py) && !self.is_over(py) {
                idle_since = None;
            } else {
                let lingered = idle_since.get_or_insert_with(Instant::now).elapsed();
                if lingered >= HELPER_LINGERS || self.is_over(py) {
                    self.inner.with(py, |i| i.helper_runs = false);
                    return None;
                }
                limit = Some(HELPER_LINGERS - lingered);
            }
            match self.detached(py, || self.waiter.wait(epoch, 1, limit)) {
                Woke::SupervisorGone => self.supervisor_is_gone(py, pool),
                Woke::Interrupted | Woke::Look | Woke::TimedOut => {}
            }
        }
    }

    /// Says that a callback has run.
    pub(super) fn due_is_done(&self, py: Python<'_>) {
        self.inner.with(py, |i| {
            i.callbacks_outstanding = i.callbacks_outstanding.saturating_sub(1);
        });
        self.waiter.announce();
    }

    /// Waits without the GIL, and never comes back if the interpreter is about to end meanwhile: a thread that asks for
    /// the GIL then is ended by unwinding its stack, which must not meet our frames.
    pub fn detached<T: Send>(&self, py: Python<'_>, wait: impl FnOnce() -> T + Send) -> T {
        let main = process::is_main_thread();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let value = py.detach(|| {
            let value = wait();
            if self.exiting.load(Ordering::SeqCst) && !main {
                self.waiting.fetch_sub(1, Ordering::SeqCst);
                park();
            }
            value
        });
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        value
    }

    /// Before the interpreter ends: has all waiting threads park, or go on before the end begins.
    pub(super) fn park_waiters(&self, py: Python<'_>) {
        let end = Instant::now() + Duration::from_secs(1);
        while self.waiting.load(Ordering::SeqCst) > 0 && Instant::now() < end {
            self.waiter.wake_all();
            py.detach(|| std::thread::sleep(Duration::from_micros(200)));
        }
    }

    /// Waits until `ready` says so. False when the time was over first.
    pub fn wait_until(
        &self,
        py: Python<'_>,
        pool: &Bound<'_, PoolBase>,
        timeout: Option<Duration>,
        job: Option<&Arc<Job>>,
        mut ready: impl FnMut(Python<'_>) -> bool,
    ) -> PyResult<bool> {
        let deadline = timeout.map(|t| Instant::now() + t);
        let mut patience = Duration::from_millis(2);
        loop {
            if self.exiting.load(Ordering::Relaxed) && !process::is_main_thread() {
                py.detach(|| park());
            }
            let epoch = self.waiter.epoch();
            self.collect(py, pool);
            if ready(py) {
                return Ok(true);
            }
            let mut left = None;
            if let Some(deadline) = deadline {
                let now = Instant::now();
                if now >= deadline {
                    return Ok(false);
                }
                left = Some(deadline - now);
            }
            let (countdown, may_relieve) = match job {
                Some(job) => job.state.with(py, |j| match &j.sink {
                    Sink::List { .. } => (
                        i64::from((j.in_flight / 4).clamp(1, 64)),
                        j.in_flight > 0 && j.batch > 1 && !j.has_more(),
                    ),
                    Sink::Stream { .. } => (1, j.batch > 1),
                }),
                None => (1, false),
            };
            let mut limit = left;
            if may_relieve {
                limit = Some(limit.map_or(patience, |l| l.min(patience)));
            } else if self.is_stalled() {
                limit = Some(limit.map_or(STALL, |l| l.min(STALL)));
            }
            // A signal that came while this thread was awake interrupts no sleep.
            py.check_signals()?;
            match self.detached(py, || self.waiter.wait(epoch, countdown, limit)) {
                Woke::Look => patience = Duration::from_millis(2),
                Woke::TimedOut => {
                    if may_relieve {
                        patience = (patience * 2).min(Duration::from_millis(50));
                        if let Some(job) = job {
                            self.relieve(py, job);
                        }
                    }
                }
                Woke::Interrupted => py.check_signals()?,
                Woke::SupervisorGone => self.supervisor_is_gone(py, pool),
            }
        }
    }
}

fn park() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
