//! For tests: processes that die after each step of their way.

use crate::crash::die_after;
use crate::os::process as os;

/// Runs `work` in a forked process that dies after so many steps; false if it got to its end before.
pub(super) fn dies(steps: u64, work: impl FnOnce()) -> bool {
    // SAFETY: the child runs only `work`, which uses nothing of other threads.
    match unsafe { os::fork() }.unwrap() {
        os::Forked::Child => {
            die_after(steps);
            work();
            os::exit_now(0);
        }
        os::Forked::Parent(pid) => {
            let pidfd = os::pidfd_open(pid).unwrap();
            let status = os::wait_pidfd(&pidfd, false).unwrap().unwrap();
            assert!(
                status.success() || status.signal() == Some(os::SIGKILL),
                "{status}"
            );
            !status.success()
        }
    }
}
