//! `procession top`: every pool of this user, live.
//!
//! `state` is what is known and chosen, and what keys change; `draw` makes a picture of it, and nothing else does. This
//! file is the loop between them and the terminal.

mod draw;
mod state;

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use procession::os::process;
use procession::watch::Watcher;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGINT, SIGTERM, SIGTSTP};

use crate::args::{TopArguments, WhoseArguments};
use crate::commands::ps;
use crate::error::CommandError;
use crate::exit_codes;
use state::{Key, State, Wish};

/// How long the loop waits for a key before it looks whether a signal has come.
const PATIENCE: Duration = Duration::from_millis(200);

/// Runs the command and returns its exit code.
///
/// # Errors
///
/// When the terminal cannot be used.
pub fn run(arguments: &TopArguments) -> Result<i32, CommandError> {
    let can_draw = io::stdout().is_terminal()
        && io::stdin().is_terminal()
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    if !can_draw {
        let pools = arguments.whose.choose(Watcher::new().look());
        return ps::print(&ps::plain(&pools, &arguments.whose));
    }
    let refuse = |what: &str, error: io::Error| {
        CommandError::new(exit_codes::COULD_NOT_START, format!("{what}: {error}"))
    };
    let ended = Arc::new(AtomicBool::new(false));
    // SIGHUP is left alone: with the terminal gone there is none to put right, and keys would be awaited for ever.
    // The terminal's own Ctrl-C comes as a key.
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, ended.clone())
            .map_err(|error| refuse("cannot watch for signals", error))?;
    }
    let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let state = State::new(arguments.sort, arguments.interval, colours);
    let mut terminal = ratatui::try_init().map_err(|error| refuse("cannot draw on this terminal", error))?;
    let outcome = watch(&mut terminal, state, &arguments.whose, &ended);
    ratatui::restore();
    match outcome {
        Ok(()) => Ok(exit_codes::DONE),
        // A terminal that has gone has nobody to tell.
        Err(_) if ended.load(Ordering::Relaxed) => Ok(exit_codes::DONE),
        Err(error) => Err(refuse("the terminal has failed", error)),
    }
}

fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    mut state: State,
    whose: &WhoseArguments,
    ended: &AtomicBool,
) -> io::Result<()> {
    let mut watcher = Watcher::new();
    let interval = Duration::from_secs_f64(state.interval_seconds);
    let mut next = Instant::now();
    while !ended.load(Ordering::Relaxed) {
        if Instant::now() >= next {
            state.refresh(whose.choose(watcher.look()));
            next = Instant::now() + interval;
        }
        terminal.draw(|frame| draw::draw(frame, &mut state))?;
        let left = next.saturating_duration_since(Instant::now()).min(PATIENCE);
        if !event::poll(left)? {
            continue;
        }
        let Event::Key(key) = event::read()? else {
            // A terminal of another size is drawn anew.
            continue;
        };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let key = match key.code {
            KeyCode::Char('c') if control => return Ok(()),
            KeyCode::Char('z') if control => {
                ratatui::restore();
                let _ = signal_hook::low_level::emulate_default_handler(SIGTSTP);
                *terminal = ratatui::try_init()?;
                continue;
            }
            KeyCode::Up => Key::Up,
            KeyCode::Down => Key::Down,
            KeyCode::PageUp => Key::PageUp,
            KeyCode::PageDown => Key::PageDown,
            KeyCode::Home => Key::First,
            KeyCode::End => Key::Last,
            KeyCode::Esc => Key::Escape,
            KeyCode::Char(letter) => Key::Letter(letter),
            _ => continue,
        };
        match state.press(key) {
            Some(Wish::Quit) => return Ok(()),
            Some(Wish::Stack { pid, name }) => match watcher.stack_of(pid) {
                Ok(text) => state.show_stack(format!("{name} (pid {pid})"), &text),
                Err(error) => state.tell(format!("{name} (pid {pid}): {error}")),
            },
            Some(Wish::Signal { pid, signal, done }) => {
                state.tell(match signal_worker(pid, signal) {
                    Ok(()) => done,
                    Err(error) => format!("process {pid}: {error}"),
                });
                next = Instant::now() + Duration::from_millis(50);
            }
            None => {}
        }
    }
    Ok(())
}

/// The worker may have ended, and its number gone to another process, while somebody thought about it. So it is asked once
/// more whether it is one, with its descriptor in hand.
fn signal_worker(pid: u32, signal: i32) -> io::Result<()> {
    let held = process::pidfd_open(pid)?;
    let is_worker = Watcher::new()
        .look()
        .iter()
        .any(|pool| pool.workers.iter().any(|worker| worker.pid == pid));
    if !is_worker {
        return Err(io::Error::other("it is no worker any more"));
    }
    process::pidfd_send_signal(&held, signal)
}
