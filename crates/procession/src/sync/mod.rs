//! Locks and semaphores between processes, which survive the death of who holds them.
//!
//! The words ([`RawLock`], [`RawSemaphore`], [`RawEvent`]) may lie in any zeroed memory that processes share; [`memory`] hands
//! out such memory. [`SharedLock`] and [`WaitQueue`] bring their memory with them. [`waits`] finds deadlocks. The protocols
//! are told in the module's README.

mod event;
mod identity;
mod lock;
pub mod memory;
mod pace;
mod semaphore;
mod shared_lock;
mod wait_queue;
pub mod waits;

pub use event::RawEvent;
pub use identity::Identity;
pub use lock::{Acquired, NotLocked, RawLock};
pub use pace::{Pace, Stir};
pub use semaphore::{AtLimit, RawSemaphore};
pub use shared_lock::{Ended, NotReleased, SharedLock};
pub use wait_queue::{Full, WaitQueue};
