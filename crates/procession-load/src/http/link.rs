//! HTTP/1 over one connection: one request at a time, answered before the next one is sent.

use super::follow::{next_request, with_cookies, Jar, Look};
use super::h1::{Ignore, Parsed, Parser};
use super::request::encode;
use super::url::Url;
use crate::drive::{Ended, Protocol, Request, Turn};
use crate::net::{Endpoint, Failure, Ready, Received, Stream, TlsClient, MOST_AT_ONCE_BYTES};
use crate::now_ns;
use crate::plan::{Dns, HttpRequest, HttpTarget};
use crate::record::Recorder;
use crate::result::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};

/// What is received is looked at here, and kept only if a response's head is not complete.
const BUFFER_BYTES: usize = 64 * 1024;

/// HTTP/1 requests that were prepared.
#[derive(Clone)]
pub(crate) struct Http1 {
    requests: Vec<Request>,
    /// What they were made from, if each has to be made anew: see [`Own`].
    originals: Vec<HttpRequest>,
    redirects: u32,
    cookies: bool,
    /// By the numbers of links.
    jars: Vec<Jar>,
    bytes: Vec<Vec<u8>>,
    bodiless: Vec<bool>,
    servers: Vec<Server>,
    keep_alive: bool,
    dns: Dns,
    buffer: Box<[u8]>,
    /// What comes in secured is put here first.
    scratch: Box<[u8]>,
}

/// One connection.
pub(crate) struct Link {
    stream: Stream,
    endpoint: u32,
    address: usize,
    number: u32,
    /// The request in flight.
    request: Option<u32>,
    own: Option<Box<Own>>,
    sent_bytes: usize,
    written_ns: u64,
    first_byte_ns: u64,
    received_bytes: u64,
    parser: Parser,
    /// The beginning of a head whose end has not come yet.
    held: Vec<u8>,
}

/// A request that was made anew, for its cookies or because a response led there.
struct Own {
    request: HttpRequest,
    bytes: Vec<u8>,
    look: Look,
    redirects_left: u32,
    /// Which of the prepared requests it comes from.
    number: u32,
}

/// A server, and how to speak to it.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub endpoint: Endpoint,
    pub tls: Option<TlsClient>,
}

