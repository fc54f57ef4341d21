//! Locks and semaphores between processes, which survive the death of who holds them.
//!
//! | for | there is |
//! | --- | --- |
//! | a value that one at a time may change | [`Mutex`] |
//! | anything else that one at a time may do | [`SharedLock`] |
//! | waiting until another has changed something | [`Condition`] |
//! | waiting until so many have come | [`Barrier`] |
//! | so many at a time | [`Semaphore`] |
//! | a flag to wait for | [`Event`] |
//!
//! Each brings its memory with it. A forked process has it, too: it goes on using what its parent has made, be it after
//! [`fork`](crate::fork) or in a [`Process`](crate::Process) made of a closure. To other processes goes what `cell` gives, by
//! its chunk's descriptor and its offset; they `attach` it.
//!
//! Below them are the words ([`RawLock`], [`RawSemaphore`], [`RawEvent`]), which may lie in any zeroed memory that processes
//! share; [`memory`] hands out such memory. [`WaitQueue`] is the heart of a condition, [`waits`] finds deadlocks. The protocols
//! are told in the module's README.

mod barrier;
mod condition;
mod event;
mod guard;
mod identity;
mod knots;
mod lock;
pub mod memory;
mod mutex;
mod pace;
mod semaphore;
mod shared_event;
mod shared_lock;
mod shared_semaphore;
mod wait_queue;
pub mod waits;

pub use barrier::{Barrier, BarrierWaitResult, BrokenBarrier};
pub use condition::{Condition, ConditionGuard, WaitTimeoutResult};
pub use event::RawEvent;
pub use guard::{LockError, LockResult, Poisoned, SharedLockGuard};
pub use identity::Identity;
pub use knots::ChangeWatch;
pub use lock::{Acquired, NotLocked, RawLock};
pub use mutex::{Mutex, MutexGuard, Pod};
pub use pace::{Pace, Stir};
pub use semaphore::{AtLimit, RawSemaphore};
pub use shared_event::Event;
pub use shared_lock::{Ended, NotReleased, SharedLock};
pub use shared_semaphore::{Permit, Semaphore};
pub use wait_queue::{Full, WaitQueue};
