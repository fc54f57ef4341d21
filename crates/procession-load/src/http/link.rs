//! HTTP/1 over one connection: one request at a time, answered before the next one is sent.

use super::h1::{Ignore, Parsed, Parser};
use super::request::encode;
use super::url::Url;
use crate::drive::{Ended, Protocol, Request, Turn};
use crate::net::{Endpoint, Failure, Ready, Stream};
use crate::now_ns;
use crate::plan::{Dns, HttpTarget};
use crate::record::Recorder;
use crate::result::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};

/// What is received is looked at here, and kept only if a response's head is not complete.
const BUFFER_BYTES: usize = 64 * 1024;

/// HTTP/1 requests that were prepared.
#[derive(Clone)]
pub(crate) struct Http1 {
    requests: Vec<Request>,
    bytes: Vec<Vec<u8>>,
    bodiless: Vec<bool>,
    endpoints: Vec<Endpoint>,
    keep_alive: bool,
    dns: Dns,
    buffer: Box<[u8]>,
}

/// One connection.
pub(crate) struct Link {
    stream: Stream,
    endpoint: u32,
    address: usize,
    /// The request in flight.
    request: Option<u32>,
    sent_bytes: usize,
    written_ns: u64,
    first_byte_ns: u64,
    received_bytes: u64,
    parser: Parser,
    /// The beginning of a head whose end has not come yet.
    held: Vec<u8>,
}

/// The servers that the requests of a target go to, and which of them each goes to.
pub(crate) fn endpoints(target: &HttpTarget) -> Result<(Vec<Endpoint>, Vec<u32>), Failure> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    let mut of_request = Vec::new();
    for request in &target.requests {
        let url = Url::parse(&request.url).map_err(|why| Failure::new(ErrorKind::Network, why))?;
        let endpoint = if let Some(path) = &target.unix_socket {
            Endpoint::unix(path.clone())
        } else {
            let (host, port) = match &target.connect_to {
                Some(address) => split_address(address)?,
                None => (url.host, url.port),
            };
            match endpoints
                .iter()
                .find(|known| known.host == host && known.port == port)
            {
                Some(known) => known.clone(),
                None => Endpoint::resolve(&host, port)?,
            }
        };
        let number = endpoints.iter().position(|known| *known == endpoint);
        of_request.push(number.unwrap_or(endpoints.len()) as u32);
        if number.is_none() {
            endpoints.push(endpoint);
        }
    }
    Ok((endpoints, of_request))
}

/// `HOST:PORT` in its parts, without the brackets of an IPv6 address.
pub(crate) fn split_address(address: &str) -> Result<(String, u16), Failure> {
    address
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?)))
        .ok_or_else(|| {
            Failure::new(
                ErrorKind::Network,
                format!("{address:?} is not an address: write it as HOST:PORT"),
            )
        })
}

impl Http1 {
    pub(crate) fn new(target: &HttpTarget) -> Result<Http1, Failure> {
        let (endpoints, of_request) = endpoints(target)?;
        let (mut requests, mut bytes) = (Vec::new(), Vec::new());
        for (request, &endpoint) in target.requests.iter().zip(&of_request) {
            let url = Url::parse(&request.url).map_err(|why| Failure::new(ErrorKind::Network, why))?;
            let encoded = encode(request, &url, target.keep_alive);
            requests.push(Request {
                name: request.name.clone(),
                weight: request.weight,
                endpoint,
                bytes: encoded.len() as u64,
            });
            bytes.push(encoded);
        }
        Ok(Http1 {
            requests,
            bytes,
            bodiless: target
                .requests
                .iter()
                .map(|request| request.method == "HEAD")
                .collect(),
            endpoints,
            keep_alive: target.keep_alive,
            dns: target.dns,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
        })
    }

    /// Sends what there is room for.
    #[inline]
    fn write(&self, link: &mut Link, now: u64) -> Result<(), Failure> {
        let Some(request) = link.request else {
            return Ok(());
        };
        let bytes = &self.bytes[request as usize];
        while link.sent_bytes < bytes.len() {
            match link.stream.send(&bytes[link.sent_bytes..])? {
                0 => return Ok(()),
                n => link.sent_bytes += n,
            }
        }
        link.written_ns = now;
        Ok(())
    }

    /// Takes what has come in: the response that it completes, if it does.
    #[inline]
    fn take(&self, link: &mut Link, n: usize, now: u64) -> Result<Option<Ended>, Failure> {
        let request = link.request.unwrap_or(0) as usize;
        if link.first_byte_ns == 0 {
            link.first_byte_ns = now;
        }
        link.received_bytes += n as u64;
        let new = &self.buffer[..n];
        let (parsed, given) = if link.held.is_empty() {
            (link.parser.feed(new, &mut Ignore), new.len())
        } else {
            link.held.extend_from_slice(new);
            (link.parser.feed(&link.held, &mut Ignore), link.held.len())
        };
        match parsed.map_err(|why| Failure::new(ErrorKind::Protocol, why))? {
            Parsed::Partial(used) => {
                if link.held.is_empty() {
                    link.held.extend_from_slice(&new[used..]);
                } else {
                    link.held.drain(..used);
                }
                Ok(None)
            }
            Parsed::Complete(used) => {
                link.held = Vec::new();
                let status = link.parser.status();
                let failure = if used < given {
                    Some(Failure::new(
                        ErrorKind::Protocol,
                        format!("{} bytes follow a response that is complete", given - used),
                    ))
                } else {
                    status_failure(status, &self.requests[request].name)
                };
                Ok(Some(self.complete(link, now, failure)))
            }
        }
    }

