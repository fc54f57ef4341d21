//! HTTP/2: what goes over one connection ([`Connection`]), and how tests of URLs use it.
//!
//! What one turn of the loop has to send goes out together.

mod connection;
mod frame;
mod hpack;
mod huffman;

use super::h1::Sink;
use super::link::{servers, status_failure, Server};
use super::request::Outgoing;
use super::url::Url;
use crate::drive::{Ended, Protocol, Request, Turn};
use crate::net::{Failure, Ready, Received, Stream, MOST_AT_ONCE_BYTES};
use crate::now_ns;
use crate::plan::{Dns, HttpTarget};
use crate::record::Recorder;
use crate::result::ErrorKind;
pub(crate) use connection::{Connection, Exchange, Over};
pub(crate) use hpack::{encode, literal};
use httparse::Header;
use std::os::fd::{AsFd, BorrowedFd};

/// What TLS calls it.
pub(crate) const ALPN: &[u8] = b"h2";
const BUFFER_BYTES: usize = 64 * 1024;

/// Requests that were prepared.
#[derive(Clone)]
pub(crate) struct Http2 {
    requests: Vec<Request>,
    prepared: Vec<Prepared>,
    servers: Vec<Server>,
    streams: u32,
    keep_alive: bool,
    dns: Dns,
    buffer: Box<[u8]>,
    scratch: Box<[u8]>,
}

/// A header block, and behind it the body.
#[derive(Clone)]
struct Prepared {
    out: Outgoing,
    head_bytes: usize,
}

/// One connection.
pub(crate) struct Link {
    stream: Stream,
    endpoint: u32,
    address: usize,
    connection: Connection<Slot>,
    over: Vec<Over<Slot>>,
}

/// Which of a link's requests it is.
struct Slot {
    stream: u32,
    request: u32,
}

impl Sink for Slot {
    const WANTS_HEADERS: bool = false;

    fn head(&mut self, _: u16, _: &[Header<'_>]) {}
    fn body(&mut self, _: &[u8]) {}
}

/// How many bytes a request is whose header block and body these are.
pub(crate) fn bytes_of(out: &Outgoing) -> u64 {
    (frame::HEAD_BYTES + out.len()) as u64
}

/// The server and we have agreed on TLS; is it HTTP/2 that we have agreed on?
pub(crate) fn check_agreement(stream: &Stream) -> Result<(), Failure> {
    if stream.protocol() == Some(ALPN) {
        return Ok(());
    }
    Err(Failure::new(ErrorKind::Tls, "the server does not offer HTTP/2"))
}

impl Http2 {
    pub(crate) fn new(target: &HttpTarget) -> Result<Http2, Failure> {
        let (servers, of_request) = servers(target, Some(ALPN))?;
        let (mut requests, mut prepared) = (Vec::new(), Vec::new());
        for (request, &endpoint) in target.requests.iter().zip(&of_request) {
            let url = Url::parse(&request.url).map_err(|why| Failure::new(ErrorKind::Network, why))?;
            let mut bytes = encode(request, &url);
            let head_bytes = bytes.len();
            bytes.extend_from_slice(&request.body.0);
            let out = Outgoing::Shared(bytes.into());
            requests.push(Request {
                name: request.name.clone(),
                weight: request.weight,
                endpoint,
                bytes: bytes_of(&out),
            });
            prepared.push(Prepared { out, head_bytes });
        }
        let secured = servers.iter().any(|server| server.tls.is_some());
        Ok(Http2 {
            requests,
            prepared,
            servers,
            streams: target.streams,
            keep_alive: target.keep_alive,
            dns: target.dns,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            scratch: vec![0; if secured { BUFFER_BYTES } else { 0 }].into_boxed_slice(),
        })
    }

    /// Tells of the requests that have ended.
    /// Tells of requests that are over, since this moment.
    fn tell(&self, over: &mut Vec<Over<Slot>>, (ended_ns, is_noted): (u64, bool), turn: &mut Turn<'_>) {
        for (exchange, failure) in over.drain(..) {
            let Slot { stream, request } = exchange.owner;
            turn.ended.push(Ended {
                stream,
                written_ns: exchange.written_ns,
                first_byte_ns: exchange.first_byte_ns,
                ended_ns,
                is_noted,
                bytes_received: exchange.received_bytes,
                status: exchange.status,
                failure: failure
                    .or_else(|| status_failure(exchange.status, &self.requests[request as usize].name)),
            });
        }
    }
}

impl Protocol for Http2 {
    type Link = Link;
    const FLUSHES: bool = true;

    fn streams(&self) -> u32 {
        self.streams
    }

    fn endpoints(&self) -> u32 {
        self.servers.len() as u32
    }

    fn requests(&self) -> &[Request] {
        &self.requests
    }

    fn open(&mut self, _: u32, endpoint: u32, now_ns: u64, _: &mut Recorder) -> Result<Link, Failure> {
        let server = &mut self.servers[endpoint as usize];
        let mut dns_ns = None;
        if self.dns == Dns::PerConnection {
            server.endpoint.look_up()?;
            dns_ns = Some(crate::now_ns().saturating_sub(now_ns));
        }
        let stream = Stream::open(
            &server.endpoint,
            server.tls.as_ref(),
            !self.keep_alive,
            dns_ns,
            now_ns,
        )?;
        Ok(Link {
            stream,
            endpoint,
            address: server.endpoint.chosen(),
            connection: Connection::new(),
            over: Vec::new(),
        })
    }

    fn fd<'a>(&self, link: &'a Link) -> BorrowedFd<'a> {
        link.stream.as_fd()
    }

