//! Who has which memory, and whether who has it could do anything: as `/proc` tells it, of this user's processes.
//!
//! All answers are of the kind on which somebody else's error depends. So what cannot be seen is said to be hidden, never
//! to be absent.

use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::signals::has_signal_handler;
use super::ProcStat;

/// A file, whichever process has it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// Of the file behind a descriptor.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn of(fd: BorrowedFd<'_>) -> io::Result<FileId> {
        let stat = rustix::fs::fstat(fd)?;
        Ok(FileId {
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }

    /// Its number, by which mappings name it.
    pub fn inode(self) -> u64 {
        self.inode
    }
}

/// What could be seen of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight<T> {
    /// This.
    Seen(T),
    /// It has ended.
    Gone,
    /// There is such a process, but it may not be looked at, or not clearly.
    Hidden,
}

/// A memfd that a process has open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// The file.
    pub file: FileId,
    /// The number of the descriptor in that process.
    pub descriptor: u32,
}

/// The user and the world of process numbers in which the calling process lives. Of processes elsewhere it sees nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    /// The effective user.
    pub user: u32,
    /// The namespace of process numbers; 0 if `/proc` is not there, or is another namespace's.
    pub pid_namespace: u64,
}

impl Home {
    /// Of the calling process.
    pub fn current() -> Home {
        let me = std::process::id().to_string();
        let is_mine =
            fs::read_link("/proc/self").is_ok_and(|link| link.as_os_str().as_bytes() == me.as_bytes());
        let namespace = || fs::metadata("/proc/self/ns/pid").map_or(0, |file| file.ino());
        Home {
            user: rustix::process::geteuid().as_raw(),
            pid_namespace: if is_mine { namespace() } else { 0 },
        }
    }
}

/// The numbers of all processes that can be seen; `None` if some may be left out.
pub fn all_processes() -> Option<Vec<u32>> {
    // Mounted with `hidepid`, processes may be there that are not shown: then the first one is not shown either.
    if !fs::exists("/proc/1").ok()? {
        return None;
    }
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").ok()? {
        if let Some(pid) = entry
            .ok()?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        {
            pids.push(pid);
        }
    }
    Some(pids)
}

/// Whether a process that may not be looked at can be left out, as it has nothing to do with this user's.
pub fn is_a_strangers(pid: u32) -> bool {
    let Some(mine) = users_of("self") else {
        return false;
    };
    // Whoever could become somebody else may have children who did.
    if mine.contains(&0) || mine.iter().any(|&user| user != mine[0]) {
        return false;
    }
    users_of(&pid.to_string()).is_some_and(|theirs| !theirs.contains(&mine[0]))
}

/// Whether a process surely began before this time, in milliseconds since the machine did.
pub fn began_before(pid: u32, since_boot_ms: u64) -> bool {
    // SAFETY: no pointers.
    let ticks_a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    // A tick is 10 ms, and may have been rounded.
    ProcStat::of(pid).is_some_and(|stat| stat.start_ticks * 1000 / ticks_a_second + 50 < since_boot_ms)
}

/// Real, effective, saved and file system's user.
fn users_of(pid: &str) -> Option<Vec<u32>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let users: Vec<u32> = field(&status, "Uid:")?
        .split_ascii_whitespace()
        .filter_map(|user| user.parse().ok())
        .collect();
    (users.len() == 4).then_some(users)
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

/// What may be said of a process if something of it could not be read.
fn unreadable<T>(pid: u32) -> Sight<T> {
    match ProcStat::of(pid) {
        // A zombie has let go of everything, if none of its threads goes on.
        Some(stat) if matches!(stat.state, 'Z' | 'X') && stat.threads <= 1 => Sight::Gone,
        Some(_) => Sight::Hidden,
        None if fs::exists(format!("/proc/{pid}")).unwrap_or(true) => Sight::Hidden,
        None => Sight::Gone,
    }
}

fn is_zombie(pid: u32) -> bool {
    ProcStat::of(pid).is_none_or(|stat| matches!(stat.state, 'Z' | 'X'))
}

