//! Anonymous shared memory: sealed memfds and their mappings.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{ftruncate, memfd_create, FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};

/// The size of a page, in bytes.
pub const PAGE_BYTES: usize = 4096;

/// So much memory is asked for only where there is some: less is given or refused by the kernel itself, and looking takes
/// longer than getting it.
const LARGE_BYTES: u64 = 64 << 20;

/// How much memory can be had without ending other programs, swap included, in bytes; `None` if the kernel does not tell.
fn available_memory() -> Option<u64> {
    available_in(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn available_in(meminfo: &str) -> Option<u64> {
    let bytes_of = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
    };
    Some(bytes_of("MemAvailable:")? + bytes_of("SwapFree:").unwrap_or(0))
}

/// Creates an anonymous file of `len` bytes that can neither grow nor shrink any more.
///
/// The seals matter: a peer that could shrink the file could end every other process that touches it with SIGBUS.
/// The file has no name, so nothing is left behind however its users die.
pub fn create_sealed(name: &str, len: u64) -> io::Result<OwnedFd> {
    let fd = super::socket::above_standard(memfd_create(
        name,
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?)?;
    ftruncate(&fd, len)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

/// Creates an anonymous file to which everybody writes at its end.
pub fn create_appending(name: &str) -> io::Result<OwnedFd> {
    let fd = super::socket::above_standard(memfd_create(name, MemfdFlags::CLOEXEC)?)?;
    rustix::fs::fcntl_setfl(&fd, rustix::fs::OFlags::RDWR | rustix::fs::OFlags::APPEND)?;
    Ok(fd)
}

/// Reads the bytes of the file behind `fd` from `offset` on, as many as there are and fit; returns how many.
pub fn read_at(fd: BorrowedFd<'_>, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < into.len() {
        match rustix::io::pread(fd, &mut into[read..], offset + read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

/// Cuts the file behind `fd` to this length in bytes, or lengthens it by zeros.
pub fn truncate(fd: BorrowedFd<'_>, len: u64) -> io::Result<()> {
    Ok(ftruncate(fd, len)?)
}

/// Gives the memory of these bytes of the file behind `fd` back to the system; they read as zero afterwards.
pub fn discard(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    Ok(rustix::fs::fallocate(
        fd,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        offset,
        len,
    )?)
}

/// Whether this error says that the process may open no further descriptor, which asking for less memory does not help.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error())
}

/// The length in bytes of the file behind `fd`.
pub fn file_len(fd: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(rustix::fs::fstat(fd)?.st_size as u64)
}

/// The bytes of memory that the file behind `fd` has got so far.
pub fn memory_of(fd: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(rustix::fs::fstat(fd)?.st_blocks as u64 * 512)
}

/// Whether nobody can shorten the file behind `fd` any more, so that it may be mapped and read without fear of SIGBUS.
pub fn cannot_shrink(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(SealFlags::SHRINK))
}

/// A shared, writable mapping of a whole memfd, unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
    fd: OwnedFd,
}

// SAFETY: a mapping is a plain range of memory that any thread may use; all access to its bytes goes through atomics or
// through pointers whose exclusive use the protocols above this module establish.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the whole of `fd` without reserving memory for it: pages come into being when they are first touched.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let len = usize::try_from(file_len(fd.as_fd())?)
            .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        // SAFETY: a fresh mapping at an address of the kernel's choice overlaps nothing that exists.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                &fd,
                0,
            )?
        };
        let start =
            NonNull::new(start.cast::<u8>()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { start, len, fd })
    }

    /// Maps the first `len` bytes of `fd` for reading alone: a write through this mapping is a fault.
    pub fn read_only(fd: OwnedFd, len: usize) -> io::Result<Self> {
        // SAFETY: as in `new`.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ,
                MapFlags::SHARED | MapFlags::NORESERVE,
                &fd,
                0,
            )?
        };
        let start =
            NonNull::new(start.cast::<u8>()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { start, len, fd })
    }

    /// The first byte of the mapping.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// The length of the mapping in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the mapping has no bytes; it never does.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The descriptor of the mapped file.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Gets memory for these bytes of the file now, so that a shortage is an error here and no SIGBUS later.
    pub fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        // The kernel does not refuse what is beyond all memory: it kills one process after the other for it.
        if len >= LARGE_BYTES && available_memory().is_some_and(|available| len > available) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(rustix::fs::fallocate(
            &self.fd,
            FallocateFlags::empty(),
            offset,
            len,
        )?)
    }

    /// Gives the memory of these bytes back to the system; they read as zero afterwards.
    pub fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        discard(self.fd(), offset, len)
    }

    /// Makes the pages of this range present for writing, in one go; a failure costs only time, so it is ignored.
    pub fn populate(&self, offset: usize, len: usize) {
        debug_assert!(offset + len <= self.len);
        // SAFETY: the range lies inside our own mapping, and populating it changes no byte.
        let _ = unsafe {
            libc::madvise(
                self.start.as_ptr().add(offset).cast(),
                len,
                libc::MADV_POPULATE_WRITE,
            )
        };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and nobody can hold a reference into it beyond `self`'s life: users
        // keep the owner of the mapping alive (see `shm::Region`).
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_of_memory_is_read() {
        let meminfo = "MemTotal:  8 kB\nMemAvailable:     3 kB\nSwapTotal:  5 kB\nSwapFree:  2 kB\n";
        assert_eq!(available_in(meminfo), Some(5 << 10));
        assert_eq!(available_in("MemTotal: 8 kB\n"), None);
        assert!(available_memory().is_some_and(|available| available > LARGE_BYTES));
    }

    #[test]
    fn more_than_all_memory_is_refused() {
        let mapping = Mapping::new(create_sealed("test", 1 << 45).unwrap()).unwrap();
        assert_eq!(
            mapping.allocate(0, 1 << 45).unwrap_err().kind(),
            io::ErrorKind::OutOfMemory
        );
        mapping.allocate(0, LARGE_BYTES).unwrap();
        assert_eq!(memory_of(mapping.fd()).unwrap(), LARGE_BYTES);
    }
}
