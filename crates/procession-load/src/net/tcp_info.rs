use std::os::fd::{AsFd, AsRawFd};

/// What the kernel knows of a TCP connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// Smoothed round trip in nanoseconds.
    pub round_trip_ns: u64,
    /// Segments that were sent again so far.
    pub retransmits: u64,
}

/// Asks the kernel about a connection; `None` if it is none of TCP.
pub fn tcp_info(fd: impl AsFd) -> Option<TcpInfo> {
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: `info` is writable for `length` bytes, and the kernel writes no more than that; zeroed bytes are a valid
    // `tcp_info`.
    let info = unsafe {
        let answer = libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        );
        if answer != 0 {
            return None;
        }
        info.assume_init()
    };
    Some(TcpInfo {
        round_trip_ns: u64::from(info.tcpi_rtt) * 1000,
        retransmits: u64::from(info.tcpi_total_retrans),
    })
}
