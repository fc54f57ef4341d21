//! How far the reading of inputs may run ahead of the writing of results.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Inputs and results under way hold at most about this many bytes (or one item, if that alone is larger).
const MAX_BYTES: usize = 64 << 20;

/// Bounds the items between being read and having their result written, in number and in bytes.
#[derive(Debug)]
pub struct Window {
    max_items: usize,
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    items: usize,
    bytes: usize,
    closed: bool,
}

impl Window {
    /// A window for this many items.
    pub fn new(max_items: usize) -> Self {
        Self {
            max_items,
            held: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until one more item may be read, and counts it. False when the window is closed.
    pub fn enter(&self) -> bool {
        let full = |held: &mut Held| {
            !held.closed && (held.items >= self.max_items || (held.items > 0 && held.bytes >= MAX_BYTES))
        };
        let mut held = self
            .changed
            .wait_while(self.held(), full)
            .unwrap_or_else(PoisonError::into_inner);
        held.items += 1;
        !held.closed
    }

    /// Counts bytes that an item in the window holds.
    pub fn hold(&self, bytes: usize) {
        self.held().bytes += bytes;
    }

    /// Takes an item out of the window, with all bytes it held.
    pub fn leave(&self, bytes: usize) {
        let mut held = self.held();
        held.items = held.items.saturating_sub(1);
        held.bytes = held.bytes.saturating_sub(bytes);
        drop(held);
        self.changed.notify_one();
    }

    /// Lets nobody in any more.
    pub fn close(&self) {
        self.held().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn the_window_opens_when_an_item_leaves_and_not_before() {
        let window = Arc::new(Window::new(2));
        assert!(window.enter() && window.enter());
        let third = thread::spawn({
            let window = Arc::clone(&window);
            move || window.enter()
        });
        thread::sleep(std::time::Duration::from_millis(50));
        assert!(!third.is_finished());
        window.leave(0);
        assert!(third.join().unwrap());
    }

    #[test]
    fn bytes_fill_the_window_too_but_one_item_always_fits() {
        let window = Arc::new(Window::new(100));
        window.hold(MAX_BYTES * 2);
        assert!(window.enter());
        let second = thread::spawn({
            let window = Arc::clone(&window);
            move || window.enter()
        });
        thread::sleep(std::time::Duration::from_millis(50));
        assert!(!second.is_finished());
        window.close();
        assert!(!second.join().unwrap());
    }
}
