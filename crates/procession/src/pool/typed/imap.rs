//! Results one by one, while the items are still being read.

use std::collections::BTreeMap;
use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::call::{decode_result, Reading};
use super::flow::Flow;
use super::ledger::Delivery;
use super::lifecycle::Shared;
use crate::error::Result;

/// The results of [`Pool::imap`](crate::Pool::imap) or [`Pool::imap_unordered`](crate::Pool::imap_unordered), one by one.
///
/// An item that fails is an `Err` in its place, and the others go on. Items are read when results are taken, and no more than
/// a [`buffer`](crate::PoolBuilder::buffer) ahead of them. Dropping the iterator takes back what no worker has begun.
#[must_use = "an iterator does nothing unless it is iterated over"]
pub struct Imap<'a, R> {
    /// What is being read just now.
    reading: Option<Reading<Arc<Shared>>>,
    flow: Flow<'a>,
    /// The number of the next result, if they are to come in order.
    next: Option<u64>,
    /// What came too early.
    early: BTreeMap<u64, Delivery>,
    results: PhantomData<fn() -> R>,
}

impl<R> fmt::Debug for Imap<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imap")
            .field("ordered", &self.next.is_some())
            .finish_non_exhaustive()
    }
}

impl<'a, R> Imap<'a, R> {
    /// Begins at once: the first items are on their way when this returns.
    pub(super) fn new(flow: Flow<'a>, ordered: bool) -> Self {
        let mut flow = flow.eager();
        flow.fill();
        flow.exchange(false);
        Imap {
            reading: None,
            flow,
            next: ordered.then_some(0),
            early: BTreeMap::new(),
            results: PhantomData,
        }
    }

    fn next_delivery(&mut self) -> Option<Delivery> {
        let Some(next) = &mut self.next else {
            return self.flow.next_delivery();
        };
        while let Some(delivery) = self.flow.next_delivery() {
            self.early.insert(delivery.from, delivery);
        }
        let delivery = self.early.remove(next)?;
        *next += u64::from(delivery.count);
        Some(delivery)
    }
}

impl<R: DeserializeOwned> Iterator for Imap<'_, R> {
    type Item = Result<R>;

    fn next(&mut self) -> Option<Result<R>> {
        loop {
            if let Some(reading) = &mut self.reading {
                let task = reading.task();
                if let Some((item, frame)) = reading.next() {
                    let port = self.flow.port().open();
                    return Some(
                        frame.and_then(|frame| decode_result(self.flow.shared(), &port, task, item, frame)),
                    );
                }
            }
            if let Some(reading) = self.reading.take() {
                self.flow.was_read(reading);
            }
            let mut delivery = self.next_delivery();
            if let Some(delivery) = &delivery {
                self.flow.consume(delivery);
            }
            self.flow.fill();
            if delivery.is_none() || self.flow.has_ready() {
                self.flow.exchange(delivery.is_none());
            }
            if delivery.is_none() {
                delivery = self.next_delivery();
                match &delivery {
                    Some(delivery) => self.flow.consume(delivery),
                    None if self.flow.is_over() && self.early.is_empty() => return None,
                    None => {}
                }
            }
            let shared = self.flow.shared().clone();
            self.reading = delivery.map(|delivery| Reading::of(shared, delivery));
        }
    }
}

impl<R: DeserializeOwned> FusedIterator for Imap<'_, R> {}

impl<R> Drop for Imap<'_, R> {
    fn drop(&mut self) {
        for delivery in std::mem::take(&mut self.early).into_values() {
            self.flow.give_back(delivery);
        }
    }
}
