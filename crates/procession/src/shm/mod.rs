//! Memory that several processes share: the arena of blocks for what does not fit into a slot.
//!
//! Everything lies in one anonymous sealed memfd ([`crate::os::memory`]), addressed by offsets, so each process may map
//! it where it likes.

pub mod arena;

pub use arena::{AllocError, Arena, ArenaPlan, Block, Owner};
