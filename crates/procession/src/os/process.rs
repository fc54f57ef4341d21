//! Processes as the kernel sees them: forking, watching, signalling and reaping.
//!
//! Thin wrappers with the kernel's own semantics and [`io::Error`]s. A process is held by a *pidfd*, which goes on meaning
//! the same process after its number has been given to another one; numbers alone are for printing and for `/proc`.

mod build_id;
mod circumstances;
mod cpus;
mod exit_status;
mod holders;
mod proc_stat;
mod sibling;
mod signals;
mod stack_signal;

use rustix::event::{poll, PollFd, PollFlags};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

pub use build_id::build_id;
pub use circumstances::circumstances;
pub use cpus::{available_cpus, cgroup_cpus};
pub use exit_status::ExitStatus;
pub use holders::{
    all_processes, began_before, heeded_signals, is_a_strangers, mapped_inodes_of, memories_of,
    read_memory_of, undisturbed_threads_of, FileId, Home, Memory, Sight,
};
pub(crate) use proc_stat::ProcStat;
pub use sibling::{can_clone_sibling, clone_sibling};
pub use signals::{
    block_all_signals, clear_signal_mask, end_at_alarm, has_signal_handler, ignore_signal,
    install_noop_handler, restore_signal_mask, set_signal_default, signal_name, SignalMask,
};

pub use stack_signal::{answer_signal, is_real_time_signal};

pub use libc::{SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGSTOP, SIGTERM};

/// Which of the two processes a [`fork`] returned in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// The new process.
    Child,
    /// The calling process, with the child's process number.
    Parent(u32),
}

/// Forks the calling process. This is glibc's `fork`, so that handlers registered by `pthread_atfork` run (glibc's own
/// keep `malloc` usable in the child).
///
/// # Safety
///
/// Only the calling thread exists in the child. If the process has other threads, whatever they held at that moment stays
/// as it was for ever: the child may then only do what needs none of it (POSIX: async-signal-safe calls) until it executes
/// another program or exits.
pub unsafe fn fork() -> io::Result<Forked> {
    // SAFETY: the caller keeps the contract above.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid.unsigned_abs())),
    }
}

/// Clones the calling process into a child that `wait` for any child passes over: it ends without a signal to its parent.
/// [`reap_unseen`] reaps it. No fork handler runs, so that [`generation`] is the same in it.
///
/// # Safety
///
/// As [`fork`]; nobody keeps `malloc` usable in the child if another thread is inside of it at this moment.
pub unsafe fn clone_unseen() -> io::Result<Forked> {
    // SAFETY: without flags the kernel copies everything, the stack included, as for a fork; the caller keeps the rest.
    match check(unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) })? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid as u32)),
    }
}

/// Waits for the end of a child made by [`clone_unseen`].
pub fn reap_unseen(pid: u32) {
    let Ok(pid) = raw_pid(pid) else { return };
    // SAFETY: no status is asked for.
    while unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WCLONE) } == -1
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

/// 0 until the handler is registered, so that one load answers both questions.
static GENERATION: AtomicU32 = AtomicU32::new(0);

extern "C" fn next_generation() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Forks of this process that were begun since the handlers were registered.
static FORKS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// How often this process (or a forebear, before it was forked) has forked: what was made at another count may have a copy
/// in a child.
#[inline]
pub fn forks() -> u32 {
    generation();
    FORKS.load(Ordering::Relaxed)
}

/// A number that differs between a process and its forked children: who stores it beside an object recognises later that
/// the object was made by another process. Every `fork` of libc counts, whoever called it (raw `clone` calls do not).
///
/// Reading it costs one relaxed load, and takes no lock that a vanished thread could hold.
#[inline]
pub fn generation() -> u32 {
    match GENERATION.load(Ordering::Relaxed) {
        0 => register_generation(),
        generation => generation,
    }
}

#[cold]
fn register_generation() -> u32 {
    // No `Once`: a fork by another thread in the middle would leave it unfinished for ever in the child. Two racing
    // threads may register twice; then each fork counts by two, which is as good.
    // SAFETY: the handlers only add to atomics.
    let failed = unsafe { libc::pthread_atfork(Some(count_fork), None, Some(next_generation)) };
    assert_eq!(failed, 0, "no memory left to register a fork handler");
    let _ = GENERATION.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed);
    GENERATION.load(Ordering::Relaxed)
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn raw_pid(pid: u32) -> io::Result<libc::pid_t> {
    // 0 and negative numbers mean groups to the kernel, never one process.
    match libc::pid_t::try_from(pid) {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    }
}

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

/// What [`wait_ready`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// There is something to read, or the other end was closed.
    Readable,
    /// There is room to write, or the other end was closed.
    Writable,
}

