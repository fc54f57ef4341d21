//! The one kind of error the command reports: what was wrong and where, what was seen, what to do.

use std::fmt;

/// An error that ends the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandError {
    message: String,
    details: Option<String>,
    help: Option<String>,
    exit_code: i32,
}

impl CommandError {
    /// An error with this text (a lowercase fragment: what was wrong, and where) and exit code.
    pub fn new(exit_code: i32, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            details: None,
            help: None,
            exit_code,
        }
    }

    /// Adds what to do about it.
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds evidence of several lines, such as a traceback.
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = Some(details.into());
        self
    }

    /// The same error with another exit code.
    pub fn with_exit_code(mut self, exit_code: i32) -> Self {
        self.exit_code = exit_code;
        self
    }

    /// The number the command ends with.
    pub fn exit_code(&self) -> i32 {
        self.exit_code
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        if let Some(details) = &self.details {
            for line in details.trim_end().lines() {
                write!(f, "\n  {line}")?;
            }
        }
        if let Some(help) = &self.help {
            write!(f, "\n help: {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for CommandError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_was_seen_and_what_to_do() {
        let error = CommandError::new(3, "cannot import count.py: NameError: name 'x' is not defined")
            .with_details("Traceback (most recent call last):\n  File \"count.py\", line 1\n")
            .with_help("mend the module; it runs on its own with: python count.py");
        assert_eq!(
            error.to_string(),
            "error: cannot import count.py: NameError: name 'x' is not defined\n  \
             Traceback (most recent call last):\n    File \"count.py\", line 1\n \
             help: mend the module; it runs on its own with: python count.py"
        );
    }
}
