//! The reader's side: what lies in shared memory, as ordinary values. Nothing that is read is trusted.

use super::layout::{Cells, Distributions, Head, Seat, Step, Text, SECONDS_KEPT};
use crate::histogram::{bucket_of, Histogram, BUCKETS};
use crate::result::StepKind;
use std::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};

impl Text<64> {
    pub(crate) fn read_failure(&self) -> String {
        read_text(self)
    }
}

pub(crate) fn read_text<const N: usize>(text: &Text<N>) -> String {
    // Sync points *step name* and *example*: the length comes before the bytes.
    let len = (text.len.load(Ordering::Acquire) as usize).min(N * 8);
    let bytes: Vec<u8> = text
        .words
        .iter()
        .flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes())
        .take(len)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(crate) fn step_name(step: &Step) -> Option<(StepKind, String)> {
    let kinds = [StepKind::Request, StepKind::Step, StepKind::Iteration];
    let kind = *kinds.get(step.kind.load(Ordering::Relaxed) as usize)?;
    Some((kind, read_text(&step.name)))
}

/// What lies in the buckets between the shortest and the longest time. Others are empty, and looking at them would cost
/// memory: the kernel makes a page for who reads it.
fn read_buckets<T>(
    buckets: &[T; BUCKETS],
    load: impl Fn(&T) -> u64,
    sum: &AtomicU64,
    least: &AtomicU64,
    most: &AtomicU64,
) -> Histogram {
    let most_ns = most.load(Ordering::Acquire);
    let Some(least_ns) = least.load(Ordering::Acquire).checked_sub(1) else {
        return Histogram::default();
    };
    let range = bucket_of(least_ns)..=bucket_of(most_ns.max(least_ns));
    let buckets: Vec<(u32, u64)> = range
        .map(|bucket| (bucket as u32, load(&buckets[bucket])))
        .filter(|&(_, count)| count > 0)
        .collect();
    if buckets.is_empty() {
        return Histogram::default();
    }
    // Written while it is read, the parts may belong to different moments: the buckets are the truth.
    Histogram {
        buckets,
        sum_ns: sum.load(Ordering::Relaxed),
        least_ns,
        most_ns: most_ns.max(least_ns),
    }
}

pub(crate) fn read_cells(cells: &Cells) -> Histogram {
    let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
    read_buckets(
        &cells.buckets,
        load,
        &cells.sum_ns,
        &cells.least_ns,
        &cells.most_ns,
    )
}

/// One step of one worker.
#[derive(Debug)]
pub(crate) struct StepTotals {
    pub kind: StepKind,
    pub name: String,
    pub ended: u64,
    pub failed: u64,
    pub late: u64,
    pub late_failed: u64,
    pub response: Histogram,
    pub service: Histogram,
    pub lag: Histogram,
    pub first_byte: Histogram,
    pub body: Histogram,
    pub censored: Histogram,
}

/// All requests of one worker in one second.
#[derive(Debug, Default)]
pub(crate) struct SeatSecond {
    pub ended: u64,
    pub errors: u64,
    pub bytes_received: u64,
    pub in_flight: u64,
    pub users: u64,
    pub response: Histogram,
}

impl Seat<'_> {
    pub(crate) fn read_head<T>(&self, read: impl FnOnce(&Head) -> T) -> T {
        read(self.head())
    }

    pub(crate) fn read_distribution(&self, which: impl FnOnce(&Distributions) -> &Cells) -> Histogram {
        read_cells(which(self.distributions()))
    }

    fn known_steps(&self) -> u32 {
        // Sync point *step name*.
        self.head().steps.load(Ordering::Acquire).min(self.most_steps())
    }

    pub(crate) fn read_steps(&self) -> Vec<StepTotals> {
        (0..self.known_steps())
            .filter_map(|number| {
                let step = self.step(number);
                let (kind, name) = step_name(step)?;
                Some(StepTotals {
                    kind,
                    name,
                    ended: step.ended.load(Ordering::Relaxed),
                    failed: step.failed.load(Ordering::Relaxed),
                    late: step.late.load(Ordering::Relaxed),
                    late_failed: step.late_failed.load(Ordering::Relaxed),
                    response: read_cells(&step.response),
                    service: read_cells(&step.service),
                    lag: read_cells(&step.lag),
                    first_byte: read_cells(&step.first_byte),
                    body: read_cells(&step.body),
                    censored: read_cells(&step.censored),
                })
            })
            .collect()
    }

    /// What ended in this second, of all requests; of iterations, if `kind` says so.
    pub(crate) fn read_second(&self, number: u32, wanted: StepKind) -> SeatSecond {
        let mut sum = SeatSecond::default();
        for step in 0..self.known_steps() {
            let step = self.step(step);
            if step.kind.load(Ordering::Relaxed) != wanted as u32 {
                continue;
            }
            let slot = &step.seconds[(number % SECONDS_KEPT) as usize];
            // Sync point *second*.
            if slot.number.load(Ordering::Acquire) != number + 1 {
                continue;
            }
            let load = |count: &AtomicU32| u64::from(count.load(Ordering::Relaxed));
            let histogram = read_buckets(&slot.buckets, load, &slot.sum_ns, &slot.least_ns, &slot.most_ns);
            let (ended, errors) = (
                slot.ended.load(Ordering::Relaxed),
                slot.errors.load(Ordering::Relaxed),
            );
            let bytes_received = slot.bytes_received.load(Ordering::Relaxed);
            let in_flight = slot.in_flight.load(Ordering::Relaxed);
            let users = slot.users.load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            if slot.number.load(Ordering::Relaxed) != number + 1 {
                // Its place was taken while we read.
                continue;
            }
            sum.ended += u64::from(ended);
            sum.errors += u64::from(errors);
            sum.bytes_received += bytes_received;
            sum.in_flight = sum.in_flight.max(u64::from(in_flight));
            sum.users = sum.users.max(u64::from(users));
            sum.response.merge(&histogram);
        }
        sum
    }
}