/// The servers that the requests of a target go to, and which of them each goes to.
pub(crate) fn servers(
    target: &HttpTarget,
    protocol: Option<&[u8]>,
) -> Result<(Vec<Server>, Vec<u32>), Failure> {
    let mut servers: Vec<Server> = Vec::new();
    let mut known: Vec<(Endpoint, bool, String)> = Vec::new();
    let mut of_request = Vec::new();
    for request in &target.requests {
        let url = Url::parse(&request.url).map_err(|why| Failure::new(ErrorKind::Network, why))?;
        let endpoint = if let Some(path) = &target.unix_socket {
            Endpoint::unix(path.clone())
        } else {
            let (host, port) = match &target.connect_to {
                Some(address) => split_address(address)?,
                None => (url.host.clone(), url.port),
            };
            match known
                .iter()
                .find(|(known, _, _)| known.host == host && known.port == port)
            {
                Some((known, _, _)) => known.clone(),
                None => Endpoint::resolve(&host, port)?,
            }
        };
        let key = (endpoint, url.tls, if url.tls { url.host } else { String::new() });
        let number = known.iter().position(|known| *known == key);
        of_request.push(number.unwrap_or(known.len()) as u32);
        if number.is_none() {
            let tls = url
                .tls
                .then(|| TlsClient::new(&target.tls, &key.2, protocol))
                .transpose()
                .map_err(|why| Failure::new(ErrorKind::Tls, why))?;
            servers.push(Server {
                endpoint: key.0.clone(),
                tls,
            });
            known.push(key);
        }
    }
    Ok((servers, of_request))
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
        let (servers, of_request) = servers(target, None)?;
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
            originals: if target.redirects > 0 || target.cookies {
                target.requests.clone()
            } else {
                Vec::new()
            },
            redirects: target.redirects,
            cookies: target.cookies,
            jars: Vec::new(),
            bytes,
            bodiless: target
                .requests
                .iter()
                .map(|request| request.method == "HEAD")
                .collect(),
            scratch: vec![
                0;
                if servers.iter().any(|server| server.tls.is_some()) {
                    BUFFER_BYTES
                } else {
                    0
                }
            ]
            .into_boxed_slice(),
            servers,
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
        let bytes = match &link.own {
            None => &self.bytes[request as usize],
            Some(own) => &own.bytes,
        };
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
        let held = !link.held.is_empty();
        if held {
            link.held.extend_from_slice(new);
        }
        let bytes = if held { &link.held[..] } else { new };
        let given = bytes.len();
        let parsed = match &mut link.own {
            None => link.parser.feed(bytes, &mut Ignore),
            Some(own) => link.parser.feed(bytes, &mut own.look),
        };
        match parsed.map_err(|why| Failure::new(ErrorKind::Protocol, why))? {
            Parsed::Partial(used) => {
                if held {
                    link.held.drain(..used);
                } else {
                    link.held.extend_from_slice(&new[used..]);
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
            is_noted: link.stream.has_noted_arrival(),
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
        self.servers.len() as u32
    }

    #[inline]
    fn requests(&self) -> &[Request] {
        &self.requests
    }

    fn open(&mut self, number: u32, endpoint: u32, now_ns: u64, _: &mut Recorder) -> Result<Link, Failure> {
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
            number,
            request: None,
            own: None,
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
        if !self.originals.is_empty() {
            let original = self.originals[request as usize].clone();
            self.make(link, original, request, self.redirects)?;
        }
        self.send(link, request, self.bodiless[request as usize], now_ns)
    }

    #[inline]
    fn ready(&mut self, link: &mut Link, ready: Ready, turn: &mut Turn<'_>) -> Result<bool, Failure> {
        if !link.stream.is_open() {
            let server = &mut self.servers[link.endpoint as usize];
            if !link
                .stream
                .advance(&mut server.endpoint, &mut self.scratch, ready, turn.recorder)?
            {
                return Ok(true);
            }
            turn.now_ns = now_ns();
            self.write(link, turn.now_ns)?;
        } else if ready.writable() {
            link.stream.flush()?;
            if link.written_ns == 0 {
                self.write(link, now_ns())?;
            }
        }
        if !ready.readable() {
            return Ok(true);
        }
        let mut at_once = 0;
        loop {
            let (n, more) = match link.stream.receive(&mut self.buffer, &mut self.scratch)? {
                Received::Nothing => return Ok(true),
                Received::End => return self.closed(link, turn),
                Received::Bytes(n, more) => (n, more),
            };
            turn.now_ns = now_ns();
            let arrived_ns = link.stream.arrived_ns(link.written_ns, turn.now_ns);
            if link.request.is_none() {
                turn.recorder.error(
                    ErrorKind::Protocol,
                    "the server sent something that was not asked for",
                );
                return Ok(false);
            }
            if let Some(mut ended) = self.take(link, n, arrived_ns)? {
                if link.own.is_some() {
                    match self.follow(link, &ended, turn.now_ns) {
                        Ok(true) => return Ok(true),
                        Ok(false) => {}
                        Err(failure) => ended.failure = Some(failure),
                    }
                }
                // A server that answers before it has read everything does not read on.
                let again = link.parser.keep_alive()
                    && self.keep_alive
                    && link.written_ns > 0
                    && !ready.closing()
                    && !matches!(&ended.failure, Some(failure) if failure.kind == ErrorKind::Protocol);
                turn.ended.push(ended);
                return Ok(again);
            }
            if !more && !ready.closing() {
                return Ok(true);
            }
            at_once += n;
            if at_once >= MOST_AT_ONCE_BYTES {
                turn.has_unread = true;
                return Ok(true);
            }
        }
    }

    fn note_arrivals(&self, link: &mut Link) {
        link.stream.note_arrivals();
    }

    #[inline]
    fn can_wait(&self, link: &Link) -> bool {
        // A response of which a part has come may be a long one, which goes on when there is room for it.
        let is_sent = link.written_ns > 0 && !link.stream.has_unsent();
        let is_unanswered = is_sent && link.received_bytes == 0 && link.own.is_none();
        link.stream.has_noted_arrival() && (link.request.is_none() || is_unanswered)
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

impl Http1 {
    #[inline]
    fn send(&self, link: &mut Link, request: u32, bodiless: bool, now_ns: u64) -> Result<(), Failure> {
        link.request = Some(request);
        link.parser.begin(bodiless);
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

    /// Makes a request as it is sent this time.
    #[cold]
    fn make(
        &mut self,
        link: &mut Link,
        request: HttpRequest,
        number: u32,
        redirects_left: u32,
    ) -> Result<(), Failure> {
        let jar = link.number as usize;
        if self.jars.len() <= jar {
            self.jars.resize_with(jar + 1, Jar::default);
        }
        let bytes = with_cookies(&request, &self.jars[jar], self.keep_alive)?;
        link.own = Some(Box::new(Own {
            request,
            bytes,
            look: Look::default(),
            redirects_left,
            number,
        }));
        Ok(())
    }

    /// Takes the cookies of a response, and goes where it leads, if it does: whether another request was sent for it.
    #[cold]
    fn follow(&mut self, link: &mut Link, ended: &Ended, now: u64) -> Result<bool, Failure> {
        let Some(own) = link.own.take() else {
            return Ok(false);
        };
        if self.cookies {
            let jar = &mut self.jars[link.number as usize];
            own.look.cookies.iter().for_each(|cookie| jar.take(cookie));
        }
        if own.redirects_left == 0 || ended.failure.is_some() {
            return Ok(false);
        }
        let Some(next) = next_request(&own.request, ended.status, &own.look)? else {
            return Ok(false);
        };
        if !link.parser.keep_alive() || !self.keep_alive {
            return Err(Failure::new(
                ErrorKind::Assertion,
                "a redirect cannot be followed on a connection that ends with the response",
            ));
        }
        let bodiless = next.method == "HEAD";
        self.make(link, next, own.number, own.redirects_left - 1)?;
        self.send(link, own.number, bodiless, now)?;
        Ok(true)
    }

    /// The server has closed the connection.
    #[cold]
    fn closed(&self, link: &mut Link, turn: &mut Turn<'_>) -> Result<bool, Failure> {
        turn.now_ns = now_ns();
        let Some(request) = link.request else {
            return Ok(false);
        };
        if link.parser.close() {
            let failure = status_failure(link.parser.status(), &self.requests[request as usize].name);
            let ended_ns = link.stream.arrived_ns(link.written_ns, turn.now_ns);
            let ended = self.complete(link, ended_ns, failure);
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
