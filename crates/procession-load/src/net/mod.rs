//! Sockets and readiness, as thin as they can be: one thread, nothing ever waits but [`Poller::wait`].

mod address;
mod failure;
mod poller;
mod socket;
mod stream;
mod tcp_info;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
mod tls;
#[cfg(feature = "tls")]
mod tls;

/// So much is received over one connection before others have their turn, however fast it comes.
pub(crate) const MOST_AT_ONCE_BYTES: usize = 1 << 20;

pub use address::{Address, Endpoint};
pub use failure::Failure;
pub use poller::{Poller, Ready};
pub use socket::{connect, connect_result, note_arrivals, receive, receive_noted, send, udp, Connecting};
pub use stream::{Received, Stream};
pub use tcp_info::{tcp_info, TcpInfo};
pub use tls::{TlsClient, TlsSession};
