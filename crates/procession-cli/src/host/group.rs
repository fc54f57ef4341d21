//! The process group of a host: everything that comes from the user's function, unless it left on purpose.

use std::io;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

/// A process group that can be signalled as long as its leader is not reaped, so that its number cannot have passed
/// on to somebody else.
#[derive(Debug, Clone, Default)]
pub struct Group {
    leader: Arc<Mutex<Option<Pid>>>,
}

impl Group {
    fn leader(&self) -> MutexGuard<'_, Option<Pid>> {
        self.leader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the leader and remembers it.
    pub fn start(&self, spawn: impl FnOnce() -> io::Result<Child>) -> io::Result<Child> {
        let mut leader = self.leader();
        let child = spawn()?;
        *leader = Pid::from_raw(child.id().cast_signed());
        Ok(child)
    }

    /// Whether the leader was reaped, or never started.
    pub fn is_gone(&self) -> bool {
        self.leader().is_none()
    }

    /// Sends a signal to every process in the group, if the group is there.
    pub fn signal(&self, signal: Signal) {
        if let Some(leader) = *self.leader() {
            // ESRCH (all gone) is what we want; EPERM means a program with other rights, which we cannot end.
            let _ = rustix::process::kill_process_group(leader, signal);
        }
    }

    /// Kills every process in the group.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Waits until the leader has ended, without reaping it.
    pub fn wait_for_leader(&self) {
        let Some(leader) = *self.leader() else { return };
        loop {
            match rustix::process::waitid(WaitId::Pid(leader), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
            {
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Gives what is left of the group this long to end, then kills it.
    pub fn end_leftovers(&self, grace: Duration) {
        let Some(leader) = *self.leader() else { return };
        let until = Instant::now() + grace;
        while has_living_member(leader) {
            if Instant::now() >= until {
                self.kill();
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Reaps the leader; from then on the group is gone.
    pub fn reap(&self, wait: impl FnOnce() -> io::Result<ExitStatus>) -> io::Result<ExitStatus> {
        let mut leader = self.leader();
        *leader = None;
        wait()
    }
}

fn has_living_member(group: Pid) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return false;
    };
    processes.flatten().any(|entry| {
        let name = entry.file_name();
        let is_process = name.as_encoded_bytes().first().is_some_and(u8::is_ascii_digit);
        is_process
            && std::fs::read_to_string(entry.path().join("stat"))
                .is_ok_and(|stat| is_living_member(&stat, group.as_raw_nonzero().get()))
    })
}

/// Whether a line of `/proc/PID/stat` is of a process in this group that has not ended.
fn is_living_member(stat: &str, group: i32) -> bool {
    // The name in parentheses may itself hold spaces and parentheses; the last one closes it.
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return false;
    };
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next();
    let process_group = fields.nth(1).and_then(|field| field.parse::<i32>().ok());
    process_group == Some(group) && !matches!(state, Some("Z" | "X"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zombies_and_other_groups_are_not_living_members() {
        assert!(is_living_member("12 (python) S 1 77 77 0", 77));
        assert!(is_living_member("12 (a) b) R 1 77 77 0", 77));
        assert!(!is_living_member("12 (python) Z 1 77 77 0", 77));
        assert!(!is_living_member("12 (python) S 1 78 77 0", 77));
        assert!(!is_living_member("", 77));
    }
}
