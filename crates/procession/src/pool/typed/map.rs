//! All results of many items, in order.

use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::array::Port;
use super::call::{decode_result, Reading};
use super::flow::Flow;
use super::ledger::{Content, Delivery, Ledger};
use super::lifecycle::{Look, Shared};
use crate::error::{Error, Kind, Result};
use crate::shm::Owner;

/// Results that come in any order, each to its place.
struct Places<R> {
    places: Vec<MaybeUninit<R>>,
    /// A bit for each place that has its result.
    filled: Vec<u64>,
    count: usize,
}

impl<R> Places<R> {
    /// With room for so many at once.
    fn new(room: usize) -> Self {
        Places {
            places: Vec::with_capacity(room),
            filled: Vec::with_capacity(room.div_ceil(64)),
            count: 0,
        }
    }

    #[inline]
    fn put(&mut self, place: usize, result: R) {
        if place >= self.places.len() {
            let len = (place + 1).max((self.places.len() * 2).min(self.places.capacity()));
            self.places.resize_with(len, MaybeUninit::uninit);
            self.filled.resize(self.places.len().div_ceil(64), 0);
        }
        let bit = 1 << (place % 64);
        // A second result for a place is dropped: damaged memory must not make us lose a value or drop one twice.
        if self.filled[place / 64] & bit == 0 {
            self.filled[place / 64] |= bit;
            self.places[place].write(result);
            self.count += 1;
        }
    }

    /// All of them, if there is one for each of the first `count` places.
    fn into_vec(mut self, count: usize) -> Option<Vec<R>> {
        let whole =
            self.count == count && (0..count).all(|place| self.filled[place / 64] >> (place % 64) & 1 == 1);
        if !whole {
            return None;
        }
        self.filled.clear();
        let mut places = std::mem::take(&mut self.places);
        places.truncate(count);
        let (start, len, capacity) = (places.as_mut_ptr(), places.len(), places.capacity());
        std::mem::forget(places);
        // SAFETY: `MaybeUninit<R>` lies in memory as `R` does; the first `count` places are filled (checked above), and the
        // vector that owned the memory was forgotten.
        Some(unsafe { Vec::from_raw_parts(start.cast::<R>(), len, capacity) })
    }
}

impl<R> Drop for Places<R> {
    fn drop(&mut self) {
        for (place, result) in self.places.iter_mut().enumerate() {
            if self
                .filled
                .get(place / 64)
                .is_some_and(|bits| bits >> (place % 64) & 1 == 1)
            {
                // SAFETY: its bit says that it was written, and nobody has moved it out.
                unsafe { result.assume_init_drop() };
            }
        }
    }
}

/// Results as they come, and the error of the first item that failed.
struct Collection<R> {
    places: Places<R>,
    error: Option<(u64, Error)>,
}

impl<R: DeserializeOwned> Collection<R> {
    fn new(room: u64) -> Self {
        // Not all at once if there are very many: an iterator may say so and give fewer, or none.
        Collection {
            places: Places::new(room.min(1 << 24) as usize),
            error: None,
        }
    }

    fn read(&mut self, shared: &Shared, port: &Port, reading: &mut Reading<&Shared>) {
        let task = reading.task();
        while let Some((item, frame)) = reading.next() {
            match frame.and_then(|frame| decode_result(shared, port, task, item, frame)) {
                Ok(result) => self.places.put(item as usize, result),
                Err(error) => self.fail(item, error),
            }
        }
    }

    fn fail(&mut self, item: u64, error: Error) {
        if self.error.as_ref().is_none_or(|first| item < first.0) {
            self.error = Some((item, error));
        }
    }

    fn finish(self, count: u64) -> Result<Vec<R>> {
        match self.error {
            Some((_, error)) => Err(error),
            None => self
                .places
                .into_vec(count as usize)
                .ok_or_else(|| Error::new(Kind::Damaged { task: "map".into() })),
        }
    }
}

/// Runs a flow to its end.
pub(super) fn collect<R: DeserializeOwned>(mut flow: Flow<'_>) -> Result<Vec<R>> {
    let shared = flow.shared().clone();
    let mut collection = Collection::new(flow.items_remaining().unwrap_or(0) as u64);
    loop {
        flow.fill();
        flow.exchange(true);
        while let Some(delivery) = flow.next_delivery() {
            flow.consume(&delivery);
            let mut reading = Reading::of(&*shared, delivery);
            collection.read(&shared, &flow.port().open(), &mut reading);
            flow.was_read(reading);
        }
        if flow.is_over() {
            return collection.finish(flow.items_read());
        }
    }
}

/// The results of [`Pool::map_async`](crate::Pool::map_async): there now, or later.
///
/// Dropping it takes nothing back: the items run, and their results are thrown away.
#[must_use = "results that nobody gets tell nobody of their errors"]
pub struct MapResult<R> {
    shared: Arc<Shared>,
    /// None after the results were taken.
    job: Option<u32>,
    count: u64,
    /// Items that could not be sent.
    refused: Vec<(u64, Error)>,
    results: PhantomData<fn() -> R>,
}

