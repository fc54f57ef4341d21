use std::fs;

/// From the kernel's `sched.h`.
const PF_EXITING: u32 = 4;

/// What `/proc/<pid>/stat` says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcStat {
    /// The kernel's letter, see [`super::process_state`].
    pub state: char,
    /// Number of the parent.
    pub parent: u32,
    /// Number of the session's leader.
    pub session: u32,
    /// Whether it is on its way to its end, which may take a while if it has much memory.
    pub is_ending: bool,
    /// How many threads it has.
    pub threads: usize,
    /// When it started, in clock ticks since boot: number and start time together name a process for good.
    pub start_ticks: u64,
    /// How long its threads have run, in clock ticks.
    pub cpu_ticks: u64,
    /// Its memory that is present, in pages.
    pub resident_pages: u64,
}

impl ProcStat {
    /// Of the process with this number; `None` if there is none.
    pub(crate) fn of(pid: u32) -> Option<ProcStat> {
        Self::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Of the calling process.
    pub(crate) fn of_self() -> Option<ProcStat> {
        Self::parse(&fs::read("/proc/self/stat").ok()?)
    }

    pub(super) fn parse(line: &[u8]) -> Option<ProcStat> {
        // The program's name stands in parentheses, may hold any byte, and is the only field that may hold a closing one.
        let end_of_name = line.iter().rposition(|&byte| byte == b')')?;
        let fields: Vec<&str> = std::str::from_utf8(&line[end_of_name + 1..])
            .ok()?
            .split_ascii_whitespace()
            .collect();
        Some(ProcStat {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            is_ending: fields.get(6)?.parse::<u32>().ok()? & PF_EXITING != 0,
            threads: fields.get(17)?.parse().ok()?,
            start_ticks: fields.get(19)?.parse().ok()?,
            cpu_ticks: fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?,
            resident_pages: fields.get(21)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let line = b"42 (a) R 9 (b) S 7 42 5 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 3 0 12345 1000 10\n";
        let stat = ProcStat {
            state: 'S',
            parent: 7,
            session: 5,
            is_ending: false,
            threads: 3,
            start_ticks: 12345,
            cpu_ticks: 3,
            resident_pages: 10,
        };
        assert_eq!(ProcStat::parse(line), Some(stat));
        let ending = ProcStat::parse(b"42 (c) R 1 1 1 0 -1 4194308 1 0 0 0 1 2 0 0 20 0 3 0 1 1 1\n");
        assert!(ending.unwrap().is_ending);
        assert_eq!(ProcStat::parse(b"42 (cut"), None);
        assert_eq!(ProcStat::parse(b"42 (cut) S 7"), None);
    }

    #[test]
    fn own_entry_is_readable() {
        let stat = ProcStat::of_self().unwrap();
        assert_eq!(stat.parent, super::super::parent_pid());
        assert!(stat.threads >= 1);
    }
}
