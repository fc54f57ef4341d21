//! Standard input, output and error, and what C code keeps of them in buffers.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

/// Puts `/dev/null` in the place of standard input, and gives what was there (closed on exec).
///
/// # Errors
///
/// If there was no standard input, or no descriptor is left.
pub fn take_stdin() -> io::Result<OwnedFd> {
    let null = fs::File::open("/dev/null")?;
    // SAFETY: no pointers; the duplicate is a new descriptor that nobody else owns.
    let taken =
        unsafe { OwnedFd::from_raw_fd(check(libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3).into())? as i32) };
    // SAFETY: no pointers; number 0 stays open throughout, as whoever uses standard input relies upon.
    check(unsafe { libc::dup2(null.as_raw_fd(), 0) }.into())?;
    Ok(taken)
}

/// Makes `number` stand for the same file as `fd` in this process, whatever it stood for.
///
/// # Errors
///
/// If the system refuses it.
pub fn duplicate_onto(fd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    // SAFETY: no pointers. Callers name one of the standard descriptors, which nobody owns.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into()).map(drop)
}

/// Has `number` stand for the same file as `fd`, and be closed on exec.
///
/// # Safety
///
/// Whoever owns `number` in this process must expect that.
pub unsafe fn replace(number: i32, fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers; see above.
    check(unsafe { libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC) }.into()).map(drop)
}

unsafe extern "C" {
    // C's own streams, which the libc crate does not name.
    static stdout: *mut libc::FILE;
    static stderr: *mut libc::FILE;
}

/// Writes out what C code has printed and what lies in the buffers of its standard streams.
pub fn flush_c_streams() {
    // SAFETY: both streams exist from the start to the end of a process, and C allows any thread to flush them.
    unsafe {
        libc::fflush(stdout);
        libc::fflush(stderr);
    }
}

/// Has C code write out its standard output line by line, whatever that is: a process that is killed loses less.
pub fn line_buffer_c_stdout() {
    flush_c_streams();
    // SAFETY: the stream exists, and its buffer is left to C.
    unsafe { libc::setvbuf(stdout, std::ptr::null_mut(), libc::_IOLBF, 0) };
}
