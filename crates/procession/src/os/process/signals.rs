use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

/// The set of signals that a thread has blocked, as [`block_all_signals`] found it.
#[derive(Clone, Copy)]
pub struct SignalMask(libc::sigset_t);

impl fmt::Debug for SignalMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: the set is initialised, and the numbers are valid ones.
        let blocked = (1..=64).filter(|&signal| unsafe { libc::sigismember(&self.0, signal) } == 1);
        f.debug_set().entries(blocked.map(signal_name)).finish()
    }
}

fn change_mask(set: &libc::sigset_t) -> SignalMask {
    let mut old = MaybeUninit::uninit();
    // SAFETY: both sets are valid for the call, which cannot fail with a valid `how`, and which fills `old`.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, set, old.as_mut_ptr());
        SignalMask(old.assume_init())
    }
}

/// Blocks every signal for the calling thread (SIGKILL and SIGSTOP cannot be), and gives the mask as it was.
pub fn block_all_signals() -> SignalMask {
    let mut all = MaybeUninit::uninit();
    // SAFETY: sigfillset initialises the set.
    change_mask(&unsafe {
        libc::sigfillset(all.as_mut_ptr());
        all.assume_init()
    })
}

/// Puts back what [`block_all_signals`] found.
pub fn restore_signal_mask(mask: &SignalMask) {
    change_mask(&mask.0);
}

/// Unblocks every signal for the calling thread.
pub fn clear_signal_mask() {
    let mut none = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set.
    change_mask(&unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        none.assume_init()
    });
}

fn set_disposition(signal: i32, handler: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid one: default action, empty mask, no flags.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: `action` is valid for the call, and our only handler touches nothing.
    if unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Gives a signal its default action back.
///
/// # Errors
///
/// `EINVAL` for a number that is no signal, SIGKILL and SIGSTOP.
pub fn set_signal_default(signal: i32) -> io::Result<()> {
    set_disposition(signal, libc::SIG_DFL)
}

/// Ends this process after this time, in whole seconds and at least one, even if all signals are blocked.
pub fn end_at_alarm(after: Duration) {
    let _ = set_disposition(libc::SIGALRM, libc::SIG_DFL);
    let seconds = after.as_secs().clamp(1, u64::from(u32::MAX)) as u32;
    // SAFETY: the set is made before it is used, and is ours.
    unsafe {
        let mut alarm = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(alarm.as_mut_ptr());
        libc::sigaddset(alarm.as_mut_ptr(), libc::SIGALRM);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, alarm.as_ptr(), std::ptr::null_mut());
        libc::alarm(seconds);
    }
}

/// Ignores a signal. Programs that this process executes later ignore it too; [`install_noop_handler`] does not have that
/// effect.
///
/// # Errors
///
/// `EINVAL` for a number that is no signal, SIGKILL and SIGSTOP.
pub fn ignore_signal(signal: i32) -> io::Result<()> {
    set_disposition(signal, libc::SIG_IGN)
}

/// Lets a signal do nothing, while programs that this process executes later get the default action back. System calls
/// that it interrupts are restarted where the kernel can do so.
///
/// # Errors
///
/// `EINVAL` for a number that is no signal, SIGKILL and SIGSTOP.
pub fn install_noop_handler(signal: i32) -> io::Result<()> {
    extern "C" fn noop(_signal: i32) {}
    set_disposition(signal, noop as extern "C" fn(i32) as libc::sighandler_t)
}

/// Has this function called upon a signal. It may do only what is allowed in a signal handler.
pub(super) fn set_handler(signal: i32, handler: extern "C" fn(i32)) -> io::Result<()> {
    set_disposition(signal, handler as libc::sighandler_t)
}

/// Whether a function of the program is called for this signal, as opposed to its default action or being ignored.
pub fn has_signal_handler(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: `action` is writable for the call, and read only if it was filled.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && !matches!(action.assume_init().sa_sigaction, libc::SIG_DFL | libc::SIG_IGN)
    }
}

