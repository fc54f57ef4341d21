//! The suite of the pool, with forked workers.

mod support;

#[path = "pool/mod.rs"]
mod suite;

const METHOD: procession::StartMethod = procession::StartMethod::Fork;