    fn begin(
        &mut self,
        link: &mut Link,
        stream: u32,
        request: u32,
        now_ns: u64,
        _: &mut Recorder,
    ) -> Result<(), Failure> {
        let Prepared { out, head_bytes } = self.prepared[request as usize].clone();
        let exchange = Exchange::new(Slot { stream, request }, out, head_bytes);
        link.connection.begin(exchange, now_ns);
        Ok(())
    }

    fn flush(&mut self, link: &mut Link) -> Result<(), Failure> {
        link.connection.flush(&mut link.stream)
    }

    fn ready(&mut self, link: &mut Link, ready: Ready, turn: &mut Turn<'_>) -> Result<bool, Failure> {
        if !link.connection.is_open() {
            let server = &mut self.servers[link.endpoint as usize];
            if !link
                .stream
                .advance(&mut server.endpoint, &mut self.scratch, ready, turn.recorder)?
            {
                return Ok(true);
            }
            if server.tls.is_some() {
                check_agreement(&link.stream)?;
            }
            turn.now_ns = now_ns();
            link.connection.open(turn.now_ns);
        }
        if ready.readable() {
            let mut at_once = 0;
            loop {
                let (n, more) = match link.stream.receive(&mut self.buffer, &mut self.scratch)? {
                    Received::Nothing => break,
                    Received::End if link.connection.has_no_streams() => return Ok(false),
                    Received::End => return Err(link.connection.cut()),
                    Received::Bytes(n, more) => (n, more),
                };
                turn.now_ns = now_ns();
                let arrived_ns = link.stream.arrived_ns(0, turn.now_ns);
                let taken = link
                    .connection
                    .take(&self.buffer[..n], arrived_ns, &mut link.over);
                let ended = (arrived_ns, link.stream.has_noted_arrival());
                self.tell(&mut link.over, ended, turn);
                taken?;
                if !more && !ready.closing() {
                    break;
                }
                at_once += n;
                if at_once >= MOST_AT_ONCE_BYTES {
                    turn.has_unread = true;
                    break;
                }
            }
        }
        let is_used_up = link.connection.is_draining() || (!self.keep_alive && !turn.ended.is_empty());
        Ok(!(is_used_up && link.connection.has_no_streams()))
    }

    fn abandon(&mut self, link: &mut Link, stream: u32) -> bool {
        link.connection.cancel(now_ns(), |slot| slot.stream == stream);
        link.connection.is_open() || !link.connection.is_idle()
    }

    fn note_arrivals(&self, link: &mut Link) {
        link.stream.note_arrivals();
    }

    fn is_connected(&self, link: &Link) -> bool {
        link.stream.is_connected()
    }

    fn try_next(&mut self, link: &Link) -> bool {
        self.servers[link.endpoint as usize]
            .endpoint
            .try_next(link.address)
    }

    fn look_at_failed_connect(&mut self, link: &mut Link, recorder: &mut Recorder) {
        link.stream.note_connect_retransmits(recorder);
    }

    fn look(&mut self, link: &mut Link, recorder: &mut Recorder) {
        link.stream.look(recorder);
    }
}
