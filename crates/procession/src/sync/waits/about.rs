//! What a waiter says of itself, and how that fits into a record.

use std::panic::Location;
use std::thread;

use crate::os::process;

pub(super) const TEXT_WORDS: usize = 26;

/// What a waiter says of itself, for people: each part is cut short if need be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// The process's name.
    pub process: String,
    /// Where in its code it waits, such as `"app.py:12"`; may be empty.
    pub place: String,
    /// What it waits for, such as `"Lock made at app.py:3"`.
    pub what: String,
    /// Whether no signal has this process do anything before its wait is over: no handler of it runs anything.
    pub deaf_to_signals: bool,
}

impl About {
    /// What the calling thread of a Rust program says, at this place of its code.
    pub fn here(place: &Location<'_>) -> About {
        About {
            process: thread::current().name().unwrap_or("a thread").to_owned(),
            place: format!("{}:{}", place.file(), place.line()),
            what: String::new(),
            deaf_to_signals: process::heeded_signals().is_empty(),
        }
    }

    const PROCESS_BYTES: usize = 56;
    const PLACE_BYTES: usize = 72;
    const WHAT_BYTES: usize = TEXT_WORDS * 8 - Self::PROCESS_BYTES - Self::PLACE_BYTES;

    pub(super) fn pack(&self) -> [u64; TEXT_WORDS] {
        let mut bytes = [0u8; TEXT_WORDS * 8];
        let mut at = 0;
        for (text, room) in [
            (&self.process, Self::PROCESS_BYTES),
            (&self.place, Self::PLACE_BYTES),
            (&self.what, Self::WHAT_BYTES),
        ] {
            // Of a long path the end says most.
            let mut from = text.len().saturating_sub(room);
            while !text.is_char_boundary(from) {
                from += 1;
            }
            let part = &text.as_bytes()[from..];
            bytes[at..at + part.len()].copy_from_slice(part);
            at += room;
        }
        let mut words = [0u64; TEXT_WORDS];
        for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*chunk);
        }
        words
    }

    pub(super) fn unpack(words: &[u64; TEXT_WORDS]) -> About {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut at = 0;
        let mut part = |room| {
            let field: &[u8] = &bytes[at..at + room];
            at += room;
            let end = field.iter().position(|&byte| byte == 0).unwrap_or(room);
            String::from_utf8_lossy(&field[..end]).into_owned()
        };
        About {
            process: part(Self::PROCESS_BYTES),
            place: part(Self::PLACE_BYTES),
            what: part(Self::WHAT_BYTES),
            deaf_to_signals: false,
        }
    }

    /// What a process of this name says in tests.
    #[cfg(test)]
    pub(super) fn sample(process: &str) -> About {
        About {
            process: process.into(),
            place: "app.py:1".into(),
            what: "Lock made at app.py:2".into(),
            deaf_to_signals: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_survive_and_long_ones_keep_their_end() {
        let short = About::sample("MainProcess");
        assert_eq!(About::unpack(&short.pack()), short);
        let long = About {
            place: format!("{}äend.py:7", "x".repeat(200)),
            ..short
        };
        assert!(About::unpack(&long.pack()).place.ends_with("äend.py:7"));
    }
}
