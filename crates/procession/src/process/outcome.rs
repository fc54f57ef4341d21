use std::fmt;
use std::io::Write;

/// What a process's function may return, and the exit code that this means.
///
/// `()` is 0; numbers are the code itself (the system keeps its lowest 8 bits); an `Err` is printed to stderr as `main`
/// would print it, and is 1.
pub trait Outcome {
    /// The exit code.
    fn exit_code(self) -> i32;
}

impl Outcome for () {
    fn exit_code(self) -> i32 {
        0
    }
}

/// The type `!`, which cannot be named yet.
type Never = <fn() -> ! as naming::Returns>::Value;

mod naming {
    pub trait Returns {
        type Value;
    }

    impl<T> Returns for fn() -> T {
        type Value = T;
    }
}

/// For functions that only panic, loop for ever, or exit.
impl Outcome for Never {
    fn exit_code(self) -> i32 {
        self
    }
}

impl Outcome for i32 {
    fn exit_code(self) -> i32 {
        self
    }
}

impl Outcome for u8 {
    fn exit_code(self) -> i32 {
        self.into()
    }
}

impl<T: Outcome, E: fmt::Debug> Outcome for Result<T, E> {
    fn exit_code(self) -> i32 {
        match self {
            Ok(value) => value.exit_code(),
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "Error: {error:?}");
                1
            }
        }
    }
}
