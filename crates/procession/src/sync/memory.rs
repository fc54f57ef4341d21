//! Cells of memory that processes share.
//!
//! Each process makes *chunks*, anonymous sealed memfds that it maps once, and hands out *cells* of them. Another process
//! gets at a cell by the chunk's descriptor and the cell's offset, or, if it was forked, by having it already. Nobody
//! counts who uses a cell, since a count that a killed process has left behind would be wrong for ever: a cell is used again
//! only if it was never shared (not handed on, and no fork since it was made), and a chunk goes, from each process
//! separately, when its last cell there is dropped. So nothing leaks, whoever dies.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use super::waits::{Awaited, Origin, WaitTable, CHUNK_MAGIC, TABLE_AT, TABLE_END};
use crate::os::memory::{create_sealed, Mapping, PAGE_BYTES};
use crate::os::process::{forks, generation};
use crate::os::time::monotonic_ns;

/// Bytes of a chunk. Only what is touched takes memory.
const CHUNK_BYTES: u64 = 1 << 20;
/// A cell larger than this gets a chunk of its own, which goes with it.
const LARGE_BYTES: u64 = 128 << 10;
/// Cells begin at multiples of this, so that no two locks share a cache line.
const ALIGN_BYTES: u64 = 64;
/// Memory is got from the system in steps of this many bytes.
const STEP_BYTES: u64 = 8 * PAGE_BYTES as u64;

#[repr(C)]
struct Header {
    magic: AtomicU64,
    id: [AtomicU64; 2],
    origin: Origin,
}

const _: () = assert!(std::mem::offset_of!(Header, origin) == Origin::AT && size_of::<Header>() <= TABLE_AT);

/// Where the cells begin.
const CELLS_BEGIN: u64 = TABLE_END as u64;

/// What tells a chunk from every other one.
pub type ChunkId = [u64; 2];

/// One anonymous shared mapping, of which cells are handed out. See the [module](self).
#[derive(Debug)]
pub struct Chunk {
    mapping: Mapping,
    id: ChunkId,
    /// The process that hands out its cells; 0 for one that was made elsewhere.
    maker_generation: u32,
    room: Mutex<Room>,
    /// Whether it was handed on to another process.
    shared: AtomicBool,
    made_at_forks: u32,
}

#[derive(Debug)]
struct Room {
    next: u64,
    allocated_to: u64,
    free: HashMap<u64, Vec<u64>>,
}

/// The chunks that a process has mapped, and what else there is to wait for.
#[derive(Debug)]
struct Known {
    current: Weak<Chunk>,
    all: HashMap<ChunkId, Weak<Chunk>>,
    others: Vec<Weak<dyn Awaited>>,
    /// How many of them there may be before those that are gone are left out.
    tidy_at: usize,
}

struct OfProcess {
    generation: u32,
    known: Mutex<Known>,
}

/// A forked child begins a list of its own, as a vanished thread may hold the old one's lock.
static KNOWN: AtomicPtr<OfProcess> = AtomicPtr::new(std::ptr::null_mut());

