//! A pool's shared memory as somebody sees it who only watches: mapped read-only, every number checked.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use super::layout::{Geometry, Header, Plan, Seat, Slot, FUNCTIONS};
use super::watched::{Name, Note};
use super::SlotState;
use crate::os::memory::{cannot_shrink, file_len, memory_of, Mapping};

/// The tables of a pool, without its arena. Nothing can be changed through it, and reading takes no lock.
#[derive(Debug)]
pub struct View {
    mapping: Mapping,
    plan: Plan,
}

impl View {
    /// Opens the memory behind a file that is opened for reading.
    ///
    /// # Errors
    /// When it is no pool's memory, or that of another version of this crate.
    pub fn open(file: File) -> io::Result<Self> {
        let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why.to_string()));
        let len = file_len(file.as_fd())?;
        if !cannot_shrink(file.as_fd()) || len < std::mem::size_of::<Header>() as u64 {
            return refuse("it is no pool's memory");
        }
        let head = Mapping::read_only(file.try_clone()?.into(), std::mem::size_of::<Header>())?;
        // SAFETY: the mapping is as long as a header, page aligned, and a header is valid for any bytes.
        let header = unsafe { &*head.start().as_ptr().cast::<Header>() };
        let Some(geometry) = header.read() else {
            return refuse("the memory was made by another version of procession");
        };
        let plan = Plan::new(geometry);
        if plan.end != len {
            return refuse("the memory does not have the length its header tells");
        }
        let mapping = Mapping::read_only(file.into(), plan.tables_end as usize)?;
        Ok(View { mapping, plan })
    }

    /// How many seats and slots there are.
    pub fn geometry(&self) -> Geometry {
        self.plan.geometry
    }

    /// The bytes of memory that the pool's file has at the moment.
    pub fn memory_bytes(&self) -> u64 {
        memory_of(self.mapping.fd()).unwrap_or(0)
    }

    /// # Safety
    /// The plan has a `T` at this offset, all whose fields are atomics.
    unsafe fn at<T>(&self, offset: u64) -> &T {
        debug_assert!(offset as usize + std::mem::size_of::<T>() <= self.mapping.len());
        // SAFETY: the plan lies inside the mapping and aligns its parts; the rest is the caller's. Only loads are done.
        unsafe { &*self.mapping.start().as_ptr().add(offset as usize).cast::<T>() }
    }

    /// The words at the beginning. Only to be read: the memory is mapped read-only.
    pub fn header(&self) -> &Header {
        // SAFETY: the mapping begins with one.
        unsafe { self.at(0) }
    }

    /// The seat with this number, if there is one. Only to be read.
    pub fn seat(&self, seat: u32) -> Option<&Seat> {
        let offset = self.plan.seats + u64::from(seat) * std::mem::size_of::<Seat>() as u64;
        // SAFETY: the plan places `seats` seats there.
        (seat < self.plan.geometry.seats).then(|| unsafe { self.at(offset) })
    }

    /// The slot with this number, if there is one. Only to be read.
    pub fn slot(&self, slot: u32) -> Option<&Slot> {
        let offset = self.plan.slots + u64::from(slot) * std::mem::size_of::<Slot>() as u64;
        // SAFETY: the plan places `slots` slots there.
        (slot < self.plan.geometry.slots).then(|| unsafe { self.at(offset) })
    }

    /// The note for the slot with this number, if there is one. Only to be read.
    pub fn note(&self, slot: u32) -> Option<&Note> {
        let offset = self.plan.notes + u64::from(slot) * std::mem::size_of::<Note>() as u64;
        // SAFETY: the plan places `slots` notes there.
        (slot < self.plan.geometry.slots).then(|| unsafe { self.at(offset) })
    }

    /// The slot that the worker in `seat` has, if it has one.
    pub fn slot_of(&self, seat: u32) -> Option<u32> {
        let slot = self.seat(seat)?.current.load(Ordering::Relaxed).checked_sub(1)?;
        // The number alone may be that of a slot which the worker wanted and did not get.
        let state = SlotState::unpack(self.slot(slot)?.state.load(Ordering::Relaxed));
        matches!(state, SlotState::Claimed(by, _) if by == seat).then_some(slot)
    }

    /// The name of a function; empty if it has none.
    pub fn function_name(&self, function: u32) -> String {
        if function >= FUNCTIONS {
            return String::new();
        }
        let offset = self.plan.names + u64::from(function) * std::mem::size_of::<Name>() as u64;
        // SAFETY: the plan places `FUNCTIONS` names there.
        unsafe { self.at::<Name>(offset) }.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Channel;
    use crate::os::memory::create_sealed;

    fn file_of(channel: &Channel) -> File {
        File::from(channel.fd().try_clone_to_owned().unwrap())
    }

    #[test]
    fn what_the_pool_writes_is_read_and_nothing_is_changed() {
        let geometry = Geometry {
            slots: 64,
            ..Geometry::for_workers(2)
        };
        let channel = Channel::create(geometry, 0).unwrap();
        channel.set_function_name(7, "shop.total");
        channel.note(3).first_item.store(41, Ordering::Relaxed);
        channel.publish(3);
        let view = View::open(file_of(&channel)).unwrap();
        assert_eq!(view.geometry(), channel.geometry());
        assert_eq!(view.function_name(7), "shop.total");
        assert_eq!(view.function_name(8), "");
        assert_eq!(view.function_name(u32::MAX), "");
        assert_eq!(view.slot_of(0), None);
        assert_eq!(channel.claim(0), Some(3));
        assert_eq!(view.slot_of(0), Some(3));
        assert_eq!(view.slot_of(1), None);
        assert_eq!(view.note(3).unwrap().first_item.load(Ordering::Relaxed), 41);
        assert!(view.note(64).is_none() && view.slot(64).is_none());
        assert!(view.seat(geometry.seats).is_none());
    }

    #[test]
    fn what_only_calls_itself_a_pool_is_refused() {
        let short = create_sealed("procession", 100).unwrap();
        let blank = create_sealed("procession", 1 << 20).unwrap();
        for fd in [short, blank] {
            assert!(View::open(File::from(fd)).is_err());
        }
        // Memory that somebody could cut off under our feet is not even mapped.
        let unsealed = File::open("/proc/self/exe").unwrap();
        assert!(View::open(unsealed).is_err());
    }

    #[test]
    fn numbers_out_of_range_in_the_memory_are_no_task() {
        let geometry = Geometry {
            slots: 64,
            ..Geometry::for_workers(1)
        };
        let channel = Channel::create(geometry, 0).unwrap();
        channel.seat(0).current.store(u32::MAX, Ordering::Relaxed);
        let view = View::open(file_of(&channel)).unwrap();
        assert_eq!(view.slot_of(0), None);
    }
}
