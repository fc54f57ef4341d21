//! Results on their way to standard output or a file, as they come or in order.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{mpsc, Arc};

use crate::error::CommandError;
use crate::exit_codes;
use crate::host::spawn_thread;
use crate::screen::Screen;
use crate::window::Window;

/// Lines are gathered up to about this size, as long as more are waiting.
const BATCH_BYTES: usize = 64 * 1024;

/// A file that something is written to.
#[derive(Debug)]
pub struct Target {
    file: File,
    /// The option and the path, for messages; none for standard output.
    option: Option<(&'static str, PathBuf)>,
    /// What is in it stays.
    keeps: bool,
}

impl Target {
    /// Standard output.
    ///
    /// # Errors
    ///
    /// When it is closed.
    pub fn standard_output() -> Result<Self, CommandError> {
        let file = io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .map(File::from)
            .map_err(|error| {
                CommandError::new(
                    exit_codes::COULD_NOT_START,
                    format!("cannot write to standard output: {error}"),
                )
                .with_help("write to a file with --output FILE")
            })?;
        Ok(Self {
            file,
            option: None,
            keeps: false,
        })
    }

    /// The file that this option names, made if it is not there; nothing in it is changed yet.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn open(option: &'static str, path: &Path) -> Result<Self, CommandError> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|error| {
                CommandError::new(
                    exit_codes::COULD_NOT_START,
                    format!("cannot write {option} {}: {error}", path.display()),
                )
                .with_help("the folder must exist, and you need the right to write there")
            })?;
        Ok(Self {
            file,
            option: Some((option, path.to_owned())),
            keeps: false,
        })
    }

    /// The file that this option names, made if it is not there, to which lines are added behind its first `end` bytes.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn append(option: &'static str, path: &Path, end: u64) -> Result<Self, CommandError> {
        use std::io::Seek;

        let mut target = Self::open(option, path)?;
        // Half a line at the end, from a run that was killed, goes.
        let placed = target
            .file
            .set_len(end)
            .and_then(|()| target.file.seek(io::SeekFrom::Start(end)));
        placed.map_err(|error| target.failed(&error))?;
        target.keeps = true;
        Ok(target)
    }

    /// Empties the file, now that there is something to write.
    ///
    /// # Errors
    ///
    /// When that cannot be done.
    pub fn empty(&self) -> Result<(), CommandError> {
        let is_plain_file = self.file.metadata().is_ok_and(|metadata| metadata.is_file());
        if self.option.is_none() || self.keeps || !is_plain_file {
            return Ok(());
        }
        self.file.set_len(0).map_err(|error| self.failed(&error))
    }

    /// Replaces what is in the file.
    ///
    /// # Errors
    ///
    /// When that cannot be done.
    pub fn write_whole(mut self, content: &[u8]) -> Result<(), CommandError> {
        self.empty()?;
        self.file.write_all(content).map_err(|error| self.failed(&error))
    }

    /// The error for a write that failed.
    fn failed(&self, error: &io::Error) -> CommandError {
        CommandError::new(
            exit_codes::BROKE_OFF,
            format!("cannot write to {}: {error}", self.name()),
        )
        .with_help("make room or choose another place, then run again")
    }

    /// What it is called in messages.
    pub fn name(&self) -> String {
        match &self.option {
            Some((option, path)) => format!("{option} {}", path.display()),
            None => "standard output".to_owned(),
        }
    }
}

/// What became of an item, ready to be written.
#[derive(Debug)]
pub struct Line {
    /// The item's index; every index from 0 on comes once.
    pub index: u64,
    /// The text with its line end, or nothing.
    pub text: Vec<u8>,
    /// What leaves the window when it is written.
    pub held_bytes: usize,
}

/// How the writing ended.
#[derive(Debug)]
pub enum OutputEvent {
    /// Everything is written.
    Finished,
    /// The reader of standard output has closed it.
    Closed,
    /// Results cannot be written.
    Failed(io::Error),
}

/// Starts the thread that writes. Lines are sent by the sender returned; when that is dropped, what is held back is
/// written too, and `deliver` is told.
///
/// # Errors
///
/// When no thread can be started.
pub fn start(
    target: Target,
    ordered: bool,
    window: Arc<Window>,
    screen: Screen,
    deliver: impl FnOnce(OutputEvent) + Send + 'static,
) -> Result<mpsc::Sender<Line>, CommandError> {
    let (sender, lines) = mpsc::channel();
    spawn_thread("output", move || {
        let shares_terminal = target.file.is_terminal();
        let mut file = target.file;
        let write = |text: &[u8]| {
            if shares_terminal {
                screen.around_output(|| file.write_all(text))
            } else {
                file.write_all(text)
            }
        };
        deliver(match write_lines(&lines, ordered, &window, write) {
            Ok(()) => OutputEvent::Finished,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => OutputEvent::Closed,
            Err(error) => OutputEvent::Failed(error),
        });
    })?;
    Ok(sender)
}

fn write_lines(
    lines: &mpsc::Receiver<Line>,
    ordered: bool,
    window: &Window,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut early = BTreeMap::new();
    let mut next_index = 0;
    let mut batch = Vec::new();
    let mut leaving = Vec::new();
    let mut flush = |batch: &mut Vec<u8>, leaving: &mut Vec<usize>| {
        if !batch.is_empty() {
            write(batch)?;
            batch.clear();
        }
        leaving.drain(..).for_each(|bytes| window.leave(bytes));
        io::Result::Ok(())
    };
    while let Ok(line) = lines.recv() {
        let mut arrived = Some(line);
        while let Some(line) = arrived {
            if ordered {
                early.insert(line.index, line);
                while let Some(line) = early.remove(&next_index) {
                    next_index += 1;
                    batch.extend_from_slice(&line.text);
                    leaving.push(line.held_bytes);
                }
            } else {
                batch.extend_from_slice(&line.text);
                leaving.push(line.held_bytes);
            }
            arrived = if batch.len() < BATCH_BYTES {
                lines.try_recv().ok()
            } else {
                None
            };
        }
        flush(&mut batch, &mut leaving)?;
    }
    for line in early.into_values() {
        batch.extend_from_slice(&line.text);
        leaving.push(line.held_bytes);
        if batch.len() >= BATCH_BYTES {
            flush(&mut batch, &mut leaving)?;
        }
    }
    flush(&mut batch, &mut leaving)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(ordered: bool, indexes: &[u64]) -> String {
        let (sender, lines) = mpsc::channel();
        for &index in indexes {
            sender
                .send(Line {
                    index,
                    text: format!("{index} ").into_bytes(),
                    held_bytes: 0,
                })
                .unwrap();
        }
        drop(sender);
        let mut text = Vec::new();
        write_lines(&lines, ordered, &Window::new(1), |bytes| {
            text.extend_from_slice(bytes);
            Ok(())
        })
        .unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn lines_come_as_they_are_done_or_in_order() {
        assert_eq!(written(false, &[2, 0, 1, 3]), "2 0 1 3 ");
        assert_eq!(written(true, &[2, 0, 1, 3]), "0 1 2 3 ");
    }

    #[test]
    fn what_was_done_before_an_interruption_is_written_even_behind_a_gap() {
        assert_eq!(written(true, &[4, 0, 2]), "0 2 4 ");
    }
}