fn known() -> MutexGuard<'static, Known> {
    loop {
        let found = KNOWN.load(Ordering::Acquire);
        // SAFETY: the pointer is null or came from a box that is never freed.
        let list = unsafe { found.as_ref() };
        if let Some(list) = list.filter(|list| list.generation == generation()) {
            return lock(&list.known);
        }
        // If nobody was changing the old list when we were forked, it tells what we have inherited.
        let inherited = list.and_then(|list| {
            let known = list.known.try_lock().ok()?;
            Some((known.all.clone(), known.others.clone()))
        });
        let (all, others) = inherited.unwrap_or_default();
        let fresh = Box::into_raw(Box::new(OfProcess {
            generation: generation(),
            known: Mutex::new(Known {
                current: Weak::new(),
                all,
                others,
                tidy_at: 16,
            }),
        }));
        if KNOWN
            .compare_exchange(found, fresh, Ordering::AcqRel, Ordering::Acquire)
            .is_err()
        {
            // SAFETY: it was made above, and nobody else has seen it.
            drop(unsafe { Box::from_raw(fresh) });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is changed in single steps, so a panic leaves nothing half done.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Chunk {
    fn create(cell_bytes: u64) -> io::Result<Chunk> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let len = CHUNK_BYTES.max((CELLS_BEGIN + cell_bytes).next_multiple_of(PAGE_BYTES as u64));
        let mapping = Mapping::new(create_sealed("procession-sync", len)?)?;
        mapping.allocate(0, PAGE_BYTES as u64)?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = [
            super::Identity::current().main_thread().word(),
            monotonic_ns() << 8 ^ u64::from(count),
        ];
        let chunk = Chunk {
            mapping,
            id,
            maker_generation: generation(),
            room: Mutex::new(Room {
                next: CELLS_BEGIN,
                allocated_to: CELLS_BEGIN,
                free: HashMap::new(),
            }),
            shared: AtomicBool::new(false),
            made_at_forks: forks(),
        };
        let header = chunk.header();
        header.id[0].store(id[0], Ordering::Relaxed);
        header.id[1].store(id[1], Ordering::Relaxed);
        header.origin.made();
        // Sync point *chunk is made*: pairs with the load in `open`.
        header.magic.store(CHUNK_MAGIC, Ordering::Release);
        Ok(chunk)
    }

    /// The chunk behind a descriptor that another process has sent: mapped at the first time, the same one afterwards.
    ///
    /// # Errors
    ///
    /// If the descriptor is none of a chunk, or memory cannot be mapped.
    pub fn open(fd: OwnedFd) -> io::Result<Arc<Chunk>> {
        let mapping = Mapping::new(fd)?;
        if (mapping.len() as u64) < CELLS_BEGIN {
            return Err(garbled());
        }
        let mut chunk = Chunk {
            mapping,
            id: [0; 2],
            maker_generation: 0,
            room: Mutex::new(Room {
                next: u64::MAX,
                allocated_to: u64::MAX,
                free: HashMap::new(),
            }),
            shared: AtomicBool::new(true),
            made_at_forks: 0,
        };
        // Sync point *chunk is made*: pairs with the store in `create`.
        if chunk.header().magic.load(Ordering::Acquire) != CHUNK_MAGIC {
            return Err(garbled());
        }
        chunk.id = [0, 1].map(|half| chunk.header().id[half].load(Ordering::Relaxed));
        let mut known = known();
        if let Some(ours) = known.all.get(&chunk.id).and_then(Weak::upgrade) {
            return Ok(ours);
        }
        chunk.header().origin.opened();
        let chunk = Arc::new(chunk);
        known.remember(&chunk);
        Ok(chunk)
    }

    fn header(&self) -> &Header {
        // SAFETY: the mapping is page-aligned, at least a header long, and its memory (zeroed at first) holds only atomics.
        unsafe { self.mapping.start().cast::<Header>().as_ref() }
    }

    /// What tells this chunk from every other one, in all processes.
    pub fn id(&self) -> ChunkId {
        self.id
    }

    /// The descriptor by which another process may [`open`](Chunk::open) it. Whoever hands it on says so by
    /// [`Chunk::mark_shared`].
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.mapping.fd()
    }

    /// Notes that another process gets this chunk: none of its present cells is used for another purpose any more.
    pub fn mark_shared(&self) {
        self.shared.store(true, Ordering::Relaxed);
    }

    /// Whether only this process has it.
    pub fn is_private(&self) -> bool {
        self.maker_generation == generation()
            && !self.shared.load(Ordering::Relaxed)
            && self.made_at_forks == forks()
    }

    /// The table of those who wait for locks in this chunk.
    pub fn waits(&self) -> &WaitTable {
        // SAFETY: a mapping is longer than that, the table begins at a page, and all of it are atomics, which may have any
        // bits.
        unsafe { self.mapping.start().add(TABLE_AT).cast::<WaitTable>().as_ref() }
    }

    pub(super) fn start_of_mapping(&self) -> NonNull<u8> {
        self.mapping.start()
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.mapping.len()
    }

    fn take(&self, len: u64) -> io::Result<Option<u64>> {
        let mut room = lock(&self.room);
        if let Some(offset) = room.free.get_mut(&len).and_then(Vec::pop) {
            return Ok(Some(offset));
        }
        let end = match room.next.checked_add(len) {
            Some(end) if end <= self.mapping.len() as u64 => end,
            _ => return Ok(None),
        };
        if end > room.allocated_to {
            let to = end.next_multiple_of(STEP_BYTES).min(self.mapping.len() as u64);
            self.mapping.allocate(room.allocated_to, to - room.allocated_to)?;
            room.allocated_to = to;
        }
        let offset = room.next;
        room.next = end;
        Ok(Some(offset))
    }
}

impl Known {
    fn remember(&mut self, chunk: &Arc<Chunk>) {
        if self.all.len() >= 16 {
            self.all.retain(|_, chunk| chunk.strong_count() > 0);
        }
        self.all.insert(chunk.id, Arc::downgrade(chunk));
    }
}

impl Awaited for Chunk {
    fn waits(&self) -> &WaitTable {
        Chunk::waits(self)
    }

