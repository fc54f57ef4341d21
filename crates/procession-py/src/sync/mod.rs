//! Locks, semaphores, events, and shared values and arrays, as Python has them.

mod buffer;
mod event;
mod fast;
pub mod handing_on;
mod lock;
mod semaphore;
mod value;
mod wait_queue;
mod waiting;

pub use buffer::SharedBuffer;
pub use event::EventBase;
pub use fast::install;
pub use lock::LockBase;
pub use semaphore::SemaphoreBase;
pub use value::SynchronizedValue;
pub use wait_queue::WaitQueue;
pub use waiting::{about_if_running, deadlock_error, stir, wait_for_process, ProcessWait};
