//! What the tasks of a worker write to their standard output and error, if it is to be kept.
//!
//! The supervisor makes a file in memory for each worker before it forks it, and keeps it: a dead worker's could not be had any
//! more. The worker writes to it from its first task on, whatever writes: Python, C, what it has started. Everything goes to the
//! file's end. *The file has what the running item has written, and no more*: the worker reads it when the item has ended, sends it
//! along with the result, and empties the file when the result is out. So what the supervisor finds in it at a worker's
//! death belongs to the item that the worker died in.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::os::{memory, process};

/// Of longer texts the end is kept.
const MOST_BYTES: u64 = 1 << 20;

/// The file of one worker.
#[derive(Debug)]
pub struct OutputFile(OwnedFd);

impl OutputFile {
    /// Makes an empty one.
    pub fn new() -> io::Result<Self> {
        memory::create_appending("procession-output").map(Self)
    }

    /// Has this process's standard output and error go here from now on.
    pub fn take_over_standard(&self) -> io::Result<()> {
        process::line_buffer_c_stdout();
        process::duplicate_onto(self.0.as_fd(), 1)?;
        process::duplicate_onto(self.0.as_fd(), 2)
    }

    /// What has been written; nothing if it cannot be read.
    pub fn text(&self) -> Option<String> {
        let len = memory::file_len(self.0.as_fd()).unwrap_or(0);
        if len == 0 {
            return None;
        }
        let left_out = len.saturating_sub(MOST_BYTES);
        let mut bytes = vec![0; (len - left_out) as usize];
        let read = memory::read_at(self.0.as_fd(), &mut bytes, left_out).ok()?;
        bytes.truncate(read);
        let text = String::from_utf8_lossy(&bytes);
        Some(if left_out == 0 {
            text.into_owned()
        } else {
            format!("[{left_out} bytes before this were left out]\n{text}")
        })
    }

    /// Forgets what has been written. For the worker alone, between two items.
    pub fn empty(&self) {
        if memory::file_len(self.0.as_fd()).is_ok_and(|len| len != 0) {
            // Should it fail, the next text has this one, too.
            let _ = memory::truncate(self.0.as_fd(), 0);
        }
    }

    /// Gives back the memory of what will be left out of a long text.
    pub fn trim(&self) {
        let len = memory::file_len(self.0.as_fd()).unwrap_or(0);
        if let Some(too_much) = len.checked_sub(2 * MOST_BYTES) {
            let _ = memory::discard(self.0.as_fd(), 0, too_much);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn written(parts: &[&[u8]]) -> OutputFile {
        let file = OutputFile::new().unwrap();
        let mut writer = std::fs::File::from(file.0.try_clone().unwrap());
        parts.iter().for_each(|part| writer.write_all(part).unwrap());
        file
    }

    #[test]
    fn what_was_written_is_read_until_the_file_is_emptied() {
        let file = written(&[b"one\n", b"two\n"]);
        assert_eq!(file.text().as_deref(), Some("one\ntwo\n"));
        file.empty();
        assert_eq!(file.text(), None);
        std::fs::File::from(file.0.try_clone().unwrap())
            .write_all(b"three\n")
            .unwrap();
        assert_eq!(file.text().as_deref(), Some("three\n"));
    }

    #[test]
    fn of_a_long_text_the_end_is_kept_and_the_rest_takes_no_memory() {
        let line = [b'x'; 1 << 16];
        let lines: Vec<&[u8]> = std::iter::repeat_n(&line[..], 128).collect();
        let file = written(&lines);
        file.trim();
        let held = memory::memory_of(file.0.as_fd()).unwrap();
        assert!(held <= 3 * MOST_BYTES, "{held} bytes are held");
        let text = file.text().unwrap();
        assert!(
            text.starts_with("[7340032 bytes before this were left out]\nxxx"),
            "{}",
            &text[..60]
        );
        assert_eq!(text.matches('x').count() as u64, MOST_BYTES);
    }

    #[test]
    fn what_is_not_text_is_shown_as_far_as_it_is() {
        let file = written(&[b"caf\xe9\n"]);
        assert_eq!(file.text().as_deref(), Some("caf\u{fffd}\n"));
    }
}
