use super::{Address, Failure};
use procession::os::time::{monotonic_ns, realtime_ns};
use rustix::io::Errno;
use rustix::net::{
    self, sockopt, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How far the two clocks were apart when somebody last looked: a difference that stays the same, as both are steered alike,
/// until somebody sets the clock.
static APART_NS: AtomicU64 = AtomicU64::new(0);
/// What may pass between the reading of one clock and of the other.
const MOST_APART_CHANGE_NS: u64 = 100_000;
/// Room for what the kernel says beside the bytes, in words: a header and the moment, and some more.
const CONTROL_WORDS: usize = 16;

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

/// Asks the kernel to note when packets arrive, which [`receive_noted`] gives; whether it does so is seen by that alone.
pub fn note_arrivals(fd: impl AsFd) {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an integer that lives through the call. A kernel that refuses notes nothing.
    unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        );
    }
}

/// As [`receive`], and the moment on the monotonic clock at which the last of these bytes arrived at this machine, if the
/// kernel has [noted](note_arrivals) it.
///
/// # Errors
///
/// If the connection is broken.
#[inline]
pub fn receive_noted(fd: impl AsFd, into: &mut [u8]) -> Result<Option<(usize, Option<u64>)>, Failure> {
    let mut part = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    let mut control = [0_u64; CONTROL_WORDS];
    loop {
        // SAFETY: zeroed bytes are a valid message without anything in it.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        // SAFETY: the message names two buffers that are writable for the lengths it gives, for as long as the call lasts.
        let count = unsafe { libc::recvmsg(fd.as_fd().as_raw_fd(), &raw mut message, 0) };
        if count >= 0 {
            // SAFETY: the kernel has filled the message.
            return Ok(Some((count as usize, unsafe { arrival(&message) })));
        }
        match Errno::from_io_error(&std::io::Error::last_os_error()) {
            Some(Errno::AGAIN) => return Ok(None),
            Some(Errno::INTR) => {}
            Some(error) => return Err(Failure::of_system("cannot receive", error)),
            None => return Err(Failure::of_system("cannot receive", Errno::IO)),
        }
    }
}

/// The moment in a message's control data. The kernel tells it by the clock that people set; if that was set since the last
/// time, nobody knows which moment is meant.
///
/// # Safety
///
/// The kernel has filled the message, whose buffers are still there.
unsafe fn arrival(message: &libc::msghdr) -> Option<u64> {
    // SAFETY: see above; the kernel leaves whole headers only, and the length says how much follows each.
    let noted = unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        loop {
            let this = header.as_ref()?;
            if (this.cmsg_level, this.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) {
                break libc::CMSG_DATA(header).cast::<libc::timespec>().read_unaligned();
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    };
    let noted_ns = (noted.tv_sec as u64).saturating_mul(1_000_000_000) + noted.tv_nsec as u64;
    let apart_ns = realtime_ns().wrapping_sub(monotonic_ns());
    let was_apart_ns = APART_NS.swap(apart_ns, Ordering::Relaxed);
    let is_steady = apart_ns.abs_diff(was_apart_ns) <= MOST_APART_CHANGE_NS;
    is_steady.then(|| noted_ns.wrapping_sub(apart_ns))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let writer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (writer, listener.accept().unwrap().0)
    }

    /// The first packets may be faster than the kernel's decision to note when they come.
    fn until_noted(writer: &mut TcpStream, reader: &TcpStream, before_reading: Duration) -> (u64, u64) {
        let mut buffer = [0; 8];
        for _ in 0..1_000 {
            let sent_ns = monotonic_ns();
            writer.write_all(b"x").unwrap();
            std::thread::sleep(before_reading);
            let (count, noted_ns) = receive_noted(reader, &mut buffer).unwrap().unwrap();
            assert_eq!(count, 1);
            if let Some(noted_ns) = noted_ns {
                return (sent_ns, noted_ns);
            }
        }
        panic!("the kernel notes nothing");
    }

    #[test]
    fn what_lies_there_for_a_while_has_arrived_before() {
        let (mut writer, reader) = pair();
        note_arrivals(&reader);
        let wait = Duration::from_millis(20);
        let (sent_ns, noted_ns) = until_noted(&mut writer, &reader, wait);
        let now_ns = monotonic_ns();
        // The two clocks are read one after the other.
        let slack_ns = 1_000_000;
        assert!(noted_ns + slack_ns >= sent_ns, "{sent_ns} {noted_ns}");
        assert!(
            noted_ns + wait.as_nanos() as u64 <= now_ns + slack_ns,
            "{noted_ns} {now_ns}"
        );
    }

    #[test]
    fn who_did_not_ask_is_told_nothing() {
        let (mut writer, reader) = pair();
        writer.write_all(b"hello").unwrap();
        reader.set_nonblocking(false).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(receive_noted(&reader, &mut buffer).unwrap(), Some((5, None)));
        reader.set_nonblocking(true).unwrap();
        assert_eq!(receive_noted(&reader, &mut buffer).unwrap(), None);
        drop(writer);
        reader.set_nonblocking(false).unwrap();
        assert_eq!(receive_noted(&reader, &mut buffer).unwrap(), Some((0, None)));
    }
}
