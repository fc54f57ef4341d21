//! Protocols of which only the bytes are known.

pub(crate) mod tcp;
pub(crate) mod udp;
