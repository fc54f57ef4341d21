//! Items are reported as done, and whoever joins waits until all are.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::wait::Asked;
use super::ByteQueue;
use crate::sync::waits::{Deadlock, For};
use crate::sync::{Pace, Stir};

impl ByteQueue {
    /// Reports one item as done; false if as many were reported as were put.
    pub fn task_done(&self) -> bool {
        let header = self.header();
        let mut done = header.done.0.load(Ordering::Relaxed);
        loop {
            if done == self.tail().items {
                return false;
            }
            match header.done.0.compare_exchange(
                done,
                done.wrapping_add(1),
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => done = now,
            }
        }
        crate::crash_point!("queue-done");
        if self.unfinished() == 0 {
            header.all_done.0.ring(u32::MAX);
        }
        true
    }

    /// How many of the items that were put are not reported as done.
    pub fn unfinished(&self) -> usize {
        let done = self.header().done.0.load(Ordering::Acquire);
        self.tail().items.wrapping_sub(done) as usize
    }

    /// Waits until all items that were put are reported as done; false if the time was over first.
    ///
    /// # Errors
    /// What `stir` returned, or a deadlock that the wait is part of.
    pub fn join<E: From<Deadlock>>(
        &self,
        limit: Option<Duration>,
        stir: &mut dyn FnMut(Stir) -> Result<(), E>,
        asked: Asked<'_>,
    ) -> Result<bool, E> {
        let pace = Pace::begin_without_owner(limit);
        let bell = &self.header().all_done.0;
        let mut watch = self.watch(For::Done, limit, asked);
        self.wait(For::Done, bell, None, &pace, stir, &mut watch)
    }
}
