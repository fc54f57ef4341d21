//! A pool of worker processes: the dispatcher in the caller, the supervisor, the workers.
#![doc = include_str!("README.md")]

pub mod dispatcher;
pub mod events;
pub mod output;
pub mod stats;
pub mod supervisor;
pub mod waiter;
pub mod worker;

mod typed;

pub(crate) use typed::begin_if_supervisor;

pub use typed::{
    Array, AsyncResult, Bytes, Calls, Imap, MapResult, Plain, Pool, PoolBuilder, WorkerInfo, WorkerState,
};
