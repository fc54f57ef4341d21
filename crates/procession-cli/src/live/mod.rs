//! The live view of a load test: the terminal, and the loop between it and the run.
//!
//! [`frame`] makes a picture of a result, and nothing else does. The workers are other processes, which are not asked:
//! a picture is made of what they have counted in shared memory. So looking changes nothing but the CPU time that
//! drawing takes, four times a second.

pub mod frame;

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::DefaultTerminal;
use signal_hook::consts::{SIGINT, SIGTSTP};

use frame::Wishes;
use procession_load::result::RunResult;

/// How often a picture is made.
const PICTURE: Duration = Duration::from_millis(250);

/// What the viewer wants of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// End it and report.
    End,
    /// The same, by this signal.
    EndBySignal(i32),
}

/// Whether there is a terminal to draw on and to read keys from.
pub fn is_possible() -> bool {
    io::stdout().is_terminal()
        && io::stdin().is_terminal()
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// A terminal that is drawn on, until this is dropped.
#[derive(Debug)]
pub struct LiveView {
    terminal: DefaultTerminal,
    wishes: Wishes,
    shown: Option<RunResult>,
    next: Instant,
}

impl LiveView {
    /// Takes the terminal.
    ///
    /// # Errors
    ///
    /// When it cannot be drawn on.
    pub fn start() -> io::Result<Self> {
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let terminal = ratatui::try_init()?;
        Ok(Self {
            terminal,
            wishes: Wishes {
                colours,
                ..Wishes::default()
            },
            shown: None,
            next: Instant::now(),
        })
    }

    /// Whether it is time for a new picture, for which a new result is worth its price.
    pub fn is_due(&self) -> bool {
        !self.wishes.paused && Instant::now() >= self.next
    }

    /// Draws this result from now on.
    ///
    /// # Errors
    ///
    /// When the terminal is gone.
    pub fn show(&mut self, result: RunResult) -> io::Result<()> {
        self.next = Instant::now() + PICTURE;
        self.shown = Some(result);
        self.draw()
    }

    /// The run is being ended from now on.
    pub fn say_ending(&mut self) {
        self.wishes.stopping = true;
        self.wishes.paused = false;
    }

    fn draw(&mut self) -> io::Result<()> {
        let Some(result) = &self.shown else { return Ok(()) };
        let wishes = self.wishes;
        self.terminal.draw(|frame| frame::draw(frame, result, wishes))?;
        Ok(())
    }

    /// What the keys that were pressed want of the run. Does not wait.
    ///
    /// # Errors
    ///
    /// When the terminal is gone.
    pub fn keys(&mut self) -> io::Result<Option<Wish>> {
        while event::poll(Duration::ZERO)? {
            let Event::Key(key) = event::read()? else {
                // A terminal of another size is drawn anew.
                self.draw()?;
                continue;
            };
            if key.kind == KeyEventKind::Release {
                continue;
            }
            let control = key.modifiers.contains(KeyModifiers::CONTROL);
            match key.code {
                KeyCode::Char('c') if control => return Ok(Some(Wish::EndBySignal(SIGINT))),
                KeyCode::Char('z') if control => {
                    ratatui::restore();
                    let _ = signal_hook::low_level::emulate_default_handler(SIGTSTP);
                    self.terminal = ratatui::try_init()?;
                }
                KeyCode::Char('q') => return Ok(Some(Wish::End)),
                KeyCode::Char('p' | ' ') => self.wishes.paused = !self.wishes.paused,
                KeyCode::Char('?' | 'h') => self.wishes.help = !self.wishes.help,
                KeyCode::Esc => self.wishes.help = false,
                _ => continue,
            }
            self.draw()?;
        }
        Ok(None)
    }
}

impl Drop for LiveView {
    fn drop(&mut self) {
        ratatui::restore();
    }
}
