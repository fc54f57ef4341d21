use super::{Address, Failure};
use rustix::io::Errno;
use rustix::net::{
    self, sockopt, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// A socket that connects, or has.
#[derive(Debug)]
pub struct Connecting {
    /// The socket.
    pub fd: OwnedFd,
    /// Whether it is connected already.
    pub done: bool,
}

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

fn family(address: &SocketAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    }
}

/// Begins to connect. `forget` leaves nothing behind when it is closed: a connection that is used once would otherwise keep
/// its local port for a minute, of which there are fewer than thirty thousand.
///
/// # Errors
///
/// If it fails at once.
pub fn connect(address: &Address, forget: bool) -> Result<Connecting, Failure> {
    let failure = |error| Failure::of_system("cannot connect", error);
    let (fd, result) = match address {
        Address::Ip(address) => {
            let fd = net::socket_with(family(address), SocketType::STREAM, FLAGS, None).map_err(failure)?;
            let _ = sockopt::set_tcp_nodelay(&fd, true);
            if forget {
                let _ = sockopt::set_socket_linger(&fd, Some(Duration::ZERO));
            }
            if address.ip().is_loopback() && !forget {
                // There is no congestion inside a machine; what systems use by default against it may measure and pace each
                // packet, which costs several percent of a request here. Reno is always there and does neither.
                let _ = sockopt::set_tcp_congestion(&fd, "reno");
            }
            let result = net::connect(&fd, address);
            (fd, result)
        }
        Address::Unix(path) => {
            let fd =
                net::socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None).map_err(failure)?;
            let result = SocketAddrUnix::new(path).and_then(|address| net::connect(&fd, &address));
            (fd, result)
        }
    };
    match result {
        Ok(()) => Ok(Connecting { fd, done: true }),
        Err(Errno::INPROGRESS) => Ok(Connecting { fd, done: false }),
        Err(error) => Err(failure(error)),
    }
}

/// How a connection attempt has ended that was in progress.
///
/// # Errors
///
/// If it failed.
pub fn connect_result(fd: impl AsFd) -> Result<(), Failure> {
    match sockopt::socket_error(fd) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) | Err(error) => Err(Failure::of_system("cannot connect", error)),
    }
}

/// A datagram socket that is connected to this address.
///
/// # Errors
///
/// As the system has them.
pub fn udp(address: &SocketAddr) -> Result<OwnedFd, Failure> {
    let failure = |error| Failure::of_system("cannot make a socket", error);
    let fd = net::socket_with(family(address), SocketType::DGRAM, FLAGS, None).map_err(failure)?;
    net::connect(&fd, address).map_err(failure)?;
    Ok(fd)
}

/// Sends as much as there is room for: how many bytes that were, 0 if there is no room.
///
/// # Errors
///
/// If the connection is broken.
#[inline]
pub fn send(fd: impl AsFd, bytes: &[u8]) -> Result<usize, Failure> {
    loop {
        match net::send(&fd, bytes, SendFlags::NOSIGNAL) {
            Ok(n) => return Ok(n),
            Err(Errno::AGAIN) => return Ok(0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(Failure::of_system("cannot send", error)),
        }
    }
}

/// Receives what is there: how many bytes, 0 at the end, `None` if there is nothing yet.
///
/// # Errors
///
/// If the connection is broken.
#[inline]
pub fn receive(fd: impl AsFd, into: &mut [u8]) -> Result<Option<usize>, Failure> {
    loop {
        match net::recv(&fd, &mut *into, RecvFlags::empty()) {
            Ok((n, _)) => return Ok(Some(n)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(Failure::of_system("cannot receive", error)),
        }
    }
}
