use crate::result::ErrorKind;
use rustix::io::Errno;
use std::borrow::Cow;

/// Why a request failed: the kind for counting, the text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What it is counted as.
    pub kind: ErrorKind,
    /// What happened, in words.
    pub text: Cow<'static, str>,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: ErrorKind, text: impl Into<Cow<'static, str>>) -> Failure {
        let text = text.into();
        Failure { kind, text }
    }

    /// What an error of the operating system means for the request in whose way it came.
    pub fn of_system(action: &str, error: Errno) -> Failure {
        let kind = match error {
            Errno::CONNREFUSED | Errno::NOENT => ErrorKind::Refused,
            Errno::CONNRESET | Errno::PIPE | Errno::CONNABORTED => ErrorKind::Reset,
            Errno::TIMEDOUT => ErrorKind::ConnectTimeout,
            Errno::MFILE
            | Errno::NFILE
            | Errno::ADDRNOTAVAIL
            | Errno::NOBUFS
            | Errno::NOMEM
            | Errno::ADDRINUSE => ErrorKind::Generator,
            _ => ErrorKind::Network,
        };
        let hint = match error {
            Errno::MFILE => " (RLIMIT_NOFILE of the generator)",
            Errno::ADDRNOTAVAIL => " (no local port is left, see net.ipv4.ip_local_port_range)",
            _ => "",
        };
        let error = std::io::Error::from(error);
        Failure::new(kind, format!("{action}: {error}{hint}"))
    }
}