    fn prepare(&self) -> bool {
        let table = (TABLE_AT as u64, (TABLE_END - TABLE_AT) as u64);
        self.mapping.allocate(table.0, table.1).is_ok()
    }
}

/// Notes that this process has memory of another kind with a table of who waits.
pub fn remember_awaited(memory: Weak<dyn Awaited>) {
    let mut known = known();
    if known.others.len() >= known.tidy_at {
        known.others.retain(|memory| memory.strong_count() > 0);
        known.tidy_at = (known.others.len() * 2).max(16);
    }
    known.others.push(memory);
}

/// The first answer that there is of those memories.
pub fn find_awaited<R>(ask: impl FnMut(Arc<dyn Awaited>) -> Option<R>) -> Option<R> {
    // Asked without the lock, which the last of its users, dropped here, may need.
    let memories: Vec<_> = known().others.iter().filter_map(Weak::upgrade).collect();
    memories.into_iter().find_map(ask)
}

/// All chunks that this process has made, opened or inherited, and still uses.
pub fn mapped_chunks() -> Vec<Arc<Chunk>> {
    known().all.values().filter_map(Weak::upgrade).collect()
}

/// The chunk with this id, if this process has it.
pub fn find_chunk(id: ChunkId) -> Option<Arc<Chunk>> {
    known().all.get(&id).and_then(Weak::upgrade)
}

/// A piece of shared memory, zeroed when it was made.
///
/// ```
/// use procession::sync::memory::Cell;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// let cell = Cell::allocate(size_of::<AtomicU64>())?;
/// // SAFETY: the cell is long enough, aligned to 64 bytes, and an atomic may have any bits.
/// let count: &AtomicU64 = unsafe { cell.at(0) };
/// count.fetch_add(1, Ordering::Relaxed);
/// assert_eq!(count.load(Ordering::Relaxed), 1);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Cell {
    chunk: Arc<Chunk>,
    offset: u64,
    len: u64,
    /// `None` if the cell was made by another process.
    made_at_forks: Option<u32>,
    shared: AtomicBool,
}

impl Cell {
    /// A new cell of at least `len` bytes, all zero, aligned to 64 bytes.
    ///
    /// # Errors
    ///
    /// If the system has no memory or descriptor left.
    pub fn allocate(len: usize) -> io::Result<Cell> {
        let len = (len.max(1) as u64)
            .checked_next_multiple_of(ALIGN_BYTES)
            .filter(|&len| len < 1 << 46)
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let mut known = known();
        let mut place = None;
        if len <= LARGE_BYTES {
            if let Some(chunk) = known
                .current
                .upgrade()
                .filter(|chunk| chunk.maker_generation == generation())
            {
                place = chunk.take(len)?.map(|offset| (chunk, offset));
            }
        }
        let (chunk, offset) = match place {
            Some(place) => place,
            None => {
                let chunk = Arc::new(Chunk::create(len)?);
                let offset = chunk.take(len)?.ok_or_else(garbled)?;
                known.remember(&chunk);
                if len <= LARGE_BYTES {
                    known.current = Arc::downgrade(&chunk);
                }
                (chunk, offset)
            }
        };
        drop(known);
        let cell = Cell {
            chunk,
            offset,
            len,
            made_at_forks: Some(forks()),
            shared: AtomicBool::new(false),
        };
        // SAFETY: the cell is ours alone, and its bytes lie inside the mapping.
        unsafe { cell.start().as_ptr().write_bytes(0, cell.len as usize) };
        Ok(cell)
    }

    /// The cell that another process has made, in a chunk that it has handed on.
    ///
    /// # Errors
    ///
    /// If no cell can lie there.
    pub fn attach(chunk: Arc<Chunk>, offset: u64, len: u64) -> io::Result<Cell> {
        let fits = offset >= CELLS_BEGIN
            && offset.is_multiple_of(ALIGN_BYTES)
            && len > 0
            && offset
                .checked_add(len)
                .is_some_and(|end| end <= chunk.mapping.len() as u64);
        if !fits {
            return Err(garbled());
        }
        Ok(Cell {
            chunk,
            offset,
            len,
            made_at_forks: None,
            shared: AtomicBool::new(true),
        })
    }

    /// The chunk in which it lies.
    pub fn chunk(&self) -> &Arc<Chunk> {
        &self.chunk
    }

    /// Where it begins in its chunk, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Its length in bytes, which may be more than was asked for.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes; it never does.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Notes that another process gets this cell, so that it is never used for anything else. Hand on its chunk's
    /// descriptor and its offset then.
    pub fn mark_shared(&self) {
        self.shared.store(true, Ordering::Relaxed);
        self.chunk.mark_shared();
    }

