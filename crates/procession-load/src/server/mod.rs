//! A small server on loopback: what a load test without a target tests, and what tests of the load tester are measured by.
//!
//! It is one process with one event loop, answers as fast as it can, and misbehaves exactly as it is told to, counting what
//! it does.

mod counters;
mod http;

use crate::{Error, Result};
use counters::SharedCounters;
use procession::Process;
use rustix::net::{self, sockopt, AddressFamily, SocketFlags, SocketType};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// What the server does beside answering.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServerOptions {
    /// How long it waits before each answer.
    pub delay: Duration,
    /// How long after the first request it stands still, and for how long.
    pub stall: Option<(Duration, Duration)>,
    /// How many bytes the body of a good answer has. `None`: two.
    pub body_bytes: Option<usize>,
    /// How many of each hundred requests it spoils, and how.
    pub spoil: Spoil,
    /// Closes the connection after each answer.
    pub close: bool,
}

/// How many of each hundred requests are spoilt. The sum is a hundred at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spoil {
    /// Answered with status 500.
    pub status_500: u8,
    /// The connection is reset.
    pub reset: u8,
    /// Never answered.
    pub never: u8,
    /// Answered with half a response, after which the connection is closed.
    pub half: u8,
    /// Answered with something that is not HTTP.
    pub malformed: u8,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// Answered well.
    Good = 0,
    /// See [`Spoil::status_500`].
    Status500 = 1,
    /// See [`Spoil::reset`].
    Reset = 2,
    /// See [`Spoil::never`].
    Never = 3,
    /// See [`Spoil::half`].
    Half = 4,
    /// See [`Spoil::malformed`].
    Malformed = 5,
}

/// A server that runs until this is dropped, or until the process that started it ends, however it ends.
#[derive(Debug)]
pub struct LoopbackServer {
    process: Process,
    address: SocketAddr,
    counters: Arc<SharedCounters>,
}

impl LoopbackServer {
    /// Starts one, in a process that is forked from this one.
    ///
    /// # Errors
    ///
    /// If the system has no port or process left, or this process has several threads.
    pub fn start(options: ServerOptions) -> Result<LoopbackServer> {
        let (listener, address) = listen().map_err(Error::os("listen on loopback"))?;
        let counters = Arc::new(SharedCounters::new().map_err(Error::os("get shared memory"))?);
        let shared = Arc::clone(&counters);
        let process = Process::builder()
            .name("LoopbackServer")
            .daemon(true)
            .target(move || {
                let _ = procession::os::process::ignore_signal(procession::os::process::SIGINT);
                match http::serve(&listener, &options, &shared) {
                    Ok(()) => 0,
                    Err(_) => 1,
                }
            });
        process.start()?;
        Ok(LoopbackServer {
            process,
            address,
            counters,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its root.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// How many requests it has served in this way.
    pub fn served(&self, how: Served) -> u64 {
        self.counters.get(how as usize)
    }

    /// The number of its process.
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }
}

impl Drop for LoopbackServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.join();
    }
}

fn listen() -> std::io::Result<(OwnedFd, SocketAddr)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener = net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&listener, true)?;
    net::bind(&listener, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    net::listen(&listener, 4096)?;
    let address = SocketAddr::try_from(net::getsockname(&listener)?)?;
    Ok((listener, address))
}
