//! The result of a task that runs meanwhile.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::array::Port;
use super::call::{decode_result, Reading};
use super::helper::Callback;
use super::ledger::{Content, Delivery, Ledger};
use super::lifecycle::{Look, Shared};
use crate::error::{Error, Kind, Result};
use crate::shm::Owner;

/// The result of [`Pool::apply_async`](crate::Pool::apply_async): there now, or later.
///
/// Dropping it does not take the task back: it runs, and its result is thrown away.
#[must_use = "a result that nobody gets tells nobody of its errors"]
pub struct AsyncResult<R> {
    shared: Arc<Shared>,
    /// None after the result was taken.
    job: Option<u32>,
    result: PhantomData<fn() -> R>,
}

impl<R> fmt::Debug for AsyncResult<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncResult")
            .field("taken", &self.job.is_none())
            .finish_non_exhaustive()
    }
}

impl<R> AsyncResult<R> {
    pub(super) fn new(shared: Arc<Shared>, job: u32) -> Self {
        AsyncResult {
            shared,
            job: Some(job),
            result: PhantomData,
        }
    }

    fn job(&self) -> Result<u32> {
        self.shared.check_owner()?;
        self.job.ok_or_else(|| Error::new(Kind::ResultTaken))
    }

    fn await_delivery<T>(
        &self,
        limit: Option<Duration>,
        mut take: impl FnMut(&mut Ledger, u32) -> Option<T>,
    ) -> Result<T> {
        let job = self.job()?;
        // A deadline beyond the clock's end is none.
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let found = self.shared.wait_for(deadline, |ledger| {
            take(ledger, job).map_or(Look::NOT_YET, Look::Found)
        });
        found.ok_or_else(|| {
            Error::new(Kind::Timeout {
                what: "the task".into(),
                limit: limit.unwrap_or_default(),
            })
        })
    }

    /// Waits until the task is done.
    pub fn wait(&self) {
        let _ = self.await_delivery(None, is_there);
    }

    /// Waits until the task is done, but no longer than this. Whether it is.
    pub fn wait_timeout(&self, limit: Duration) -> bool {
        self.job.is_none() || self.await_delivery(Some(limit), is_there).is_ok()
    }

    /// Cancels the task: what no worker has begun is taken back, and a worker that runs it is killed. Then the result is an
    /// error ([`Error::is_cancelled`]). False if there was nothing left to cancel.
    ///
    /// ```no_run
    /// use procession::Pool;
    ///
    /// let pool = Pool::new()?;
    /// let endless = pool.apply_async(|()| loop {}, ())?;
    /// # let endless: procession::AsyncResult<()> = endless;
    /// assert!(endless.cancel());
    /// assert!(endless.get().unwrap_err().is_cancelled());
    /// # Ok::<(), procession::Error>(())
    /// ```
    pub fn cancel(&self) -> bool {
        let job = self.shared.is_owner().then_some(self.job).flatten();
        job.is_some_and(|job| self.shared.cancel(|_| vec![job]) > 0)
    }

    /// Whether the task is done, well or not.
    pub fn is_ready(&self) -> bool {
        self.wait_timeout(Duration::ZERO)
    }
}

impl<R: 'static> AsyncResult<R> {
    /// Whether the task is done and has given a result.
    pub fn is_successful(&self) -> bool {
        let (Ok(job), true) = (self.job(), self.is_ready()) else {
            return false;
        };
        let ledger = self.shared.lock();
        match ledger.first_delivery(job).map(|delivery| &delivery.content) {
            None | Some(Content::Failed(_)) => false,
            // The callback's view of it does not say.
            Some(Content::Value(value)) => value.downcast_ref::<Result<R>>().is_some_and(Result::is_ok),
            Some(content) => {
                super::frame::Frames::of(Ledger::frames_of(&self.shared.channel, content)).all(|f| !f.failed)
            }
        }
    }
}

fn is_there(ledger: &mut Ledger, job: u32) -> Option<()> {
    ledger.is_delivered(job).then_some(())
}

impl<R: DeserializeOwned + 'static> AsyncResult<R> {
    /// Waits for the result.
    ///
    /// # Errors
    ///
    /// What the task has failed with: it panicked ([`Error::is_task_panicked`]), its worker died
    /// ([`Error::is_worker_died`]), it took too long ([`Error::is_task_timeout`]), the pool was terminated
    /// ([`Error::is_terminated`]) or cannot have workers ([`Error::is_broken`]), or the result cannot be decoded
    /// ([`Error::is_codec`]).
    pub fn get(mut self) -> Result<R> {
        self.take(None)
    }

    /// Waits for the result, but no longer than this. After a timeout ([`Error::is_timeout`]) it may be asked again.
    ///
    /// # Errors
    ///
    /// As [`get`](AsyncResult::get); and if the result was taken by a former call.
    pub fn get_timeout(&mut self, limit: Duration) -> Result<R> {
        self.take(Some(limit))
    }

    fn take(&mut self, limit: Option<Duration>) -> Result<R> {
        let delivery = self.await_delivery(limit, |ledger, job| {
            if ledger.is_delivered(job) {
                ledger.take_only(job)
            } else {
                None
            }
        })?;
        self.job = None;
        decode_only(&self.shared, delivery)
    }
}

impl<R> Drop for AsyncResult<R> {
    fn drop(&mut self) {
        if let (Some(job), true) = (self.job, self.shared.is_owner()) {
            self.shared.lock().close_job(job);
        }
    }
}

/// Decodes the result of a job with one item.
fn decode_only<R: DeserializeOwned + 'static>(shared: &Shared, delivery: Delivery) -> Result<R> {
    let delivery = match delivery.content {
        Content::Value(value) => match value.downcast::<Result<R>>() {
            Ok(result) => return *result,
            Err(value) => Delivery {
                content: Content::Value(value),
                ..delivery
            },
        },
        content => Delivery { content, ..delivery },
    };
    let port = Port::new(shared.channel.clone(), Owner::CALLER);
    let port = port.open();
    let task = delivery.task;
    let mut reading = Reading::of(shared, delivery);
    match reading.next() {
        Some((item, frame)) => decode_result(shared, &port, task, item, frame?),
        None => Err(Error::new(Kind::ResultTaken)),
    }
}

/// What the helper does when the result is there: decode it, and call one of the two.
pub(super) fn callback<R: DeserializeOwned + Send + 'static>(
    on_success: impl FnOnce(&R) + Send + 'static,
    on_failure: impl FnOnce(&Error) + Send + 'static,
) -> Callback {
    Callback(Box::new(move |shared, delivery| {
        let result: Result<R> = decode_only(shared, delivery);
        // A panic is told by the panic hook, and ends nothing but the callback.
        let _ = catch_unwind(AssertUnwindSafe(|| match &result {
            Ok(value) => on_success(value),
            Err(error) => on_failure(error),
        }));
        Box::new(result) as Box<dyn Any + Send>
    }))
}