    #[inline]
    fn complete(&self, link: &mut Link, now: u64, failure: Option<Failure>) -> Ended {
        link.request = None;
        Ended {
            stream: 0,
            written_ns: link.written_ns,
            first_byte_ns: link.first_byte_ns,
            ended_ns: now,
            bytes_received: link.received_bytes,
            status: link.parser.status(),
            failure,
        }
    }
}

/// What a status means.
#[inline]
pub(crate) fn status_failure(status: u16, name: &str) -> Option<Failure> {
    if status < 400 {
        return None;
    }
    let kind = if status < 500 {
        ErrorKind::Status4xx
    } else {
        ErrorKind::Status5xx
    };
    Some(Failure::new(
        kind,
        format!("{name} was answered with status {status}"),
    ))
}

impl Protocol for Http1 {
    type Link = Link;

    fn endpoints(&self) -> u32 {
        self.endpoints.len() as u32
    }

    #[inline]
    fn requests(&self) -> &[Request] {
        &self.requests
    }

    fn open(&mut self, endpoint: u32, now_ns: u64, _: &mut Recorder) -> Result<Link, Failure> {
        let server = &mut self.endpoints[endpoint as usize];
        let mut dns_ns = None;
        if self.dns == Dns::PerConnection {
            server.look_up()?;
            dns_ns = Some(crate::now_ns().saturating_sub(now_ns));
        }
        Ok(Link {
            stream: Stream::open(server, !self.keep_alive, dns_ns, now_ns)?,
            endpoint,
            address: server.chosen(),
            request: None,
            sent_bytes: 0,
            written_ns: 0,
            first_byte_ns: 0,
            received_bytes: 0,
            parser: Parser::default(),
            held: Vec::new(),
        })
    }

    fn fd<'a>(&self, link: &'a Link) -> BorrowedFd<'a> {
        link.stream.as_fd()
    }

    #[inline]
    fn begin(
        &mut self,
        link: &mut Link,
        _: u32,
        request: u32,
        now_ns: u64,
        _: &mut Recorder,
    ) -> Result<(), Failure> {
        link.request = Some(request);
        link.parser.begin(self.bodiless[request as usize]);
        (
            link.sent_bytes,
            link.written_ns,
            link.first_byte_ns,
            link.received_bytes,
        ) = (0, 0, 0, 0);
        if link.stream.is_open() {
            self.write(link, now_ns)?;
        }
        Ok(())
    }

    #[inline]
    fn ready(&mut self, link: &mut Link, ready: Ready, turn: &mut Turn<'_>) -> Result<bool, Failure> {
        if !link.stream.is_open() {
            turn.now_ns = now_ns();
            let server = &mut self.endpoints[link.endpoint as usize];
            if !link.stream.advance(server, turn.now_ns, turn.recorder)? {
                return Ok(true);
            }
            self.write(link, turn.now_ns)?;
        } else if ready.writable() && link.written_ns == 0 {
            self.write(link, now_ns())?;
        }
        if !ready.readable() {
            return Ok(true);
        }
        loop {
            let n = match link.stream.receive(&mut self.buffer)? {
                None => return Ok(true),
                Some(0) => return self.closed(link, turn),
                Some(n) => n,
            };
            turn.now_ns = now_ns();
            if link.request.is_none() {
                turn.recorder.error(
                    ErrorKind::Protocol,
                    "the server sent something that was not asked for",
                );
                return Ok(false);
            }
            if let Some(ended) = self.take(link, n, turn.now_ns)? {
                // A server that answers before it has read everything does not read on.
                let again = link.parser.keep_alive()
                    && self.keep_alive
                    && link.written_ns > 0
                    && !ready.closing()
                    && !matches!(&ended.failure, Some(failure) if failure.kind == ErrorKind::Protocol);
                turn.ended.push(ended);
                return Ok(again);
            }
            if n < self.buffer.len() && !ready.closing() {
                return Ok(true);
            }
        }
    }

    fn is_connected(&self, link: &Link) -> bool {
        link.stream.is_open()
    }

    fn try_next(&mut self, link: &Link) -> bool {
        self.endpoints[link.endpoint as usize].try_next(link.address)
    }

    fn look_at_failed_connect(&mut self, link: &mut Link, recorder: &mut Recorder) {
        link.stream.note_connect_retransmits(recorder);
    }

    fn look(&mut self, link: &mut Link, recorder: &mut Recorder) {
        link.stream.look(recorder);
    }
}

impl Http1 {
    /// The server has closed the connection.
    #[cold]
    fn closed(&self, link: &mut Link, turn: &mut Turn<'_>) -> Result<bool, Failure> {
        turn.now_ns = now_ns();
        let Some(request) = link.request else {
            return Ok(false);
        };
        if link.parser.close() {
            let failure = status_failure(link.parser.status(), &self.requests[request as usize].name);
            let ended = self.complete(link, turn.now_ns, failure);
            turn.ended.push(ended);
            return Ok(false);
        }
        Err(Failure::new(
            ErrorKind::Reset,
            if link.received_bytes == 0 {
                "the server closed the connection instead of answering"
            } else {
                "the server closed the connection in the middle of its response"
            },
        ))
    }
}
