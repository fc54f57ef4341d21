use procession::os::memory::{create_sealed, Mapping, PAGE_BYTES};
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters in shared memory, of which one process adds and others read.
#[derive(Debug)]
pub(super) struct SharedCounters(Mapping);

impl SharedCounters {
    pub(super) fn new() -> std::io::Result<SharedCounters> {
        Ok(SharedCounters(Mapping::new(create_sealed(
            "procession-server",
            PAGE_BYTES as u64,
        )?)?))
    }

    fn word(&self, number: usize) -> &AtomicU64 {
        assert!(number < PAGE_BYTES / size_of::<AtomicU64>());
        // SAFETY: the mapping has a page, the number lies inside it (checked), pages are aligned, and every value is a valid
        // counter.
        unsafe { &*self.0.start().as_ptr().cast::<AtomicU64>().add(number) }
    }

    pub(super) fn add(&self, number: usize) {
        self.word(number).fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self, number: usize) -> u64 {
        self.word(number).load(Ordering::Relaxed)
    }
}
