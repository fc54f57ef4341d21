use super::signal_name;
use std::fmt;

/// How a process ended: by its own exit code, or killed by a signal.
///
/// ```
/// use procession::ExitStatus;
///
/// let status = ExitStatus::killed(9, false);
/// assert_eq!(status.signal(), Some(9));
/// assert_eq!(status.code(), None);
/// assert_eq!(status.exit_code_like_python(), -9);
/// assert_eq!(status.to_string(), "was killed by SIGKILL");
/// assert_eq!(ExitStatus::exited(3).to_string(), "exited with code 3");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExitStatus(Ending);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Ending {
    Exited { code: i32 },
    Killed { signal: i32, core_dumped: bool },
}

impl ExitStatus {
    /// The status of a process that exited with this code. The system keeps its lowest 8 bits.
    pub const fn exited(code: i32) -> ExitStatus {
        ExitStatus(Ending::Exited { code: code & 0xFF })
    }

    /// The status of a process that was killed by this signal.
    pub const fn killed(signal: i32, core_dumped: bool) -> ExitStatus {
        ExitStatus(Ending::Killed { signal, core_dumped })
    }

    /// From the number that `wait(2)` gives for a process that has ended.
    pub(crate) const fn from_wait_status(status: i32) -> ExitStatus {
        match status & 0x7F {
            0 => ExitStatus::exited(status >> 8),
            signal => ExitStatus::killed(signal, status & 0x80 != 0),
        }
    }

    /// From what [`ExitStatus::exit_code_like_python`] gave.
    pub(crate) const fn from_exit_code_like_python(code: i32) -> ExitStatus {
        if code < 0 {
            ExitStatus::killed(code.wrapping_neg(), false)
        } else {
            ExitStatus::exited(code)
        }
    }

    /// Whether it exited with code 0.
    pub const fn success(&self) -> bool {
        matches!(self.0, Ending::Exited { code: 0 })
    }

    /// The exit code, `None` if a signal killed it.
    pub const fn code(&self) -> Option<i32> {
        match self.0 {
            Ending::Exited { code } => Some(code),
            Ending::Killed { .. } => None,
        }
    }

    /// The number of the signal that killed it, `None` if it exited by itself.
    pub const fn signal(&self) -> Option<i32> {
        match self.0 {
            Ending::Exited { .. } => None,
            Ending::Killed { signal, .. } => Some(signal),
        }
    }

    /// Whether the kernel wrote a core file as it killed it.
    pub const fn core_dumped(&self) -> bool {
        matches!(
            self.0,
            Ending::Killed {
                core_dumped: true,
                ..
            }
        )
    }

    /// The exit code, or the signal's number made negative: what Python calls `exitcode`.
    pub const fn exit_code_like_python(&self) -> i32 {
        match self.0 {
            Ending::Exited { code } => code,
            Ending::Killed { signal, .. } => -signal,
        }
    }
}

/// As the end of a sentence that begins with the process: `exited with code 3`, `was killed by SIGKILL`.
impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ending::Exited { code } => write!(f, "exited with code {code}"),
            Ending::Killed { signal, core_dumped } => {
                let core = if core_dumped { " (core dumped)" } else { "" };
                write!(f, "was killed by {}{core}", signal_name(signal))
            }
        }
    }
}

impl From<std::process::ExitStatus> for ExitStatus {
    fn from(status: std::process::ExitStatus) -> ExitStatus {
        use std::os::unix::process::ExitStatusExt;
        ExitStatus::from_wait_status(status.into_raw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_are_read_as_the_kernel_writes_them() {
        assert_eq!(ExitStatus::from_wait_status(0), ExitStatus::exited(0));
        assert_eq!(ExitStatus::from_wait_status(300 << 8), ExitStatus::exited(44));
        assert_eq!(ExitStatus::from_wait_status(9), ExitStatus::killed(9, false));
        assert_eq!(
            ExitStatus::from_wait_status(0x80 | 11),
            ExitStatus::killed(11, true)
        );
        assert_eq!(
            ExitStatus::from_wait_status(0x80 | 11).to_string(),
            "was killed by SIGSEGV (core dumped)"
        );
    }
}