/// The memfds with one of these names that a process has open.
pub fn memories_of(pid: u32, names: &[&str]) -> Sight<Vec<Memory>> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return unreadable(pid);
    };
    let mut found = Vec::new();
    let mut count = 0;
    for entry in entries {
        let Ok(entry) = entry else { return unreadable(pid) };
        count += 1;
        let path = entry.path();
        // One that is not there any more was closed meanwhile.
        let Ok(link) = fs::read_link(&path) else { continue };
        if !is_named(link.as_os_str().as_bytes(), names) {
            continue;
        }
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let (Ok(file), Some(descriptor)) = (fs::metadata(&path), number) else {
            continue;
        };
        let file = FileId {
            device: file.dev(),
            inode: file.ino(),
        };
        found.push(Memory { file, descriptor });
    }
    // Of a process whose first thread has ended nothing is shown here.
    if count == 0 && is_zombie(pid) {
        return unreadable(pid);
    }
    Sight::Seen(found)
}

/// The numbers of the memfds with one of these names that a process has mapped, with or without a descriptor.
pub fn mapped_inodes_of(pid: u32, names: &[&str]) -> Sight<Vec<u64>> {
    let Ok(maps) = fs::read(format!("/proc/{pid}/maps")) else {
        return unreadable(pid);
    };
    if maps.is_empty() && is_zombie(pid) {
        return unreadable(pid);
    }
    let mut inodes = Vec::new();
    for line in maps.split(|&byte| byte == b'\n') {
        // Address, permissions, offset, device, inode, path: the path may hold spaces.
        let mut fields = line.split(|&byte| byte == b' ').filter(|field| !field.is_empty());
        let Some(inode) = fields.nth(4) else { continue };
        let Some(at) = line.iter().position(|&byte| byte == b'/') else {
            continue;
        };
        if is_named(&line[at..], names) {
            let Some(inode) = std::str::from_utf8(inode).ok().and_then(|text| text.parse().ok()) else {
                return Sight::Hidden;
            };
            inodes.push(inode);
        }
    }
    Sight::Seen(inodes)
}

fn is_named(path: &[u8], names: &[&str]) -> bool {
    path.strip_prefix(b"/memfd:")
        .and_then(|rest| rest.strip_suffix(b" (deleted)"))
        .is_some_and(|name| names.iter().any(|known| known.as_bytes() == name))
}

/// The threads of a process, if each of them does what its own code has it do: no signal is on its way to them, nobody has
/// stopped them, none of them is about to end. Else it is hidden what will come of them.
pub fn undisturbed_threads_of(pid: u32) -> Sight<Vec<u32>> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return unreadable(pid);
    };
    let mut threads = Vec::new();
    for entry in entries {
        let Ok(entry) = entry else { return unreadable(pid) };
        let Some(thread) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else {
            return unreadable(pid);
        };
        let is_none = |mask: &str| mask.bytes().all(|digit| digit == b'0');
        let quiet = ["SigPnd:", "ShdPnd:"]
            .iter()
            .all(|name| field(&status, name).is_some_and(is_none))
            && field(&status, "CoreDumping:").is_none_or(is_none);
        let stat = fs::read(entry.path().join("stat")).ok();
        let goes_on = stat
            .and_then(|line| ProcStat::parse(&line))
            .is_some_and(|stat| matches!(stat.state, 'R' | 'S' | 'D') && !stat.is_ending);
        if !quiet || !goes_on {
            return unreadable(pid);
        }
        threads.push(thread);
    }
    if threads.is_empty() {
        return unreadable(pid);
    }
    Sight::Seen(threads)
}

/// Reads so many bytes of a memory that a process has open, or none.
pub fn read_memory_of(pid: u32, memory: Memory, into: &mut [u8], offset: u64) -> io::Result<()> {
    let file = File::open(format!("/proc/{pid}/fd/{}", memory.descriptor))?;
    // Its number may be another file's by now.
    let now = file.metadata()?;
    if (now.dev(), now.ino()) != (memory.file.device, memory.file.inode) {
        return Err(io::ErrorKind::NotFound.into());
    }
    file.read_exact_at(into, offset)
}