/// Waits until a descriptor is ready. `false` if the deadline came first. Interrupting signals do not end the wait.
pub fn wait_ready(fd: impl AsFd, readiness: Readiness, deadline: Option<Instant>) -> io::Result<bool> {
    let flags = match readiness {
        Readiness::Readable => PollFlags::IN,
        Readiness::Writable => PollFlags::OUT,
    };
    loop {
        // A timeout too long for the kernel's type is as good as none.
        let timeout = deadline.and_then(|end| end.saturating_duration_since(Instant::now()).try_into().ok());
        match poll(&mut [PollFd::new(&fd, flags)], timeout.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Has a descriptor that was inherited closed when this process executes another program.
pub fn close_on_exec(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?)
}

/// A pipe, both ends closed on exec: what is written to the second comes out of the first.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

/// Whether this error says that the process has been reaped already, so that there is nobody to signal.
pub fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESRCH)
}

/// Whether this error of a wait says that somebody else has reaped the process.
pub fn is_no_child(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECHILD)
}

/// Asks the kernel to send this signal to the calling process when the **thread** that forked it ends (0: never). Ask
/// [`parent_of`] afterwards: the parent may have died before.
pub fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong, 0, 0, 0) }.into())?;
    Ok(())
}

/// Makes the calling process the new parent of its orphaned descendants, so that it can find, end and reap them. For
/// processes of our own only: a user's process would have to reap strangers.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1 as libc::c_ulong, 0, 0, 0) }.into())?;
    Ok(())
}

/// Moves the calling process into a session of its own: no controlling terminal, and its own process group.
pub fn become_session_leader() -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::setsid() }.into())?;
    Ok(())
}

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
        (super::time::since_boot_seconds() - self.start_ticks as f64 / ticks).max(0.0)
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

/// The number of the calling process's parent, 0 if it is outside the caller's pid namespace.
pub fn parent_pid() -> u32 {
    // SAFETY: always succeeds.
    unsafe { libc::getppid() }.unsigned_abs()
}

/// Whether the calling thread is the process's first.
pub fn is_main_thread() -> bool {
    rustix::thread::gettid().as_raw_nonzero() == rustix::process::getpid().as_raw_nonzero()
}

/// The number of the calling thread, which no other thread or process of the machine has at the same time.
pub fn thread_number() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()
}

/// Whether a process has a thread with this number; yes where `/proc` cannot say.
pub fn has_thread(pid: u32, thread: u32) -> bool {
    !fs::exists(format!("/proc/{pid}/task")).unwrap_or(false)
        || fs::exists(format!("/proc/{pid}/task/{thread}")).unwrap_or(true)
}

/// How many threads the calling process has, `None` if `/proc` cannot say.
///
/// A thread that was joined a moment ago may still be counted for some microseconds.
pub fn thread_count() -> Option<usize> {
    ProcStat::of_self().map(|stat| stat.threads)
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

/// Ends the calling process at once: nothing is flushed, no destructor and no exit handler runs.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: never returns; the kernel takes everything back.
    unsafe { libc::_exit(code) }
}

/// Registers a function that runs when the process ends normally (`main` returns, or `exit` is called).
///
/// # Errors
///
/// If libc has no memory for it.
pub fn at_exit(function: extern "C" fn()) -> io::Result<()> {
    // SAFETY: the function lives as long as the program.
    if unsafe { libc::atexit(function) } == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ENOMEM))
    }
}

/// Lets the kernel send `signal` to the calling process as soon as the other end of this pipe or socket is closed (or has
/// something to say). Unlike [`set_parent_death_signal`] this follows the process that holds the other end, not a thread.
pub fn signal_on_hangup(fd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let fd = fd.as_raw_fd();
    // SAFETY: no pointers; the descriptor is borrowed for the calls.
    unsafe {
        check(libc::fcntl(fd, libc::F_SETOWN, libc::getpid()).into())?;
        check(libc::fcntl(fd, F_SETSIG, signal).into())?;
        let flags = check(libc::fcntl(fd, libc::F_GETFL).into())? as i32;
        check(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_ASYNC).into())?;
    }
    Ok(())
}

/// Closes every descriptor of this process but these, the standard ones included.
pub fn close_all_but(kept: &mut [i32]) {
    kept.sort_unstable();
    let mut from = 0;
    for &kept in kept.iter() {
        if let Ok(kept) = u32::try_from(kept) {
            if from < kept {
                close_range(from, kept - 1);
            }
            from = kept + 1;
        }
    }
    close_range(from, u32::MAX);
}

fn close_range(first: u32, last: u32) {
    // SAFETY: no pointers. Whoever owned these descriptors is never heard of again: the caller is on its way to its end.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// Reads what is there, once.
pub fn read(fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::read(fd, into)?)
}

/// Writes as much as there is room for, once.
pub fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::io::write(fd, bytes)?)
}