impl<R> fmt::Debug for MapResult<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapResult")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl<R> MapResult<R> {
    pub(super) fn new(flow: Flow<'_>) -> Self {
        let shared = flow.shared().clone();
        let (job, count, refused) = flow.submit_all();
        MapResult {
            shared,
            job: Some(job),
            count,
            refused,
            results: PhantomData,
        }
    }

    fn await_all<T>(
        &self,
        limit: Option<Duration>,
        mut take: impl FnMut(&mut Ledger, u32) -> T,
    ) -> Result<T> {
        self.shared.check_owner()?;
        let job = self.job.ok_or_else(|| Error::new(Kind::ResultTaken))?;
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut pause = Duration::from_millis(2);
        let mut waited = false;
        let found = self.shared.wait_for(deadline, |ledger| {
            if ledger.outstanding(job) == 0 {
                return Look::Found(take(ledger, job));
            }
            if std::mem::replace(&mut waited, true) {
                ledger.share_out(job);
                pause = (pause * 2).min(Duration::from_millis(100));
            }
            Look::Wait {
                results: ledger.dispatcher.in_flight() as i64,
                at_most: Some(pause),
            }
        });
        found.ok_or_else(|| {
            Error::new(Kind::Timeout {
                what: "the map".into(),
                limit: limit.unwrap_or_default(),
            })
        })
    }

    /// Waits until all items are done.
    pub fn wait(&self) {
        let _ = self.await_all(None, |_, _| ());
    }

    /// Waits until all items are done, but no longer than this. Whether they are.
    pub fn wait_timeout(&self, limit: Duration) -> bool {
        self.job.is_none() || self.await_all(Some(limit), |_, _| ()).is_ok()
    }

    /// Cancels what is not done: what no worker has begun is taken back, and a worker that runs it is killed. Then the result is an
    /// error ([`Error::is_cancelled`]). False if there was nothing left to cancel.
    ///
    /// ```no_run
    /// use procession::Pool;
    ///
    /// let pool = Pool::new()?;
    /// let endless = pool.map_async(|()| loop {}, [()])?;
    /// # let endless: procession::MapResult<()> = endless;
    /// assert!(endless.cancel());
    /// assert!(endless.get().unwrap_err().is_cancelled());
    /// # Ok::<(), procession::Error>(())
    /// ```
    pub fn cancel(&self) -> bool {
        let job = self.shared.is_owner().then_some(self.job).flatten();
        job.is_some_and(|job| self.shared.cancel(|_| vec![job]) > 0)
    }

    /// Whether all items are done, well or not.
    pub fn is_ready(&self) -> bool {
        self.wait_timeout(Duration::ZERO)
    }

    /// Whether all items are done and have given results.
    pub fn is_successful(&self) -> bool {
        let channel = &self.shared.channel;
        let well = |delivery: &Delivery| {
            !matches!(delivery.content, Content::Failed(_))
                && super::frame::Frames::of(Ledger::frames_of(channel, &delivery.content))
                    .all(|frame| !frame.failed)
        };
        self.refused.is_empty()
            && self.is_ready()
            && self
                .job
                .is_some_and(|job| self.shared.lock().deliveries_of(job).all(well))
    }
}

impl<R: DeserializeOwned> MapResult<R> {
    /// Waits for all results; they are in the order of the items.
    ///
    /// # Errors
    ///
    /// What the first of the items that failed has failed with, as in [`Pool::map`](crate::Pool::map).
    pub fn get(mut self) -> Result<Vec<R>> {
        self.take(None)
    }

    /// Waits for all results, but no longer than this. After a timeout ([`Error::is_timeout`]) it may be asked again.
    ///
    /// # Errors
    ///
    /// As [`get`](MapResult::get); and if the results were taken by a former call.
    pub fn get_timeout(&mut self, limit: Duration) -> Result<Vec<R>> {
        self.take(Some(limit))
    }

    fn take(&mut self, limit: Option<Duration>) -> Result<Vec<R>> {
        let deliveries = self.await_all(limit, |ledger, job| {
            let mut deliveries = Vec::new();
            ledger.take_deliveries(job, &mut deliveries);
            ledger.close_job(job);
            deliveries
        })?;
        self.job = None;
        let port = Port::new(self.shared.channel.clone(), Owner::CALLER);
        let port = port.open();
        let mut collection = Collection::new(self.count);
        for (item, error) in self.refused.drain(..) {
            collection.fail(item, error);
        }
        for delivery in deliveries {
            let mut reading = Reading::of(&*self.shared, delivery);
            collection.read(&self.shared, &port, &mut reading);
        }
        collection.finish(self.count)
    }
}

impl<R> Drop for MapResult<R> {
    fn drop(&mut self) {
        if let (Some(job), true) = (self.job, self.shared.is_owner()) {
            self.shared.lock().close_job(job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn results_are_in_order_and_none_is_lost_or_dropped_twice() {
        let witness = Rc::new(());
        let mut places = Places::new(0);
        for place in [5, 0, 3, 1, 4, 2, 2] {
            places.put(place, (place, witness.clone()));
        }
        assert_eq!(Rc::strong_count(&witness), 7);
        let results = places.into_vec(6).unwrap();
        assert_eq!(
            results.iter().map(|result| result.0).collect::<Vec<_>>(),
            [0, 1, 2, 3, 4, 5]
        );
        drop(results);
        let mut gaps = Places::new(0);
        gaps.put(70, (70, witness.clone()));
        gaps.put(1, (1, witness.clone()));
        assert!(gaps.into_vec(2).is_none());
        assert_eq!(Rc::strong_count(&witness), 1);
    }
}