/// The signals upon which something of this process's own runs and it goes on afterwards. Those that tell of a crash are
/// left out.
pub fn heeded_signals() -> Vec<i32> {
    const OF_CRASHES: [i32; 5] = [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGABRT,
    ];
    let mut heeded: Vec<i32> = (1..=libc::SIGRTMAX())
        .filter(|&signal| has_signal_handler(signal) && !OF_CRASHES.contains(&signal))
        .collect();
    // SAFETY: an all-zero itimerval is a valid one, and is writable for the call.
    let alarm = unsafe {
        let mut timer: libc::itimerval = std::mem::zeroed();
        libc::getitimer(libc::ITIMER_REAL, &mut timer);
        timer.it_value.tv_sec != 0 || timer.it_value.tv_usec != 0
    };
    // Whoever has set an alarm does not wait for ever, whatever it does.
    if alarm && !heeded.contains(&libc::SIGALRM) {
        heeded.push(libc::SIGALRM);
    }
    heeded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::memory::{create_sealed, Mapping};
    use std::os::fd::AsFd;

    const NAMES: [&str; 1] = ["procession-holders-test"];

    #[test]
    fn memory_is_seen_by_descriptor_and_by_mapping() {
        let me = std::process::id();
        let mapping = Mapping::new(create_sealed(NAMES[0], 8192).unwrap()).unwrap();
        let file = FileId::of(mapping.fd()).unwrap();
        let Sight::Seen(memories) = memories_of(me, &NAMES) else {
            panic!("one sees oneself");
        };
        let memory = *memories.iter().find(|memory| memory.file == file).unwrap();
        // SAFETY: the byte lies inside the mapping, which nobody else knows.
        unsafe { mapping.start().add(4100).write(7) };
        let mut byte = [0];
        read_memory_of(me, memory, &mut byte, 4100).unwrap();
        assert_eq!(byte, [7]);
        let other = create_sealed(NAMES[0], 8192).unwrap();
        let wrong = Memory {
            file: FileId::of(other.as_fd()).unwrap(),
            ..memory
        };
        assert!(read_memory_of(me, wrong, &mut byte, 0).is_err());
        let Sight::Seen(mapped) = mapped_inodes_of(me, &NAMES) else {
            panic!("one sees oneself");
        };
        assert!(mapped.contains(&file.inode()) && !mapped.contains(&wrong.file.inode()));
        assert_eq!(memories_of(me, &["procession-holders"]), Sight::Seen(Vec::new()));
    }

    #[test]
    fn what_has_ended_is_gone_and_threads_are_counted() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        while !is_zombie(pid) {
            std::thread::yield_now();
        }
        assert_eq!(memories_of(pid, &NAMES), Sight::Gone);
        assert_eq!(mapped_inodes_of(pid, &NAMES), Sight::Gone);
        assert_eq!(undisturbed_threads_of(pid), Sight::Gone);
        child.wait().unwrap();
        assert_eq!(memories_of(pid, &NAMES), Sight::Gone);
        let mut sleeper = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let threads = undisturbed_threads_of(sleeper.id());
        assert_eq!(threads, Sight::Seen(vec![sleeper.id()]));
        super::super::kill(sleeper.id(), libc::SIGSTOP).unwrap();
        while undisturbed_threads_of(sleeper.id()) != Sight::Hidden {
            std::thread::yield_now();
        }
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert!(began_before(1, u64::MAX) && !began_before(1, 0));
        assert!(all_processes().is_none_or(|all| all.contains(&std::process::id())));
    }

    #[test]
    fn a_handler_is_heeded_and_that_of_a_crash_is_not() {
        let signal = libc::SIGRTMIN() + 6;
        assert!(!heeded_signals().contains(&signal));
        super::super::install_noop_handler(signal).unwrap();
        assert!(heeded_signals().contains(&signal));
        super::super::set_signal_default(signal).unwrap();
        assert!(!heeded_signals().contains(&libc::SIGSEGV));
    }
}
