//! What `/proc` tells of a process: its family, its threads, what it does, uses and has open.

use std::fs;
use std::io;

use super::ProcStat;
use crate::os::time;

/// The children of a process, zombies included; empty if it has ended or may not be looked at. A snapshot: it may be
/// outdated when it is returned, and incomplete while children come and go.
pub fn children_of(pid: u32) -> Vec<u32> {
    let mut children = Vec::new();
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return children;
    };
    for thread in threads.flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(list) => children.extend(
                list.split_ascii_whitespace()
                    .filter_map(|child| child.parse::<u32>().ok()),
            ),
            // The thread has ended, or the kernel was built without this file.
            Err(_) if thread.path().join("stat").exists() => return scan_children_of(pid),
            Err(_) => {}
        }
    }
    children
}

fn scan_children_of(parent: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|&pid| parent_of(pid) == Some(parent))
        .collect()
}

/// The number of a process's parent, `None` if there is no such process.
pub fn parent_of(pid: u32) -> Option<u32> {
    ProcStat::of(pid).map(|stat| stat.parent)
}

/// What a process uses of the machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// The kernel's letter, see [`process_state`].
    pub state: char,
    /// How long its threads have run, in seconds.
    pub cpu_seconds: f64,
    /// Its memory that is present, in bytes.
    pub resident_bytes: u64,
    /// When it started, in clock ticks since the machine did: differs when its number was given to another process.
    pub start_ticks: u64,
}

impl Usage {
    /// How long the process has run, in seconds.
    pub fn age_seconds(&self) -> f64 {
        // SAFETY: no pointers.
        let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as f64;
        (time::since_boot_seconds() - self.start_ticks as f64 / ticks).max(0.0)
    }
}

/// What the process with this number uses; `None` if there is none.
pub fn usage_of(pid: u32) -> Option<Usage> {
    let stat = ProcStat::of(pid)?;
    // SAFETY: no pointers.
    let (ticks, page) = unsafe {
        (
            libc::sysconf(libc::_SC_CLK_TCK),
            libc::sysconf(libc::_SC_PAGESIZE),
        )
    };
    Some(Usage {
        state: stat.state,
        cpu_seconds: stat.cpu_ticks as f64 / ticks.max(1) as f64,
        resident_bytes: stat.resident_pages * page.max(0) as u64,
        start_ticks: stat.start_ticks,
    })
}

/// Whether a process has a thread with this number; yes where `/proc` cannot say.
pub fn has_thread(pid: u32, thread: u32) -> bool {
    !fs::exists(format!("/proc/{pid}/task")).unwrap_or(false)
        || fs::exists(format!("/proc/{pid}/task/{thread}")).unwrap_or(true)
}

/// The kernel's letter for what a process is doing: `R` running or ready, `S` sleeping, `D` in the disk or another
/// uninterruptible wait, `T` stopped, `t` stopped by a debugger, `Z` ended but not reaped. `None` if there is none.
pub fn process_state(pid: u32) -> Option<char> {
    ProcStat::of(pid).map(|stat| stat.state)
}

/// The resident memory of a process that it shares with no file and no shared memory, in bytes; `None` if there is no such
/// process. What it has inherited by a fork counts as its own.
pub fn private_resident_bytes(pid: u32) -> Option<u64> {
    let line = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let mut pages = line.split_ascii_whitespace().skip(1).map(str::parse::<u64>);
    let (resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
    // SAFETY: no pointers.
    let page_bytes = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    Some(resident.saturating_sub(shared) * page_bytes)
}

/// Reads the first `most` bytes of a file that another process has open under this descriptor, from the file's beginning.
///
/// # Errors
/// When the process is gone, may not be looked at, or has no such descriptor.
pub fn read_file_of(pid: u32, descriptor: u32, from: u64, most: usize) -> io::Result<Vec<u8>> {
    use std::io::{Read, Seek, SeekFrom};
    let mut bytes = Vec::new();
    let mut file = fs::File::open(format!("/proc/{pid}/fd/{descriptor}"))?;
    file.seek(SeekFrom::Start(from))?;
    file.take(most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The length in bytes of the file that a process has open under this number.
///
/// # Errors
/// As for [`read_file_of`].
pub fn len_of_file_of(pid: u32, descriptor: u32) -> io::Result<u64> {
    Ok(fs::metadata(format!("/proc/{pid}/fd/{descriptor}"))?.len())
}

/// Whether every thread of a process has stopped or ended; of a process that is gone, too.
pub fn has_stopped(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return true;
    };
    threads.flatten().all(|thread| {
        let stat = fs::read(thread.path().join("stat"))
            .ok()
            .and_then(|line| ProcStat::parse(&line));
        stat.is_none_or(|stat| matches!(stat.state, 'T' | 't' | 'Z' | 'X'))
    })
}

#[cfg(test)]
mod tests {
    use super::super::pidfd_send_signal;
    use super::super::test_children::{fork_child, sleep_for_ever, wait};
    use super::*;
    use std::time::Duration;

    #[test]
    fn stopped_process_is_seen_as_stopped() {
        let (pid, pidfd) = fork_child(sleep_for_ever);
        pidfd_send_signal(&pidfd, libc::SIGSTOP).unwrap();
        while process_state(pid) != Some('T') {
            std::thread::sleep(Duration::from_millis(1));
        }
        pidfd_send_signal(&pidfd, libc::SIGKILL).unwrap();
        wait(&pidfd);
        assert_eq!(process_state(pid), None);
    }
}
