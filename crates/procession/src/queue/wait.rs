//! Waiting for an item, for room, or until all is done; and holding a lock meanwhile or for a moment.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::time::Duration;

use super::bell::Bell;
use super::layout::Mark;
use super::ByteQueue;
use crate::connection::Spin;
use crate::os::futex::{self, Waited};
use crate::os::memory::Mapping;
use crate::os::time;
use crate::sync::waits::{About, Awaited, Deadlock, For, WaitTable, TABLE_AT, TABLE_END};
use crate::sync::{ChangeWatch, Identity, Pace, RawLock, Stir};

/// The one who holds a lock needs it for microseconds; a call that does not want to wait gives it so long.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_millis(20);

/// The queue's memory as that in which it is written who waits for it.
#[derive(Debug)]
pub(super) struct Board(pub(super) Arc<Mapping>);

impl Awaited for Board {
    fn waits(&self) -> &WaitTable {
        // SAFETY: the plan leaves room for the table there, at a page's begin, and all of it are atomics, which may have any
        // bits.
        unsafe { self.0.start().add(TABLE_AT).cast::<WaitTable>().as_ref() }
    }

    fn prepare(&self) -> bool {
        self.0
            .allocate(TABLE_AT as u64, (TABLE_END - TABLE_AT) as u64)
            .is_ok()
    }
}

/// Has a wait without a time limit say who waits, and where, if it lasts: then a deadlock that it is part of is found. `None`
/// for waits in which none is looked for.
pub type Asked<'a> = Option<&'a dyn Fn() -> About>;

/// Holds a lock until the end of a scope.
pub(super) struct Held<'a> {
    lock: &'a RawLock,
    me: Identity,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // It is ours, so it is locked.
        let _ = self.lock.unlock(self.me);
    }
}

impl ByteQueue {
    pub(super) fn try_hold<'a>(lock: &'a RawLock) -> Option<Held<'a>> {
        let me = Identity::current();
        for _ in 0..100 {
            if lock.try_lock(me, false) {
                return Some(Held { lock, me });
            }
            // A thread of this process may need what the caller holds in order to go on.
            if lock.owner().is_some_and(|owner| owner.is_same_process(me)) {
                return None;
            }
            std::hint::spin_loop();
        }
        None
    }

    pub(super) fn hold<'a, E>(
        lock: &'a RawLock,
        limit: Option<Duration>,
        stir: &mut dyn FnMut(Stir) -> Result<(), E>,
    ) -> Result<Option<Held<'a>>, E> {
        let me = Identity::current();
        // What a dead owner has left is whole: it is visible by one store at the end, or not at all.
        Ok(lock.lock(me, false, limit, stir)?.map(|_| Held { lock, me }))
    }

    /// What a wait for an item, for room, or until all is done sees.
    fn is_ready(&self, what_for: For) -> bool {
        match what_for {
            For::Item => !self.is_empty(),
            For::Room => !self.is_full(),
            _ => self.unfinished() == 0,
        }
    }

    /// The word without a change of which such a wait does not end, and what it says; `None` if the wait is over. Each of
    /// them only ever grows, so it is changed for good.
    fn unchanged(&self, what_for: For) -> Option<(u64, u64)> {
        let header = self.header();
        let (head, tail) = (header.head.0.as_ptr(), header.tail.0.as_ptr());
        let (address, value) = match what_for {
            For::Item => {
                let value = header.tail.0.load(Ordering::Acquire);
                (
                    tail.cast::<u8>(),
                    (header.head.0.load(Ordering::Acquire) == value).then_some(value),
                )
            }
            For::Room => {
                let value = header.head.0.load(Ordering::Acquire);
                let items = self.tail().items.wrapping_sub(Mark::unpack(value).items);
                let is_full = items >= header.capacity.load(Ordering::Relaxed);
                (head.cast::<u8>(), is_full.then_some(value))
            }
            _ => {
                let value = header.done.0.load(Ordering::Acquire);
                // It is read as a longer word: the rest of its line is zero.
                let mut bytes = [0; 8];
                bytes[..4].copy_from_slice(&value.to_ne_bytes());
                let word = (self.tail().items != value).then_some(u64::from_ne_bytes(bytes));
                (header.done.0.as_ptr().cast::<u8>(), word)
            }
        };
        let offset = address.addr() - self.mapping.start().as_ptr().addr();
        Some((offset as u64, value?))
    }

    pub(super) fn watch<'a>(
        &'a self,
        what_for: For,
        limit: Option<Duration>,
        asked: Asked<'a>,
    ) -> Option<ChangeWatch<'a>> {
        match (limit, asked) {
            (None, Some(about)) => Some(ChangeWatch::new(&self.board, what_for, &self.witness, about)),
            _ => None,
        }
    }

    /// Waits until it is ready for that; false when the time was over first.
    pub(super) fn wait<E: From<Deadlock>>(
        &self,
        what_for: For,
        bell: &Bell,
        spin: Option<&Spin>,
        pace: &Pace,
        stir: &mut dyn FnMut(Stir) -> Result<(), E>,
        watch: &mut Option<ChangeWatch<'_>>,
    ) -> Result<bool, E> {
        let ready = || self.is_ready(what_for);
        if ready() || spin.is_some_and(|spin| spin.until(&ready)) {
            return Ok(true);
        }
        loop {
            let word = bell.prepare();
            if ready() {
                break;
            }
            let Some(slice) = pace.slice() else {
                return Ok(false);
            };
            let waited = futex::wait(bell.word(), word, Some(slice));
            if ready() {
                break;
            }
            if waited != Waited::Woken {
                stir(Stir {
                    waited: pace.waited(),
                    interrupted: waited == Waited::Interrupted,
                })?;
                if let Some(watch) = watch {
                    watch.look(pace.waited(), &|| self.unchanged(what_for), &|| self.to_string())?;
                }
            }
        }
        // Whoever goes on from here may take what another one waits for: it must not be seen as waiting itself any more.
        if let Some(watch) = watch {
            watch.leave();
        }
        Ok(true)
    }

    /// The other side can only hurry while we stay awake if it is on another CPU.
    pub(super) fn if_elsewhere<'a>(spin: &'a Spin, cpu: &AtomicU32) -> Option<&'a Spin> {
        (cpu.load(Ordering::Relaxed) != time::current_cpu() + 1).then_some(spin)
    }
}
