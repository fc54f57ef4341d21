//! Other processes, held by their pidfds or named by their numbers: watched, signalled and reaped.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Instant;

use super::{check, raw_pid, wait_ready, ExitStatus, Readiness, SIGKILL};

/// Opens a pidfd (closed on exec) for the process with this number. It becomes readable when the process ends.
///
/// Right after a fork, by the parent, this is race-free: nobody else gets the number before the child is reaped.
///
/// # Errors
///
/// `ESRCH` if there is no such process.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is a new descriptor that nobody else owns.
    unsafe {
        let fd = check(libc::syscall(libc::SYS_pidfd_open, raw_pid(pid)?, 0))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// Sends a signal to exactly the process that this pidfd means; signal 0 only asks whether it is there.
///
/// # Errors
///
/// `ESRCH` if it has been reaped already; `EPERM` if it is another user's.
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: a null siginfo means the one that kill(2) makes.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd,
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })?;
    Ok(())
}

/// Sends a signal to the process with this number: for processes whose number cannot have been reused, as unreaped
/// children. Everybody else deserves a pidfd.
///
/// # Errors
///
/// `ESRCH` if there is none; `EPERM` if it is another user's.
pub fn kill(pid: u32, signal: i32) -> io::Result<()> {
    // SAFETY: no pointers; `raw_pid` keeps 0 and -1 (everybody) out.
    check(unsafe { libc::kill(raw_pid(pid)?, signal) }.into())?;
    Ok(())
}

/// As [`kill`], but the process's first thread gets the signal, whichever others might take it.
///
/// # Errors
///
/// As [`kill`].
pub fn kill_main_thread(pid: u32, signal: i32) -> io::Result<()> {
    let number = raw_pid(pid)?;
    // SAFETY: no pointers; `raw_pid` keeps 0 and -1 out.
    check(unsafe { libc::syscall(libc::SYS_tgkill, number, number, signal) })?;
    Ok(())
}

fn wait_id(kind: libc::idtype_t, id: libc::id_t, nohang: bool) -> io::Result<Option<(u32, ExitStatus)>> {
    let options = libc::WEXITED | if nohang { libc::WNOHANG } else { 0 };
    // SAFETY: an all-zero siginfo_t is a valid one.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is writable for the call.
    check(unsafe { libc::waitid(kind, id, &mut info, options) }.into())?;
    // SAFETY: after a successful waitid the SIGCHLD fields are valid; the pid stays 0 if nobody had ended.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let status = match info.si_code {
        libc::CLD_EXITED => ExitStatus::exited(status),
        code => ExitStatus::killed(status, code == libc::CLD_DUMPED),
    };
    Ok(Some((pid.unsigned_abs(), status)))
}

/// Reaps the child that this pidfd means; with `nohang`, `None` if it is still alive.
///
/// # Errors
///
/// `ECHILD` if it is not a child of the caller or somebody else has reaped it (see [`pidfd_exit_status`]); `EINTR` if a
/// signal came while waiting.
pub fn wait_pidfd(pidfd: impl AsFd, nohang: bool) -> io::Result<Option<ExitStatus>> {
    let fd = pidfd.as_fd().as_raw_fd();
    Ok(wait_id(libc::P_PIDFD, fd as libc::id_t, nohang)?.map(|(_, status)| status))
}

/// Reaps any child that has ended; with `nohang`, `None` if all are alive. Only for processes that own all of their
/// children: it takes exit statuses away from whoever else waits for one.
///
/// # Errors
///
/// `ECHILD` if the caller has no children; `EINTR` if a signal came while waiting.
pub fn wait_any_child(nohang: bool) -> io::Result<Option<(u32, ExitStatus)>> {
    wait_id(libc::P_ALL, 0, nohang)
}

/// How the process of this pidfd ended, although it is nobody's child or somebody else has reaped it. `None` where the
/// kernel cannot say (before Linux 6.15, or if it is still alive).
pub fn pidfd_exit_status(pidfd: impl AsFd) -> Option<ExitStatus> {
    // The first published layout of the kernel's `struct pidfd_info`; later kernels accept it by its size.
    #[repr(C)]
    #[derive(Default)]
    struct PidfdInfo {
        mask: u64,
        cgroup_id: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    const PIDFD_GET_INFO: libc::c_ulong =
        (3 << 30) | ((size_of::<PidfdInfo>() as libc::c_ulong) << 16) | (0xFF << 8) | 11;
    let mut info = PidfdInfo {
        mask: PIDFD_INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: the request number carries the size of `info`, and the kernel writes no more than that.
    let answer = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), PIDFD_GET_INFO as _, &mut info) };
    (answer == 0 && info.mask & PIDFD_INFO_EXIT != 0).then(|| ExitStatus::from_wait_status(info.exit_code))
}

/// Kills a child that nobody else has a handle of, and reaps it.
pub fn kill_and_reap(pid: u32) -> io::Result<()> {
    kill(pid, SIGKILL)?;
    wait_id(libc::P_PID, pid, false)?;
    Ok(())
}

/// Waits until the process of this pidfd has ended, which leaves it to be reaped. `false` if the deadline came first.
/// Interrupting signals do not end the wait.
pub fn wait_until_ended(pidfd: impl AsFd, deadline: Option<Instant>) -> io::Result<bool> {
    wait_ready(pidfd, Readiness::Readable, deadline)
}

/// Whether this error says that the process has been reaped already, so that there is nobody to signal.
pub fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESRCH)
}

/// Whether this error of a wait says that somebody else has reaped the process.
pub fn is_no_child(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECHILD)
}

#[cfg(test)]
mod tests {
    use super::super::test_children::{fork_child, sleep_for_ever, wait};
    use super::super::{children_of, parent_of};
    use super::*;

    #[test]
    fn exit_code_and_signal_are_told_apart() {
        let (_, exited) = fork_child(|| 3);
        assert_eq!(wait(&exited), ExitStatus::exited(3));
        let (pid, killed) = fork_child(sleep_for_ever);
        assert_eq!(wait_pidfd(&killed, true).unwrap(), None);
        assert!(children_of(std::process::id()).contains(&pid));
        assert_eq!(parent_of(pid), Some(std::process::id()));
        pidfd_send_signal(&killed, libc::SIGKILL).unwrap();
        assert_eq!(wait(&killed), ExitStatus::killed(libc::SIGKILL, false));
        assert_eq!(
            wait_pidfd(&killed, true).unwrap_err().raw_os_error(),
            Some(libc::ECHILD)
        );
        assert_eq!(
            pidfd_send_signal(&killed, 0).unwrap_err().raw_os_error(),
            Some(libc::ESRCH)
        );
    }

    #[test]
    fn status_of_a_process_reaped_by_somebody_else_is_known_where_the_kernel_keeps_it() {
        let (_, pidfd) = fork_child(|| 7);
        assert_eq!(wait(&pidfd), ExitStatus::exited(7));
        let again = pidfd_exit_status(&pidfd);
        assert!(
            again.is_none() || again == Some(ExitStatus::exited(7)),
            "{again:?}"
        );
    }

    #[test]
    fn numbers_that_mean_groups_are_refused() {
        for pid in [0, u32::MAX] {
            assert_eq!(kill(pid, 0).unwrap_err().raw_os_error(), Some(libc::ESRCH));
            assert_eq!(pidfd_open(pid).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        }
    }
}
