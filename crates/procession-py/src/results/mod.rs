//! What the methods of a pool return: results to come, and iterators over them.

mod apply;
mod apply_methods;
mod feeder;
mod imap;

pub use apply::{AsyncResult, Calls, MapResult};
pub use feeder::Feeder;
pub use imap::{ImapBase, ImapUnordered};
