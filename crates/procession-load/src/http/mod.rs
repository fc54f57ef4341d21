//! HTTP as a load generator needs it.

pub mod h1;
pub(crate) mod link;
pub mod request;
pub mod url;