    /// Whether no other process can have this cell: it was made here, not handed on, and there was no fork since.
    pub fn is_private(&self) -> bool {
        self.chunk.maker_generation == generation()
            && self.made_at_forks == Some(forks())
            && !self.shared.load(Ordering::Relaxed)
    }

    /// The first byte.
    #[inline]
    pub fn start(&self) -> NonNull<u8> {
        // SAFETY: offset and length were checked to lie inside the mapping.
        unsafe { self.chunk.mapping.start().add(self.offset as usize) }
    }

    /// What lies `offset` bytes into the cell.
    ///
    /// # Panics
    ///
    /// If it does not fit there.
    ///
    /// # Safety
    ///
    /// `T` may have any bits (another process may have written them, or died while it did), begins at a multiple of its
    /// alignment there, and is only changed through atomics or under a lock.
    #[inline]
    pub unsafe fn at<T>(&self, offset: usize) -> &T {
        assert!(
            offset + size_of::<T>() <= self.len as usize,
            "a shared cell is too short"
        );
        // SAFETY: it fits into the cell, whose mapping lives as long as `self`; the caller vouches for the rest.
        unsafe { self.start().add(offset).cast::<T>().as_ref() }
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        if self.is_private() {
            let mut room = lock(&self.chunk.room);
            room.free.entry(self.len).or_default().push(self.offset);
        }
    }
}

impl AsFd for Chunk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

fn garbled() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "this is not the shared memory of a lock, a shared value or the like",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(cell: &Cell) -> &[AtomicU64; 8] {
        // SAFETY: a cell is a multiple of 64 bytes long and aligned to that, and atomics may have any bits.
        unsafe { cell.at(0) }
    }

    #[test]
    fn a_cell_that_was_never_shared_is_used_again_and_zeroed() {
        let keep = Cell::allocate(100).unwrap();
        assert_eq!(keep.len(), 128);
        let first = Cell::allocate(64).unwrap();
        let offset = first.offset();
        bytes(&first)[3].store(7, Ordering::Relaxed);
        drop(first);
        let second = Cell::allocate(64).unwrap();
        // Other tests of this process may take it in between.
        if second.offset() == offset && Arc::ptr_eq(second.chunk(), keep.chunk()) {
            assert_eq!(bytes(&second)[3].load(Ordering::Relaxed), 0);
        }
        assert!(second.is_private());
    }

    #[test]
    fn a_shared_cell_is_not_used_again() {
        let keep = Cell::allocate(192).unwrap();
        let cell = Cell::allocate(192).unwrap();
        let (chunk, offset) = (cell.chunk().clone(), cell.offset());
        cell.mark_shared();
        assert!(!cell.is_private());
        drop(cell);
        for _ in 0..3 {
            let other = Cell::allocate(192).unwrap();
            assert!(!Arc::ptr_eq(other.chunk(), &chunk) || other.offset() != offset);
            std::mem::forget(other);
        }
        drop(keep);
    }

    #[test]
    fn a_chunk_is_opened_once_and_shows_the_same_bytes() {
        let cell = Cell::allocate(64).unwrap();
        cell.mark_shared();
        let fd = || cell.chunk().fd().try_clone_to_owned().unwrap();
        // The process that made it has it already.
        let same = Chunk::open(fd()).unwrap();
        assert!(Arc::ptr_eq(&same, cell.chunk()));
        let there = Cell::attach(same, cell.offset(), cell.len()).unwrap();
        bytes(&there)[0].store(9, Ordering::Relaxed);
        assert_eq!(bytes(&cell)[0].load(Ordering::Relaxed), 9);
        assert!(!there.is_private());
    }

    #[test]
    fn large_cells_have_a_chunk_of_their_own() {
        let large = Cell::allocate(3 << 20).unwrap();
        let small = Cell::allocate(64).unwrap();
        assert!(!Arc::ptr_eq(large.chunk(), small.chunk()));
        assert!(Cell::allocate(usize::MAX).is_err());
    }

    #[test]
    fn what_is_no_cell_is_refused() {
        let cell = Cell::allocate(64).unwrap();
        let chunk = cell.chunk();
        for (offset, len) in [
            (0, 64),
            (CELLS_BEGIN + 1, 64),
            (CELLS_BEGIN, 0),
            (CELLS_BEGIN, u64::MAX),
            (CHUNK_BYTES, 64),
        ] {
            assert!(
                Cell::attach(chunk.clone(), offset, len).is_err(),
                "{offset} {len}"
            );
        }
        let stranger = create_sealed("stranger", CHUNK_BYTES).unwrap();
        assert!(Chunk::open(stranger).is_err());
        assert!(Chunk::open(create_sealed("short", 64).unwrap()).is_err());
    }
}
