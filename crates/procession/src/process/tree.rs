use crate::os::process::{self as os, ProcStat};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long to wait for one process to stop. Only one in an uninterruptible wait takes longer, and that one cannot fork
/// meanwhile.
const STOP_PATIENCE: Duration = Duration::from_millis(200);

/// A process and its descendants in the same session.
pub(super) struct Tree<'a> {
    root: BorrowedFd<'a>,
    descendants: Vec<Member>,
}

struct Member {
    pid: u32,
    pidfd: OwnedFd,
}

impl<'a> Tree<'a> {
    /// Stops the tree below a child of the calling process: afterwards none of its members can start another one unseen.
    ///
    /// Parents are stopped before their children are looked for: what has stopped cannot fork, so when a pass over all
    /// members finds nobody new, nobody is missing.
    pub(super) fn stop(root_pid: u32, root: BorrowedFd<'a>) -> io::Result<Tree<'a>> {
        signal_unless_gone(root, os::SIGSTOP)?;
        await_stop(root_pid);
        Ok(Tree::find(root_pid, root, |pid, pidfd| {
            let stopped = os::pidfd_send_signal(pidfd, os::SIGSTOP);
            // Another user's process (set-user-id) cannot be stopped, and what has gone need not be.
            stopped.is_ok() && await_stop(pid)
        }))
    }

    /// Finds the tree as it is at the moment.
    pub(super) fn look_at(root_pid: u32, root: BorrowedFd<'a>) -> Tree<'a> {
        Tree::find(root_pid, root, |_, _| true)
    }

    fn find(
        root_pid: u32,
        root: BorrowedFd<'a>,
        mut admit: impl FnMut(u32, BorrowedFd<'_>) -> bool,
    ) -> Tree<'a> {
        let mut tree = Tree {
            root,
            descendants: Vec::new(),
        };
        let Some(session) = ProcStat::of(root_pid).map(|stat| stat.session) else {
            return tree;
        };
        loop {
            let known = tree.descendants.len();
            tree.add_children_of(root_pid, session, &mut admit);
            let mut next = 0;
            while next < tree.descendants.len() {
                tree.add_children_of(tree.descendants[next].pid, session, &mut admit);
                next += 1;
            }
            if tree.descendants.len() == known {
                return tree;
            }
        }
    }

    fn add_children_of(
        &mut self,
        parent: u32,
        session: u32,
        admit: &mut impl FnMut(u32, BorrowedFd<'_>) -> bool,
    ) {
        for pid in os::children_of(parent) {
            if self.descendants.iter().any(|member| member.pid == pid) {
                continue;
            }
            // Opened first and looked at afterwards: if it then is what we are looking for, so is the pidfd.
            let Ok(pidfd) = os::pidfd_open(pid) else { continue };
            let belongs = ProcStat::of(pid)
                .is_some_and(|stat| stat.parent == parent && stat.session == session && stat.state != 'Z');
            if belongs && admit(pid, pidfd.as_fd()) {
                self.descendants.push(Member { pid, pidfd });
            }
        }
    }

    /// Sends this signal to all of them, children before their parents.
    pub(super) fn signal(&self, signal: i32) -> io::Result<()> {
        for member in self.descendants.iter().rev() {
            // Somebody else may have killed it meanwhile.
            let _ = os::pidfd_send_signal(&member.pidfd, signal);
        }
        signal_unless_gone(self.root, signal)
    }

    /// Sends this signal to all of them, and lets them go on to meet it.
    pub(super) fn continue_with(&self, signal: i32) -> io::Result<()> {
        self.signal(signal)?;
        self.signal(os::SIGCONT)
    }

    /// Waits until all of them have ended, and kills those that have not at the deadline.
    pub(super) fn kill_at(&self, deadline: Option<Instant>) -> io::Result<()> {
        // The root first: it might take the end of a child for a reason to go on.
        let descendants = self.descendants.iter().map(|member| member.pidfd.as_fd());
        for pidfd in [self.root].into_iter().chain(descendants) {
            if !os::wait_until_ended(pidfd, deadline)? {
                signal_unless_gone(pidfd, os::SIGKILL)?;
            }
        }
        Ok(())
    }
}

fn signal_unless_gone(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    match os::pidfd_send_signal(pidfd, signal) {
        Err(error) if os::is_gone(&error) => Ok(()),
        result => result,
    }
}

/// Waits until a process that was told to stop has done so: a fork that had begun before goes on to its end.
fn await_stop(pid: u32) -> bool {
    let deadline = Instant::now() + STOP_PATIENCE;
    while !os::has_stopped(pid) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(50));
    }
    true
}
