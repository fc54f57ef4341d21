//! Distributions of times in bounded memory.
//!
//! Times in nanoseconds are counted in buckets whose width is at most 1/128 of their value: below 128 ns each value has
//! its own; above, each power of two is cut into 128. So a percentile is off by 0.4 % at most, whatever its size, and
//! histograms of many processes and seconds add up without losing anything.

use serde::{Deserialize, Serialize};

const SUB_BITS: u32 = 7;
const SUB: u64 = 1 << SUB_BITS;
const MOST_SHIFT: u64 = 36;
/// Every longer time is counted as this one, which is more than two hours.
pub const LARGEST_NS: u64 = (1 << (SUB_BITS as u64 + 1 + MOST_SHIFT)) - 1;
/// How many buckets there are.
pub const BUCKETS: usize = ((MOST_SHIFT + 2) * SUB) as usize;

/// The bucket that a time is counted in.
#[inline]
pub fn bucket_of(ns: u64) -> usize {
    let ns = ns.min(LARGEST_NS);
    if ns < SUB {
        return ns as usize;
    }
    let shift = u64::from(63 - ns.leading_zeros() - SUB_BITS);
    (shift * SUB + (ns >> shift)) as usize
}

/// The shortest time that is counted in this bucket.
pub fn lower_ns(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * SUB {
        return bucket;
    }
    let shift = bucket / SUB - 1;
    (bucket - shift * SUB) << shift
}

/// The time that stands for all that are counted in this bucket: the middle.
pub fn middle_ns(bucket: usize) -> u64 {
    let (low, next) = (lower_ns(bucket), lower_ns(bucket + 1));
    low + (next - low) / 2
}

/// How often each time occurred. In files: the buckets that are not empty, as pairs of number and count.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Histogram {
    /// Pairs of bucket and count, in the order of the buckets, none of them empty.
    pub buckets: Vec<(u32, u64)>,
    /// Sum of all times, exact.
    pub sum_ns: u64,
    /// The shortest time, exact; 0 if there is none.
    pub least_ns: u64,
    /// The longest time, exact; 0 if there is none.
    pub most_ns: u64,
}

impl Histogram {
    /// How many times were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|&(_, count)| count).sum()
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Counts one more.
    pub fn record(&mut self, ns: u64) {
        let bucket = bucket_of(ns) as u32;
        match self.buckets.binary_search_by_key(&bucket, |&(bucket, _)| bucket) {
            Ok(at) => self.buckets[at].1 += 1,
            Err(at) => self.buckets.insert(at, (bucket, 1)),
        }
        self.least_ns = if self.buckets.len() == 1 && self.buckets[0].1 == 1 {
            ns
        } else {
            self.least_ns.min(ns)
        };
        self.most_ns = self.most_ns.max(ns);
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// Adds what another one has counted.
    pub fn merge(&mut self, other: &Histogram) {
        if other.is_empty() {
            return;
        }
        if self.is_empty() {
            self.clone_from(other);
            return;
        }
        let mut merged = Vec::with_capacity(self.buckets.len().max(other.buckets.len()));
        let (mut mine, mut theirs) = (self.buckets.iter().peekable(), other.buckets.iter().peekable());
        loop {
            match (mine.peek(), theirs.peek()) {
                (Some(&&(a, n)), Some(&&(b, m))) if a == b => {
                    merged.push((a, n + m));
                    mine.next();
                    theirs.next();
                }
                (Some(&&(a, n)), Some(&&(b, _))) if a < b => {
                    merged.push((a, n));
                    mine.next();
                }
                (Some(&&pair), None) => {
                    merged.push(pair);
                    mine.next();
                }
                (_, Some(&&pair)) => {
                    merged.push(pair);
                    theirs.next();
                }
                (None, None) => break,
            }
        }
        self.buckets = merged;
        self.least_ns = self.least_ns.min(other.least_ns);
        self.most_ns = self.most_ns.max(other.most_ns);
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// The time that this share (0 to 1) of all do not exceed; `None` if nothing was counted.
    pub fn quantile_ns(&self, share: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = ((share.clamp(0.0, 1.0) * count as f64).ceil() as u64).clamp(1, count);
        let mut below = 0;
        for &(bucket, count) in &self.buckets {
            below += count;
            if below >= rank {
                return Some(middle_ns(bucket as usize).clamp(self.least_ns, self.most_ns));
            }
        }
        Some(self.most_ns)
    }

    /// The average; `None` if nothing was counted.
    pub fn mean_ns(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.sum_ns as f64 / count as f64)
    }

    /// How many took longer than this, as far as the buckets can tell.
    pub fn count_above(&self, ns: u64) -> u64 {
        let limit = bucket_of(ns) as u32;
        self.buckets
            .iter()
            .filter(|&&(bucket, _)| bucket > limit)
            .map(|&(_, count)| count)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_in_its_bucket_and_buckets_are_narrow() {
        let times =
            (0..1000).chain((10..44).flat_map(|bits| [(1 << bits) - 1, 1 << bits, (1 << bits) + 12345]));
        for ns in times.filter(|&ns| ns < LARGEST_NS) {
            let bucket = bucket_of(ns);
            assert!(lower_ns(bucket) <= ns && ns < lower_ns(bucket + 1), "{ns}");
            let width = lower_ns(bucket + 1) - lower_ns(bucket);
            assert!(width == 1 || width * 128 <= ns, "{ns}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket_of(LARGEST_NS), BUCKETS - 1);
    }

    #[test]
    fn percentiles_of_a_known_series_are_right() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_ns(0.5), None);
        (1..=1000u64).rev().for_each(|us| histogram.record(us * 1000));
        for (share, us) in [
            (0.0, 1.0),
            (0.5, 500.0),
            (0.95, 950.0),
            (0.99, 990.0),
            (1.0, 1000.0),
        ] {
            let got = histogram.quantile_ns(share).unwrap() as f64 / 1000.0;
            assert!((got - us).abs() / us < 0.005, "{share}: {got}");
        }
        assert_eq!(histogram.mean_ns().unwrap(), 500_500.0);
        assert_eq!((histogram.least_ns, histogram.most_ns), (1000, 1_000_000));
        assert_eq!(histogram.count_above(2_000_000), 0);
    }

    #[test]
    fn merging_is_the_same_as_counting_together() {
        let (mut odd, mut even, mut all) = <(Histogram, Histogram, Histogram)>::default();
        for n in 0..5000u64 {
            let ns = n * n * 17 % 1_000_003;
            if n % 2 == 0 { &mut even } else { &mut odd }.record(ns);
            all.record(ns);
        }
        odd.merge(&even);
        assert_eq!(odd, all);
        odd.merge(&Histogram::default());
        assert_eq!(odd, all);
    }
}
