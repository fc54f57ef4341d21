//! What those who watch a pool from outside read, and nobody else: names, totals, notes.
//!
//! Nothing here takes part in the protocol. All of it is written by plain relaxed stores, most of them into lines that
//! the writer has at hand anyway, and read by watchers at their own pace.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A short text: its bytes, up to the first that is zero.
#[derive(Debug)]
#[repr(C)]
pub struct Text<const WORDS: usize>([AtomicU64; WORDS]);

/// The words of a function's name.
pub(super) const NAME_WORDS: usize = 8;

/// A function's name.
pub(super) type Name = Text<NAME_WORDS>;

impl<const WORDS: usize> Text<WORDS> {
    /// Writes a text; one that is too long loses its beginning, as the end of a path tells more.
    pub fn set(&self, text: &str) {
        let room = WORDS * 8;
        let bytes = text.as_bytes();
        let mut kept = String::new();
        let bytes = if bytes.len() > room {
            let mark = "…";
            let mut from = bytes.len() - (room - mark.len());
            while !text.is_char_boundary(from) {
                from += 1;
            }
            kept.push_str(mark);
            kept.push_str(&text[from..]);
            kept.as_bytes()
        } else {
            bytes
        };
        for (i, word) in self.0.iter().enumerate() {
            let mut part = [0u8; 8];
            for (to, from) in part.iter_mut().zip(bytes.iter().skip(i * 8)) {
                *to = *from;
            }
            word.store(u64::from_le_bytes(part), Ordering::Relaxed);
        }
    }

    /// Reads the text. Whatever would move a terminal's cursor or change its colours is replaced.
    pub fn get(&self) -> String {
        let bytes: Vec<u8> = self
            .0
            .iter()
            .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
            .take_while(|&byte| byte != 0)
            .collect();
        String::from_utf8_lossy(&bytes)
            .chars()
            .map(|c| if c.is_control() { '\u{FFFD}' } else { c })
            .collect()
    }
}

/// Who the pool is, and the totals of what its ended workers counted.
#[derive(Debug)]
#[repr(C)]
pub struct WatchWords {
    /// When the pool was made, in nanoseconds of the monotonic clock.
    pub created_ns: AtomicU64,
    /// The process that made it.
    pub caller_pid: AtomicU32,
    /// The process that forks its workers; 0 until that is known.
    pub supervisor_pid: AtomicU32,
    /// What the names of its workers begin with.
    pub name_prefix: Text<4>,
    /// The number in the name of the first worker.
    pub first_number: AtomicU64,
    /// How its workers come about.
    pub start_method: Text<2>,
    /// Items run by workers that have ended.
    pub items: AtomicU64,
    /// Those of them that raised or panicked.
    pub failed: AtomicU64,
    /// Items that their workers took with them when they died.
    pub lost: AtomicU64,
    /// Those of them whose workers were killed because their time was over.
    pub timed_out: AtomicU64,
    /// Workers that ended although nobody had asked them to.
    pub died: AtomicU32,
    /// Workers that ended in order.
    pub retired: AtomicU32,
    /// How many read the events; none are written while it is 0.
    pub event_readers: AtomicU32,
    /// The number of the next event.
    pub next_event: AtomicU64,
}

impl WatchWords {
    /// The name of the worker with this number in it.
    pub fn worker_name(&self, number: u32) -> String {
        let first = self.first_number.load(Ordering::Relaxed);
        let number = first.saturating_add(u64::from(number)).saturating_sub(1);
        format!("{}{number}", self.name_prefix.get())
    }

    /// Tells who the pool is: the words its workers' names begin with, the number of the first, and the start method.
    pub fn describe(&self, name_prefix: &str, first_number: u64, start_method: &str) {
        self.name_prefix.set(name_prefix);
        self.first_number.store(first_number, Ordering::Relaxed);
        self.start_method.set(start_method);
    }
}

/// What the caller notes of the task in a slot.
#[derive(Debug)]
#[repr(C)]
pub struct Note {
    /// The place of the slot's first item in what the user gave: the index in a map's list.
    pub first_item: AtomicU64,
    /// When the caller began to encode it, in nanoseconds of the monotonic clock; 0 if it is not one that is timed.
    pub submitted_ns: AtomicU64,
    /// When the worker began with it, if it is timed.
    pub began_ns: AtomicU64,
    /// How many of its items raised or panicked.
    pub failed: AtomicU32,
    _reserved: AtomicU32,
}

impl Note {
    /// The first item of a task that is a call by itself.
    pub const NO_ITEM: u64 = u64::MAX;

    /// The place in what the user gave of the slot's item with this number.
    pub fn item(&self, number: u32) -> u64 {
        match self.first_item.load(Ordering::Relaxed) {
            Self::NO_ITEM => Self::NO_ITEM,
            first => first.saturating_add(u64::from(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Text<2> {
        Text(Default::default())
    }

    #[test]
    fn a_text_comes_back_and_one_that_is_too_long_loses_its_beginning() {
        let t = text();
        assert_eq!(t.get(), "");
        t.set("sixteen letters!");
        assert_eq!(t.get(), "sixteen letters!");
        t.set("shop.orders.Order.total");
        assert_eq!(t.get(), "…s.Order.total");
        t.set("short");
        assert_eq!(t.get(), "short");
    }

    #[test]
    fn what_would_move_a_cursor_is_replaced() {
        let t = text();
        t.set("a\u{1b}[2J\nb");
        assert_eq!(t.get(), "a\u{FFFD}[2J\u{FFFD}b");
    }
}
