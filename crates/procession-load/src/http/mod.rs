//! HTTP as a load generator needs it.

pub(crate) mod follow;
pub mod h1;
pub(crate) mod h2;
pub(crate) mod link;
pub mod request;
pub mod url;
