//! Cloning the calling process for its parent.

use std::io;

use super::fork::{count_fork, next_generation};
use super::{check, Forked};

/// From the kernel's `prctl.h`.
const PR_GET_TID_ADDRESS: libc::c_int = 40;

/// Where libc remembers the number of the calling thread, if that can be found out.
///
/// libc asks the kernel to clear that word when the thread ends; a kernel built for checkpoints tells it again.
fn remembered_thread_number() -> Option<*mut libc::pid_t> {
    let mut address: *mut libc::pid_t = std::ptr::null_mut();
    // SAFETY: the kernel writes one pointer.
    let failed = unsafe { libc::prctl(PR_GET_TID_ADDRESS, &raw mut address) };
    if failed != 0 || address.is_null() {
        return None;
    }
    // SAFETY: the word belongs to the calling thread, which lives.
    let number = unsafe { address.read() };
    // SAFETY: `gettid` has no preconditions.
    (number == unsafe { libc::gettid() }).then_some(address)
}

/// Whether [`clone_sibling`] works here.
pub fn can_clone_sibling() -> bool {
    remembered_thread_number().is_some()
}

/// Clones the calling process, as [`super::fork`] does, into a child not of its own but of its parent: which waits for
/// it, and gets SIGCHLD at its end.
///
/// Of the handlers registered by `pthread_atfork` only those of this crate run.
///
/// # Errors
///
/// [`io::ErrorKind::Unsupported`] where [`can_clone_sibling`] says no; else the kernel's reasons not to make a process.
///
/// # Safety
///
/// No other thread exists.
pub unsafe fn clone_sibling() -> io::Result<Forked> {
    let number = remembered_thread_number().ok_or(io::ErrorKind::Unsupported)?;
    let (mut robust_list, mut len) = (std::ptr::null_mut::<libc::c_void>(), 0_usize);
    // SAFETY: the kernel writes one pointer and one length.
    let has_list = unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut robust_list, &raw mut len) };
    let flags = libc::CLONE_PARENT | libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID;
    count_fork();
    // SAFETY: without a stack or shared memory the kernel copies everything, as for a fork. It writes the child's number
    // to where libc remembers it, as libc's own fork has it do. Where that address goes differs between kinds of
    // processors; the other of the two places is not looked at without its flag. The caller keeps the rest.
    match check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, number, number) })? {
        0 => {
            if has_list == 0 {
                // SAFETY: it is the calling thread's own list, which the kernel forgets for the child.
                unsafe { libc::syscall(libc::SYS_set_robust_list, robust_list, len) };
            }
            next_generation();
            Ok(Forked::Child)
        }
        pid => Ok(Forked::Parent(pid as u32)),
    }
}