/// The name of a signal as people write it, such as `SIGKILL`; `an unknown signal` for a number that is none.
pub fn signal_name(signal: i32) -> &'static str {
    // By the numbers of libc, as they differ between architectures.
    const NAMES: [(i32, &str); 31] = [
        (libc::SIGHUP, "SIGHUP"),
        (libc::SIGINT, "SIGINT"),
        (libc::SIGQUIT, "SIGQUIT"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGTRAP, "SIGTRAP"),
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGUSR1, "SIGUSR1"),
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGUSR2, "SIGUSR2"),
        (libc::SIGPIPE, "SIGPIPE"),
        (libc::SIGALRM, "SIGALRM"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGSTKFLT, "SIGSTKFLT"),
        (libc::SIGCHLD, "SIGCHLD"),
        (libc::SIGCONT, "SIGCONT"),
        (libc::SIGSTOP, "SIGSTOP"),
        (libc::SIGTSTP, "SIGTSTP"),
        (libc::SIGTTIN, "SIGTTIN"),
        (libc::SIGTTOU, "SIGTTOU"),
        (libc::SIGURG, "SIGURG"),
        (libc::SIGXCPU, "SIGXCPU"),
        (libc::SIGXFSZ, "SIGXFSZ"),
        (libc::SIGVTALRM, "SIGVTALRM"),
        (libc::SIGPROF, "SIGPROF"),
        (libc::SIGWINCH, "SIGWINCH"),
        (libc::SIGIO, "SIGIO"),
        (libc::SIGPWR, "SIGPWR"),
        (libc::SIGSYS, "SIGSYS"),
    ];
    // glibc keeps 32 and 33 for itself and calls the 31 after them SIGRTMIN + n.
    const REALTIME: [&str; 31] = [
        "SIGRTMIN",
        "SIGRTMIN+1",
        "SIGRTMIN+2",
        "SIGRTMIN+3",
        "SIGRTMIN+4",
        "SIGRTMIN+5",
        "SIGRTMIN+6",
        "SIGRTMIN+7",
        "SIGRTMIN+8",
        "SIGRTMIN+9",
        "SIGRTMIN+10",
        "SIGRTMIN+11",
        "SIGRTMIN+12",
        "SIGRTMIN+13",
        "SIGRTMIN+14",
        "SIGRTMIN+15",
        "SIGRTMIN+16",
        "SIGRTMIN+17",
        "SIGRTMIN+18",
        "SIGRTMIN+19",
        "SIGRTMIN+20",
        "SIGRTMIN+21",
        "SIGRTMIN+22",
        "SIGRTMIN+23",
        "SIGRTMIN+24",
        "SIGRTMIN+25",
        "SIGRTMIN+26",
        "SIGRTMIN+27",
        "SIGRTMIN+28",
        "SIGRTMIN+29",
        "SIGRTMAX",
    ];
    let classic = NAMES
        .iter()
        .find(|(number, _)| *number == signal)
        .map(|(_, name)| *name);
    let realtime = || {
        REALTIME
            .get(usize::try_from(signal.checked_sub(libc::SIGRTMIN())?).ok()?)
            .copied()
    };
    classic.or_else(realtime).unwrap_or("an unknown signal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_usual_ones() {
        assert_eq!(signal_name(9), "SIGKILL");
        assert_eq!(signal_name(libc::SIGRTMIN() + 2), "SIGRTMIN+2");
        assert_eq!(signal_name(64), "SIGRTMAX");
        assert!([i32::MIN, -1, 0, 32, 33, 65, i32::MAX]
            .into_iter()
            .all(|signal| signal_name(signal) == "an unknown signal"));
    }

    #[test]
    fn blocked_signals_are_restored() {
        let before = block_all_signals();
        let all = block_all_signals();
        assert!(format!("{all:?}").contains("SIGTERM"));
        restore_signal_mask(&before);
        assert_eq!(format!("{:?}", block_all_signals()), format!("{before:?}"));
        restore_signal_mask(&before);
    }

    #[test]
    fn a_handler_is_told_from_default_and_ignored() {
        let signal = libc::SIGRTMIN() + 7;
        assert!(!has_signal_handler(signal));
        install_noop_handler(signal).unwrap();
        assert!(has_signal_handler(signal));
        ignore_signal(signal).unwrap();
        assert!(!has_signal_handler(signal));
        set_signal_default(signal).unwrap();
        assert!(set_signal_default(libc::SIGKILL).is_err());
    }
}
