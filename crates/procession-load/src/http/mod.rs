//! HTTP as a load generator needs it.

pub mod url;