/// Puts `/dev/null` in the place of standard input, and gives what was there (closed on exec).
///
/// # Errors
///
/// If there was no standard input, or no descriptor is left.
pub fn take_stdin() -> io::Result<OwnedFd> {
    let null = fs::File::open("/dev/null")?;
    // SAFETY: no pointers; the duplicate is a new descriptor that nobody else owns.
    let taken =
        unsafe { OwnedFd::from_raw_fd(check(libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3).into())? as i32) };
    // SAFETY: no pointers; number 0 stays open throughout, as whoever uses standard input relies upon.
    check(unsafe { libc::dup2(null.as_raw_fd(), 0) }.into())?;
    Ok(taken)
}

/// Makes `number` stand for the same file as `fd` in this process, whatever it stood for.
///
/// # Errors
///
/// If the system refuses it.
pub fn duplicate_onto(fd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    // SAFETY: no pointers. Callers name one of the standard descriptors, which nobody owns.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into()).map(drop)
}

unsafe extern "C" {
    // C's own streams, which the libc crate does not name.
    static stdout: *mut libc::FILE;
    static stderr: *mut libc::FILE;
}

/// Writes out what C code has printed and what lies in the buffers of its standard streams.
pub fn flush_c_streams() {
    // SAFETY: both streams exist from the start to the end of a process, and C allows any thread to flush them.
    unsafe {
        libc::fflush(stdout);
        libc::fflush(stderr);
    }
}

/// Has C code write out its standard output line by line, whatever that is: a process that is killed loses less.
pub fn line_buffer_c_stdout() {
    flush_c_streams();
    // SAFETY: the stream exists, and its buffer is left to C.
    unsafe { libc::setvbuf(stdout, std::ptr::null_mut(), libc::_IOLBF, 0) };
}

/// Which of the program's files (itself, or a shared library) has the code at this address: where it begins in memory.
pub fn image_of(code: usize) -> Option<usize> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: the address is only looked up, and `info` is writable for the call; it is read only if it was filled.
    unsafe {
        let found = libc::dladdr(code as *const libc::c_void, info.as_mut_ptr()) != 0;
        found.then(|| info.assume_init().dli_fbase as usize)
    }
}

/// Sets the name under which `top` and `ps` show the calling thread (of the main thread: the process). The kernel keeps its
/// first 15 bytes.
pub fn set_command_name(name: &OsStr) -> io::Result<()> {
    let mut bytes = [0u8; 16];
    let name = name.as_encoded_bytes();
    let length = name.len().min(15);
    bytes[..length].copy_from_slice(&name[..length]);
    // SAFETY: the bytes end in a zero, and live for the call.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, bytes.as_ptr(), 0, 0, 0) }.into())?;
    Ok(())
}

/// From the kernel's `fcntl.h`; the libc crate does not name it.
const F_SETSIG: i32 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Forks a child that does only what is allowed beside other threads, and gives its pidfd and number.
    fn fork_child(child: impl FnOnce() -> i32) -> (u32, OwnedFd) {
        // SAFETY: the closures below only make system calls.
        match unsafe { fork() }.unwrap() {
            Forked::Child => exit_now(child()),
            Forked::Parent(pid) => (pid, pidfd_open(pid).unwrap()),
        }
    }

    fn sleep_for_ever() -> i32 {
        loop {
            // SAFETY: no pointers.
            unsafe { libc::pause() };
        }
    }

    fn wait(pidfd: &OwnedFd) -> ExitStatus {
        wait_pidfd(pidfd, false).unwrap().unwrap()
    }

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
    fn generation_differs_in_a_forked_child() {
        let mine = generation();
        let (_, pidfd) = fork_child(|| i32::from(generation() == mine));
        assert_eq!(wait(&pidfd), ExitStatus::exited(0));
        assert_eq!(generation(), mine);
    }

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

    #[test]
    fn numbers_that_mean_groups_are_refused() {
        for pid in [0, u32::MAX] {
            assert_eq!(kill(pid, 0).unwrap_err().raw_os_error(), Some(libc::ESRCH));
            assert_eq!(pidfd_open(pid).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        }
    }

    #[test]
    fn hangup_signal_comes_when_the_holder_of_the_other_end_dies() {
        let (mine, theirs) = rustix::pipe::pipe().unwrap();
        let (_, holder) = fork_child(sleep_for_ever);
        let (_, watcher) = fork_child(|| {
            // SAFETY: the child has its own copy of the descriptor and uses it no more.
            unsafe { libc::close(theirs.as_raw_fd()) };
            signal_on_hangup(mine.as_fd(), libc::SIGKILL).map_or(9, |()| sleep_for_ever())
        });
        drop(theirs);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(wait_pidfd(&watcher, true).unwrap(), None);
        pidfd_send_signal(&holder, libc::SIGKILL).unwrap();
        wait(&holder);
        assert_eq!(wait(&watcher), ExitStatus::killed(libc::SIGKILL, false));
    }
}
