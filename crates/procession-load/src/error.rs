use std::fmt;

/// What [`Error`] is the error of.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a load test cannot begin or go on: a plan that makes no sense, or a system that refuses something.
///
/// What goes wrong with single requests is no error of this kind; it is counted, see [`ErrorKind`](crate::result::ErrorKind).
#[derive(Debug, Clone)]
pub struct Error {
    kind: Kind,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plan,
    System,
}

impl Error {
    pub(crate) fn plan(text: impl Into<String>) -> Error {
        let (kind, text) = (Kind::Plan, text.into());
        Error { kind, text }
    }

    pub(crate) fn system(text: impl Into<String>) -> Error {
        let (kind, text) = (Kind::System, text.into());
        Error { kind, text }
    }

    /// Gives an error of the operating system the name of what was tried.
    pub(crate) fn os(action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        move |cause| Error::system(format!("cannot {action}: {cause}"))
    }

    /// Whether the plan is at fault: the caller can mend it.
    pub fn is_plan(&self) -> bool {
        self.kind == Kind::Plan
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

impl From<procession::Error> for Error {
    fn from(error: procession::Error) -> Error {
        Error::system(format!("{error:#}"))
    }
}
