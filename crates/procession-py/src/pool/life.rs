//! The pool's life: breakage, lost supervisors, the end.

use super::*;

impl Core {
    /// The caller's end of a line to a supervisor that is being started.
    pub(super) fn parent_end(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.parent_end.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn look_for_breakage(&self, py: Python<'_>) {
        if self.channel.header().life.broken.load(Ordering::Relaxed) == 0 {
            return;
        }
        if self.over.with(py, |o| !matches!(o, Over::No)) {
            return;
        }
        let text = self.inner.with(py, |i| i.dispatcher.broken()).unwrap_or_default();
        self.over.with(py, |o| *o = Over::Broken(text));
        self.fail_everything(py);
    }

    /// The error that everyone gets who waits for a pool that is over.
    pub(super) fn over_error(&self, py: Python<'_>) -> PyErr {
        let broken = self.over.with(py, |o| match o {
            Over::Broken(text) => Some(text.clone()),
            _ => None,
        });
        match broken {
            Some(text) => errors(py, "worker_init_error", (py.None(), py.None(), py.None(), text)),
            None => errors(py, "pool_terminated", ()),
        }
    }

    /// Fails all that is outstanding. Results that arrive later are nobody's.
    pub(super) fn fail_everything(&self, py: Python<'_>) {
        let (ones, jobs, backlog) = self.inner.with(py, |i| {
            let (mut ones, jobs) = (Vec::new(), std::mem::take(&mut i.jobs));
            for entry in &mut i.entries {
                match std::mem::replace(&mut entry.target, Target::Abandoned) {
                    Target::One(pointer) => {
                        // SAFETY: as in `take_result`.
                        let result: Bound<'_, PyAny> = unsafe { Bound::from_borrowed_ptr(py, pointer) };
                        // SAFETY: as in `take_result`.
                        let result = unsafe { result.cast_into_unchecked::<AsyncResult>() };
                        result.get().forget_slot();
                        ones.push(result.unbind());
                    }
                    Target::Held(result) => ones.push(result),
                    Target::Vacant => entry.target = Target::Vacant,
                    Target::Job(..) | Target::Abandoned => {}
                }
            }
            (ones, jobs, std::mem::take(&mut i.backlog))
        });
        for result in ones.into_iter().chain(backlog.into_iter().map(|q| q.result)) {
            let error = self.over_error(py);
            self.fail_one(py, result, error);
        }
        for job in jobs {
            let error = self.over_error(py);
            self.fail_job(py, &job, error);
        }
        self.waiter.wake_all();
    }

    /// Ends a job with this error; what has arrived in order may still be read from a stream.
    pub(super) fn fail_job(&self, py: Python<'_>, job: &Arc<Job>, error: PyErr) {
        let dropped = job.state.with(py, |j| {
            j.abandoned = true;
            let dropped = (j.source.take(), j.held.take(), std::mem::take(&mut j.parked));
            match &mut j.sink {
                Sink::List { failed, .. } => {
                    *failed = Some((0, error));
                }
                Sink::Stream { ready, .. } => {
                    // The next one to be waited for fails, and with it the stream ends.
                    while matches!(ready.back(), Some(None)) {
                        ready.pop_back();
                    }
                    let place = ready.iter().position(Option::is_none).unwrap_or(ready.len());
                    ready.truncate(place);
                    ready.push_back(Some(Item::Exception(error)));
                }
            }
            j.total = Some(j.delivered);
            dropped
        });
        drop(dropped);
        self.inner.with(py, |i| self.finish_job(py, i, job));
    }

    pub(super) fn supervisor_is_gone(&self, py: Python<'_>, pool: &Bound<'_, PoolBase>) {
        let Some(lines) = self.waiter.lines() else { return };
        self.waiter.set_lines(None);
        if self.channel.header().stage() != Stage::Running || self.over.with(py, |o| !matches!(o, Over::No)) {
            self.reap(py, lines);
            self.look_for_breakage(py);
            self.over.with(py, |o| {
                if matches!(o, Over::No) {
                    *o = Over::Terminated;
                }
            });
            self.fail_everything(py);
            return;
        }
        py.detach(|| self.wait_for_workers_end());
        self.reap(py, lines);
        self.inner.with(py, |i| i.dispatcher.all_have_ended());
        let now = Instant::now();
        let too_often = self.inner.with(py, |i| {
            while i.restarts.front().is_some_and(|t| now - *t > RESTART_WINDOW) {
                i.restarts.pop_front();
            }
            i.restarts.push_back(now);
            i.restarts.len() > RESTARTS
        });
        let restarted = if too_often {
            Err(None)
        } else {
            pool.call_method0(intern!(py, "_launch")).map_err(Some)
        };
        if let Err(why) = restarted {
            let text = match why {
                Some(e) => format!("the pool's supervisor died and cannot be started again: {e}"),
                None => "the pool's supervisor died again and again".to_string(),
            };
            self.over.with(py, |o| *o = Over::Broken(text));
            self.fail_everything(py);
        }
    }

    /// Workers die with their supervisor; before their slots are anybody's again, they must be certainly dead.
    pub(super) fn wait_for_workers_end(&self) {
        for seat in 0..self.channel.geometry().seats {
            let s = self.channel.seat(seat);
            if !matches!(s.stage.load(Ordering::Acquire), Seat::STARTING | Seat::READY) {
                continue;
            }
            let pid = s.pid.load(Ordering::Relaxed);
            if pid == 0 || pid == self.supervisor_pid.load(Ordering::Relaxed) {
                continue;
            }
            if let Ok(pidfd) = process::pidfd_open(pid) {
                // Should the request to die with the supervisor have come too late for it, it is made good here.
                let _ = process::pidfd_send_signal(&pidfd, 9);
                let _ = procession::os::event::wait_readable(&[pidfd.as_fd()], Some(Duration::from_secs(5)));
            }
        }
    }

    pub(super) fn reap(&self, py: Python<'_>, lines: Arc<Lines>) {
        if self.supervisor_is_child.load(Ordering::Relaxed) {
            py.detach(|| {
                let _ = process::wait_pidfd(&lines.supervisor, false);
            });
        }
    }

    /// Waits for the supervisor's end, for ever or until it has been asked for long enough and is killed.
    pub(super) fn wait_for_supervisor(&self, py: Python<'_>, patience: Option<Duration>) -> PyResult<()> {
        let deadline = patience.map(|p| Instant::now() + p);
        while let Some(lines) = self.waiter.lines() {
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            let waited =
                py.detach(|| procession::os::event::wait_readable(&[lines.supervisor.as_fd()], left));
            match waited {
                Ok(0) => {
                    let _ = process::pidfd_send_signal(&lines.supervisor, 9);
                    py.detach(|| self.wait_for_workers_end());
                    self.reap(py, lines);
                    self.waiter.set_lines(None);
                }
                Ok(_) => {
                    self.reap(py, lines);
                    self.waiter.set_lines(None);
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => py.check_signals()?,
                Err(e) => return Err(os_error(e)),
            }
        }
        Ok(())
    }

    /// Ends everything at once: results that are not there yet fail. At the interpreter's end nobody is told.
    pub(super) fn terminate(
        &self,
        py: Python<'_>,
        pool: &Bound<'_, PoolBase>,
        at_exit: bool,
    ) -> PyResult<()> {
        self.accepting.store(false, Ordering::Relaxed);
        self.exiting.fetch_or(at_exit, Ordering::Relaxed);
        let first = self.over.with(py, |o| {
            if matches!(o, Over::No) {
                *o = Over::Terminated;
                return true;
            }
            false
        });
        self.inner
            .with(py, |i| i.dispatcher.set_stage(Stage::Terminating));
        self.tell(order::TERMINATE);
        if first && !at_exit {
            self.fail_everything(py);
            // The helper may have ended when it saw that the pool is over, before all of this was due.
            self.see_to_helper(py, pool);
        }
        self.wait_for_supervisor(py, Some(Duration::from_secs(5)))?;
        self.waiter.wake_all();
        if at_exit {
            self.park_waiters(py);
        }
        Ok(())
    }

    /// Waits until all work is done and all processes have ended.
    pub(super) fn join(&self, py: Python<'_>, pool: &Bound<'_, PoolBase>) -> PyResult<()> {
        let over = |py: Python<'_>| self.over.with(py, |o| !matches!(o, Over::No));
        // Whoever joins wants all work done; bounds on iterators that nobody reads meanwhile would prevent that.
        self.lift_bounds(py);
        self.wait_until(py, pool, None, None, |py| over(py) || self.is_drained(py))?;
        if !over(py) {
            self.inner.with(py, |i| i.dispatcher.set_stage(Stage::Finishing));
            self.channel.wake_all_workers();
            self.tell(order::LOOK);
        }
        self.wait_for_supervisor(py, None)?;
        // Those who wait for the helper's work have had it; it goes by itself.
        self.waiter.wake_all();
        Ok(())
    }

    pub(super) fn lift_bounds(&self, py: Python<'_>) {
        self.inner.with(py, |i| {
            for job in &i.jobs {
                job.state.with(py, |j| {
                    if let Sink::Stream { buffer, .. } = &mut j.sink {
                        *buffer = u64::MAX / 2;
                    }
                });
            }
        });
    }

    /// Forgets a job that nobody wants results of.
    pub fn forget_job(&self, py: Python<'_>, job: &Arc<Job>) {
        let dropped = self.inner.with(py, |i| {
            let at = i.jobs.iter().position(|j| Arc::ptr_eq(j, job));
            at.map(|at| i.jobs.remove(at))
        });
        drop(dropped);
        // Whoever joins may have waited for nothing but this.
        self.waiter.announce();
    }

    pub fn is_over(&self, py: Python<'_>) -> bool {
        self.over.with(py, |o| !matches!(o, Over::No))
    }

    pub(super) fn is_drained(&self, py: Python<'_>) -> bool {
        self.inner.with(py, |i| {
            i.dispatcher.in_flight() == 0
                && i.backlog.is_empty()
                && i.callbacks_outstanding == 0
                && i.due.is_empty()
                && i.jobs.iter().all(|j| {
                    j.state
                        .with(py, |s| !s.has_more() && s.in_flight == 0 && s.source.is_none())
                })
        })
    }
}
