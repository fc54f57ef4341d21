//! The calling process: its ties to its parent, its threads, its name and its end.

use std::ffi::OsStr;
use std::io;

use super::{check, ProcStat};

/// Asks the kernel to send this signal to the calling process when the **thread** that forked it ends (0: never). Ask
/// [`parent_of`](super::parent_of) afterwards: the parent may have died before.
pub fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong, 0, 0, 0) }.into())?;
    Ok(())
}

/// Makes the calling process the new parent of its orphaned descendants, so that it can find, end and reap them. For
/// processes of our own only: a user's process would have to reap strangers.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1 as libc::c_ulong, 0, 0, 0) }.into())?;
    Ok(())
}

/// Moves the calling process into a session of its own: no controlling terminal, and its own process group.
pub fn become_session_leader() -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::setsid() }.into())?;
    Ok(())
}

/// The number of the calling process's parent, 0 if it is outside the caller's pid namespace.
pub fn parent_pid() -> u32 {
    // SAFETY: always succeeds.
    unsafe { libc::getppid() }.unsigned_abs()
}

/// Whether the calling thread is the process's first.
pub fn is_main_thread() -> bool {
    rustix::thread::gettid().as_raw_nonzero() == rustix::process::getpid().as_raw_nonzero()
}

/// The number of the calling thread, which no other thread or process of the machine has at the same time.
pub fn thread_number() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()
}

/// How many threads the calling process has, `None` if `/proc` cannot say.
///
/// A thread that was joined a moment ago may still be counted for some microseconds.
pub fn thread_count() -> Option<usize> {
    ProcStat::of_self().map(|stat| stat.threads)
}

/// Ends the calling process at once: nothing is flushed, no destructor and no exit handler runs.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: never returns; the kernel takes everything back.
    unsafe { libc::_exit(code) }
}

/// Registers a function that runs when the process ends normally (`main` returns, or `exit` is called).
///
/// # Errors
///
/// If libc has no memory for it.
pub fn at_exit(function: extern "C" fn()) -> io::Result<()> {
    // SAFETY: the function lives as long as the program.
    if unsafe { libc::atexit(function) } == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ENOMEM))
    }
}

/// Which of the program's files (itself, or a shared library) has the code at this address: where it begins in memory.
pub fn image_of(code: usize) -> Option<usize> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: the address is only looked up, and `info` is writable for the call; it is read only if it was filled.
    unsafe {
        let found = libc::dladdr(code as *const libc::c_void, info.as_mut_ptr()) != 0;
        found.then(|| info.assume_init().dli_fbase as usize)
    }
}

/// Sets the name under which `top` and `ps` show the calling thread (of the main thread: the process). The kernel keeps its
/// first 15 bytes.
pub fn set_command_name(name: &OsStr) -> io::Result<()> {
    let mut bytes = [0u8; 16];
    let name = name.as_encoded_bytes();
    let length = name.len().min(15);
    bytes[..length].copy_from_slice(&name[..length]);
    // SAFETY: the bytes end in a zero, and live for the call.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, bytes.as_ptr(), 0, 0, 0) }.into())?;
    Ok(())
}
