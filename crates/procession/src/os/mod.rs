//! The one door to the operating system: nothing outside this module calls it directly.

pub mod children;
pub mod event;
pub mod futex;
pub mod memory;
pub mod process;
pub mod socket;
pub mod stream;
pub mod time;
