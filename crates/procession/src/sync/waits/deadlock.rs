//! A deadlock that was found, told in words.

use std::fmt;

use super::{About, For};

/// One who waits in a deadlock, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The waiting process's number.
    pub pid: u32,
    /// The waiting thread's number.
    pub thread: u32,
    /// What it said of itself.
    pub about: About,
    /// What it waits for.
    pub what_for: For,
    /// The number of the process that it waits for: it holds the lock, or is the process whose end is awaited. `None` if
    /// several could end the wait, all of them members: a queue's, or a lock's that others may release.
    pub holder_pid: Option<u32>,
}

/// Those who wait for each other, and for nobody else: none of them will ever go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadlock {
    /// Who waits; the first is the one who was told. In a circle of locks each waits for the next, the last for the first.
    pub members: Vec<Member>,
}

/// A message does not name more members than this.
const MOST_NAMED: usize = 12;

impl Deadlock {
    fn name_of(&self, pid: u32) -> &str {
        let found = self.members.iter().find(|member| member.pid == pid);
        found.map_or("a process", |member| &member.about.process)
    }

    fn of_nobody_else(&self, f: &mut fmt::Formatter<'_>, what: &str) -> fmt::Result {
        let first = self.members.first().map(|member| member.pid);
        if self.members.iter().all(|member| Some(member.pid) == first) {
            write!(f, ", which no other process has")
        } else {
            write!(f, ", and only those named here could {what}")
        }
    }
}

impl fmt::Display for Deadlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "deadlock: ")?;
        for (number, member) in self.members.iter().enumerate().take(MOST_NAMED) {
            if number > 0 {
                write!(f, "; ")?;
            }
            write!(f, "{} (pid {}", member.about.process, member.pid)?;
            if member.thread != member.pid {
                write!(f, ", thread {}", member.thread)?;
            }
            write!(f, ")")?;
            if !member.about.place.is_empty() {
                write!(f, " at {}", member.about.place)?;
            }
            let what = &member.about.what;
            match (member.what_for, member.holder_pid) {
                (For::Process, pid) => {
                    let pid = pid.unwrap_or_default();
                    write!(f, " waits for the end of {} (pid {pid})", self.name_of(pid))?;
                }
                (For::Lock { .. }, Some(pid)) => {
                    write!(
                        f,
                        " waits for the {what}, which {} (pid {pid}) holds",
                        self.name_of(pid)
                    )?;
                }
                (For::Lock { .. }, None) => {
                    write!(f, " waits for the {what}")?;
                    self.of_nobody_else(f, "release it")?;
                }
                (For::Item, _) => {
                    write!(f, " waits for an item in the {what}")?;
                    self.of_nobody_else(f, "put one")?;
                }
                (For::Room, _) => {
                    write!(f, " waits for room in the {what}")?;
                    self.of_nobody_else(f, "take an item")?;
                }
                (For::Done, _) => {
                    write!(f, " waits until all items of the {what} are done")?;
                    self.of_nobody_else(f, "say so")?;
                }
            }
        }
        match self.members.len() {
            ..=MOST_NAMED => Ok(()),
            more => write!(f, "; and {} more", more - MOST_NAMED),
        }
    }
}

impl std::error::Error for Deadlock {}
