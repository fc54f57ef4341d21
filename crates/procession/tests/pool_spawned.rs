//! The suite of the pool, with spawned workers.

mod support;

#[path = "pool/mod.rs"]
mod suite;

const METHOD: procession::StartMethod = procession::StartMethod::Spawn;
