//! Whose a shared memory is.

use std::mem::offset_of;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{u32_at, u64_at};
use crate::os::process::Home;
use crate::os::time::since_boot_seconds;

/// Whose a memory is, at [`Origin::AT`] in it: by that is judged whether all who have it can be found.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Origin {
    user: AtomicU32,
    /// Whether another user, or somebody in another world of process numbers, has opened it.
    mixed: AtomicU32,
    pid_namespace: AtomicU64,
    /// When it was made, in milliseconds since the machine began.
    made_ms: AtomicU64,
}

impl Origin {
    /// Where it lies in a memory that has a table.
    pub const AT: usize = 64;

    /// To be called by the maker of the memory.
    pub fn made(&self) {
        let home = Home::current();
        self.user.store(home.user, Ordering::Relaxed);
        self.pid_namespace.store(home.pid_namespace, Ordering::Relaxed);
        let made_ms = (since_boot_seconds() * 1000.0) as u64;
        self.made_ms.store(made_ms, Ordering::Relaxed);
    }

    /// To be called by whoever opens it.
    pub fn opened(&self) {
        let home = Home::current();
        if self.user.load(Ordering::Relaxed) != home.user
            || self.pid_namespace.load(Ordering::Relaxed) != home.pid_namespace
        {
            self.mixed.store(1, Ordering::Relaxed);
        }
    }

    /// By its bytes: when it was made, if all who have the memory can be found from `home`.
    pub(in crate::sync) fn seen_from(home: Home, bytes: &[u8]) -> Option<u64> {
        let seen = home.pid_namespace != 0
            && u32_at(bytes, offset_of!(Origin, user)) == home.user
            && u32_at(bytes, offset_of!(Origin, mixed)) == 0
            && u64_at(bytes, offset_of!(Origin, pid_namespace)) == home.pid_namespace;
        seen.then(|| u64_at(bytes, offset_of!(Origin, made_ms)))
    }
}
