//! Asking a worker where it is.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::channel::{Seat, View};
use crate::os::process::{is_real_time_signal, kill_main_thread, len_of_file_of, read_file_of};

/// A stack's length in bytes beyond which it is cut.
const MOST_BYTES: usize = 256 * 1024;
/// How long a worker may take to answer: it may be starved of its CPU, and answers nothing while it is suspended.
const PATIENCE: Duration = Duration::from_millis(700);
/// Once something is written, the rest follows without a pause as long as this.
const PAUSE: Duration = Duration::from_millis(20);

/// The signal and the descriptor by which a worker tells where it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer {
    signal: i32,
    descriptor: u32,
}

/// What the worker in this process has offered.
pub(super) fn offered_by(view: &View, pid: u32) -> Option<Offer> {
    let seats = (0..view.geometry().seats).filter_map(|seat| view.seat(seat));
    let seat = seats.into_iter().find(|s| {
        s.pid.load(Ordering::Relaxed) == pid
            && matches!(s.stage.load(Ordering::Acquire), Seat::STARTING | Seat::READY)
    })?;
    // Sync point *stack offered*: pairs with the Release in `Worker::offer_stack`.
    let signal = i32::try_from(seat.stack_signal.load(Ordering::Acquire)).ok()?;
    // Other signals would do harm, should the memory tell nonsense.
    is_real_time_signal(signal).then(|| Offer {
        signal,
        descriptor: seat.stack_fd.load(Ordering::Relaxed),
    })
}

/// Sends the signal, and waits for what is written upon it.
pub(super) fn ask(pid: u32, offer: Offer) -> io::Result<String> {
    let from = len_of_file_of(pid, offer.descriptor)?;
    kill_main_thread(pid, offer.signal)?;
    let end = Instant::now() + PATIENCE;
    let mut len = from;
    loop {
        std::thread::sleep(PAUSE);
        let now = len_of_file_of(pid, offer.descriptor)?;
        if now > from && now == len {
            break;
        }
        len = now;
        if Instant::now() > end {
            return Err(io::Error::other("it does not answer (is it suspended?)"));
        }
    }
    let bytes = read_file_of(pid, offer.descriptor, from, MOST_BYTES)?;
    Ok(String::from_utf8_lossy(&bytes)
        .chars()
        .map(|c| {
            if c.is_control() && c != '\n' {
                '\u{FFFD}'
            } else {
                c
            }
        })
        .collect())
}
