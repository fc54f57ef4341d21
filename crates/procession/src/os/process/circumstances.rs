//! What a process hands on to a program that it executes.

use std::ffi::CStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

/// Those lines of a thread's `status` whose subject outlives an `execve`.
const INHERITED: [&str; 20] = [
    "Umask",
    "Uid",
    "Gid",
    "Groups",
    "NSpgid",
    "NSsid",
    "SigBlk",
    "SigIgn",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "Cpus_allowed",
    "Mems_allowed",
    "Speculation_Store_Bypass",
    "SpeculationIndirectBranch",
];
/// Namespaces for the children of a process.
const NAMESPACES: [&str; 8] = [
    "cgroup",
    "ipc",
    "mnt",
    "net",
    "pid_for_children",
    "time_for_children",
    "user",
    "uts",
];
/// What else the kernel tells of a process in a file.
const FILES: [&str; 4] = [
    "/proc/self/cgroup",
    "/proc/self/attr/current",
    "/proc/self/oom_score_adj",
    "/proc/self/coredump_filter",
];
const RESOURCES: u32 = 16;
/// From the kernel's `prctl.h`: what is asked for without an argument.
const ATTRIBUTES: [libc::c_int; 5] = [
    libc::PR_GET_SECUREBITS,
    libc::PR_GET_THP_DISABLE,
    libc::PR_MCE_KILL_GET,
    PR_GET_IO_FLUSHER,
    PR_GET_MEMORY_MERGE,
];
const PR_GET_IO_FLUSHER: libc::c_int = 58;
const PR_GET_MEMORY_MERGE: libc::c_int = 68;
/// Memory nodes that a policy may name.
const NODES: usize = 1024;
/// From the kernel's `ioprio.h`.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;

unsafe extern "C" {
    static environ: *const *const libc::c_char;
}

/// Everything, descriptors apart, that a program executed by the calling thread would inherit, as bytes to compare: two
/// programs that were executed under equal circumstances begin equal. `None` if a standard stream is closed, or if the
/// kernel does not tell.
///
/// Standard streams count as what they lead to (terminal, file, pipe). What restricts a process in ways that the kernel does
/// not show (Landlock) is not seen.
///
/// No other thread may change the environment meanwhile; all who do it in Python hold the interpreter's lock.
pub fn circumstances() -> Option<Vec<u8>> {
    let mut told = Vec::with_capacity(16 << 10);
    for stream in 0..3 {
        // SAFETY: `fstat` writes one structure, and an all-zero one is a valid one.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        if unsafe { libc::fstat(stream, &mut stat) } != 0 {
            return None;
        }
        numbers(
            &mut told,
            [stat.st_dev, stat.st_ino, stat.st_rdev, stat.st_mode.into()],
        );
    }
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    for line in status.lines() {
        if INHERITED.contains(&line.split(':').next()?) {
            text(&mut told, line.as_bytes());
        }
    }
    for file in FILES {
        text(&mut told, &fs::read(file).unwrap_or_default());
    }
    for namespace in NAMESPACES {
        let link = fs::read_link(format!("/proc/self/ns/{namespace}")).unwrap_or_default();
        text(&mut told, link.as_os_str().as_bytes());
    }
    for resource in 0..RESOURCES {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the kernel writes one structure; a resource that it does not know leaves it as it is.
        unsafe { libc::getrlimit(resource as _, &mut limit) };
        numbers(&mut told, [limit.rlim_cur, limit.rlim_max]);
    }
    let mut scheduling = libc::sched_param { sched_priority: 0 };
    // SAFETY: these calls read what the kernel has of the calling thread; one writes a structure.
    numbers(&mut told, unsafe {
        libc::sched_getparam(0, &mut scheduling);
        [
            libc::getpriority(libc::PRIO_PROCESS, 0) as u64,
            libc::sched_getscheduler(0) as u64,
            scheduling.sched_priority as u64,
            libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) as u64,
            libc::personality(0xffff_ffff) as u64,
            libc::prctl(libc::PR_GET_TIMERSLACK) as u64,
        ]
    });
    for attribute in ATTRIBUTES {
        // SAFETY: these options read one number of the calling process.
        numbers(&mut told, [unsafe { libc::prctl(attribute, 0, 0, 0, 0) } as u64]);
    }
    let (mut policy, mut nodes) = (0 as libc::c_int, [0_u64; NODES / 64]);
    // SAFETY: the kernel writes one number and as many bits as it is told that there is room for. Where it does not tell,
    // they stay as they are.
    unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &raw mut policy,
            nodes.as_mut_ptr(),
            NODES,
            0,
            0,
        )
    };
    numbers(&mut told, [policy as u64]);
    numbers(&mut told, nodes);
    for directory in ["/", "."] {
        let stat = rustix::fs::stat(directory).ok()?;
        numbers(&mut told, [stat.st_dev, stat.st_ino]);
    }
    // SAFETY: libc keeps this list of strings, which ends with a null; nobody changes it now, as asked above.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            text(&mut told, CStr::from_ptr(*entry).to_bytes());
            entry = entry.add(1);
        }
    }
    Some(told)
}

fn text(told: &mut Vec<u8>, bytes: &[u8]) {
    numbers(told, [bytes.len() as u64]);
    told.extend_from_slice(bytes);
}

fn numbers<const N: usize>(told: &mut Vec<u8>, numbers: [u64; N]) {
    for number in numbers {
        told.extend_from_slice(&number.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circumstances_are_equal_until_something_changes() {
        let before = circumstances().unwrap();
        assert_eq!(circumstances().unwrap(), before);
        let slack = rustix::thread::current_timer_slack().unwrap();
        rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(slack + 1)).unwrap();
        assert_ne!(circumstances().unwrap(), before);
        rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(slack)).unwrap();
        assert_eq!(circumstances().unwrap(), before);
    }
}
