//! HTTP/2 over one connection, with several requests in flight.
//!
//! What is received is never held back: the windows are as large as they can be, as nothing is kept. What one turn of the
//! loop has to send goes out together.

mod frame;
mod hpack;

use super::link::{servers, status_failure, Server};
use super::url::Url;
use crate::drive::{Ended, Protocol, Request, Turn};
use crate::net::{Failure, Ready, Received, Stream};
use crate::now_ns;
use crate::plan::{Dns, HttpTarget};
use crate::record::Recorder;
use crate::result::ErrorKind;
use frame::Head;
use std::os::fd::{AsFd, BorrowedFd};

const BUFFER_BYTES: usize = 64 * 1024;
/// After so many bytes the server is told that it may send as many again.
const WINDOW_STEP: u64 = 1 << 30;
/// Before stream numbers run out, a new connection is made.
const LAST_STREAM: u32 = 1 << 30;

/// Requests that were prepared.
#[derive(Clone)]
pub(crate) struct Http2 {
    requests: Vec<Request>,
    blocks: Vec<Vec<u8>>,
    bodies: Vec<Vec<u8>>,
    servers: Vec<Server>,
    streams: u32,
    keep_alive: bool,
    dns: Dns,
    /// What each connection begins with.
    opening: Vec<u8>,
    buffer: Box<[u8]>,
    scratch: Box<[u8]>,
}

/// A request in flight.
#[derive(Debug)]
struct Active {
    id: u32,
    stream: u32,
    request: u32,
    written_ns: u64,
    first_byte_ns: u64,
    received_bytes: u64,
    status: u16,
    sent_body_bytes: usize,
    window: i64,
}

/// One connection.
pub(crate) struct Link {
    stream: Stream,
    endpoint: u32,
    address: usize,
    opened: bool,
    out: Vec<u8>,
    /// The beginning of a frame whose end has not come yet.
    held: Vec<u8>,
    next_id: u32,
    active: Vec<Active>,
    /// Requests that wait for the connection, or for the server to allow more of them.
    waiting: Vec<(u32, u32)>,
    most_active: u32,
    /// The server takes no more requests here.
    draining: bool,
    window: i64,
    first_window: i64,
    unreported_bytes: u64,
}

fn breach(what: impl Into<std::borrow::Cow<'static, str>>) -> Failure {
    Failure::new(ErrorKind::Protocol, what)
}

impl Http2 {
    pub(crate) fn new(target: &HttpTarget) -> Result<Http2, Failure> {
        let (servers, of_request) = servers(target, Some(b"h2"))?;
        let (mut requests, mut blocks) = (Vec::new(), Vec::new());
        for (request, &endpoint) in target.requests.iter().zip(&of_request) {
            let url = Url::parse(&request.url).map_err(|why| Failure::new(ErrorKind::Network, why))?;
            let block = hpack::encode(request, &url);
            if block.len() > frame::LARGEST_PAYLOAD {
                let text = format!("the headers of {} do not fit into a frame", request.name);
                return Err(Failure::new(ErrorKind::Network, text));
            }
            requests.push(Request {
                name: request.name.clone(),
                weight: request.weight,
                endpoint,
                bytes: (frame::HEAD_BYTES + block.len() + request.body.0.len()) as u64,
            });
            blocks.push(block);
        }
        let mut settings = Vec::new();
        frame::write_setting(&mut settings, frame::HEADER_TABLE_SIZE, 0);
        frame::write_setting(&mut settings, frame::ENABLE_PUSH, 0);
        frame::write_setting(&mut settings, frame::INITIAL_WINDOW_SIZE, frame::LARGEST_WINDOW);
        let mut opening = frame::PREFACE.to_vec();
        frame::write(&mut opening, frame::SETTINGS, 0, 0, &settings);
        let more = (frame::LARGEST_WINDOW - frame::FIRST_WINDOW).to_be_bytes();
        frame::write(&mut opening, frame::WINDOW_UPDATE, 0, 0, &more);
        let secured = servers.iter().any(|server| server.tls.is_some());
        Ok(Http2 {
            requests,
            blocks,
            bodies: target
                .requests
                .iter()
                .map(|request| request.body.0.clone())
                .collect(),
            servers,
            streams: target.streams,
            keep_alive: target.keep_alive,
            dns: target.dns,
            opening,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            scratch: vec![0; if secured { BUFFER_BYTES } else { 0 }].into_boxed_slice(),
        })
    }

    fn start(&self, link: &mut Link, stream: u32, request: u32, now: u64) {
        let id = link.next_id;
        link.next_id += 2;
        if link.next_id > LAST_STREAM {
            link.draining = true;
        }
        let body = &self.bodies[request as usize];
        let end = if body.is_empty() { frame::END_STREAM } else { 0 };
        let block = &self.blocks[request as usize];
        frame::write(&mut link.out, frame::HEADERS, frame::END_HEADERS | end, id, block);
        link.active.push(Active {
            id,
            stream,
            request,
            written_ns: now,
            first_byte_ns: 0,
            received_bytes: 0,
            status: 0,
            sent_body_bytes: 0,
            window: link.first_window,
        });
        if !body.is_empty() {
            self.send_bodies(link);
        }
    }

    fn start_waiting(&self, link: &mut Link, now: u64) {
        while link.opened
            && !link.draining
            && !link.waiting.is_empty()
            && link.active.len() < link.most_active as usize
        {
            let (stream, request) = link.waiting.remove(0);
            self.start(link, stream, request, now);
        }
    }

    /// Sends as much of the bodies as the server's windows have room for.
    fn send_bodies(&self, link: &mut Link) {
        for active in &mut link.active {
            let body = &self.bodies[active.request as usize];
            while active.sent_body_bytes < body.len() {
                let left = body.len() - active.sent_body_bytes;
                let room = active.window.min(link.window).max(0) as usize;
                let n = left.min(room).min(frame::LARGEST_PAYLOAD);
                if n == 0 {
                    break;
                }
                let part = &body[active.sent_body_bytes..active.sent_body_bytes + n];
                let end = if n == left { frame::END_STREAM } else { 0 };
                frame::write(&mut link.out, frame::DATA, end, active.id, part);
                active.sent_body_bytes += n;
                active.window -= n as i64;
                link.window -= n as i64;
            }
        }
    }

    /// Takes the frames that are complete, and gives the number of bytes that they are.
    fn take(&self, link: &mut Link, bytes: &[u8], turn: &mut Turn<'_>) -> Result<usize, Failure> {
        let mut at = 0;
        while let Some(head) = Head::read(&bytes[at..]) {
            if head.length > frame::LARGEST_PAYLOAD {
                return Err(breach(if link.next_id == 1 || bytes.starts_with(b"HTTP/1") {
                    "the server does not speak HTTP/2".to_owned()
                } else {
                    format!("a frame of {} bytes is longer than we allow", head.length)
                }));
            }
            let begin = at + frame::HEAD_BYTES;
            let Some(payload) = bytes.get(begin..begin + head.length) else {
                break;
            };
            self.frame(link, &head, payload, turn)?;
            at = begin + head.length;
        }
        Ok(at)
    }

    fn frame(
        &self,
        link: &mut Link,
        head: &Head,
        payload: &[u8],
        turn: &mut Turn<'_>,
    ) -> Result<(), Failure> {
        match head.kind {
            frame::HEADERS => {
                let block = frame::content(head, payload)
                    .ok_or_else(|| breach("the padding is longer than its frame"))?;
                if let Some(active) = link.active.iter_mut().find(|active| active.id == head.stream) {
                    note_bytes(active, head, turn.now_ns);
                    if active.status == 0 {
                        let status =
                            hpack::status(block).ok_or_else(|| breach("a response has no status"))?;
                        // Interim responses come before the one that counts.
                        active.status = if status < 200 { 0 } else { status };
                    }
                }
                self.end_if_last(link, head, turn);
            }
            frame::DATA => {
                link.unreported_bytes += head.length as u64;
                if link.unreported_bytes >= WINDOW_STEP {
                    let step = (link.unreported_bytes as u32).to_be_bytes();
                    frame::write(&mut link.out, frame::WINDOW_UPDATE, 0, 0, &step);
                    link.unreported_bytes = 0;
                }
                if let Some(active) = link.active.iter_mut().find(|active| active.id == head.stream) {
                    let before = active.received_bytes / WINDOW_STEP;
                    note_bytes(active, head, turn.now_ns);
                    if active.received_bytes / WINDOW_STEP > before {
                        let step = (WINDOW_STEP as u32).to_be_bytes();
                        frame::write(&mut link.out, frame::WINDOW_UPDATE, 0, head.stream, &step);
                    }
                }
                self.end_if_last(link, head, turn);
            }
            frame::RST_STREAM => {
                let code = frame::number(payload);
                if let Some(at) = link.active.iter().position(|active| active.id == head.stream) {
                    let failure = Failure::new(
                        ErrorKind::Reset,
                        format!("the server reset the stream (error {code})"),
                    );
                    self.end(link, at, Some(failure), turn);
                }
            }
            frame::SETTINGS if !head.has(frame::ACK) => {
                for setting in payload.chunks_exact(6) {
                    let (name, value) = (
                        u16::from_be_bytes([setting[0], setting[1]]),
                        frame::number(&setting[2..]),
                    );
                    match name {
                        frame::MAX_CONCURRENT_STREAMS => link.most_active = value,
                        frame::INITIAL_WINDOW_SIZE => {
                            let change = i64::from(value) - link.first_window;
                            link.first_window = i64::from(value);
                            link.active.iter_mut().for_each(|active| active.window += change);
                        }
                        _ => {}
                    }
                }
                frame::write(&mut link.out, frame::SETTINGS, frame::ACK, 0, &[]);
                self.send_bodies(link);
                self.start_waiting(link, turn.now_ns);
            }
            frame::PING if !head.has(frame::ACK) => {
                frame::write(&mut link.out, frame::PING, frame::ACK, 0, payload);
            }
            frame::WINDOW_UPDATE => {
                let step = i64::from(frame::number(payload) & frame::LARGEST_WINDOW);
                if head.stream == 0 {
                    link.window += step;
                } else if let Some(active) = link.active.iter_mut().find(|active| active.id == head.stream) {
                    active.window += step;
                }
                self.send_bodies(link);
            }
            frame::GOAWAY => {
                let (last, code) = (
                    frame::number(payload),
                    frame::number(payload.get(4..).unwrap_or(&[])),
                );
                if code != 0 {
                    let text = format!("the server ended the connection (error {code})");
                    return Err(Failure::new(ErrorKind::Reset, text));
                }
                link.draining = true;
                // It has not looked at these and will not: they begin again elsewhere.
                link.active.retain(|active| active.id <= last);
            }
            frame::PUSH_PROMISE => return Err(breach("the server pushes, which it was told not to")),
            _ => {}
        }
        Ok(())
    }

    fn end_if_last(&self, link: &mut Link, head: &Head, turn: &mut Turn<'_>) {
        if !head.has(frame::END_STREAM) {
            return;
        }
        let Some(at) = link.active.iter().position(|active| active.id == head.stream) else {
            return;
        };
        let active = &link.active[at];
        let failure = if active.status == 0 {
            Some(breach("a response ended before it had a status"))
        } else {
            status_failure(active.status, &self.requests[active.request as usize].name)
        };
        if active.sent_body_bytes < self.bodies[active.request as usize].len() {
            frame::write(
                &mut link.out,
                frame::RST_STREAM,
                0,
                head.stream,
                &frame::CANCEL.to_be_bytes(),
            );
        }
        self.end(link, at, failure, turn);
    }

    fn end(&self, link: &mut Link, at: usize, failure: Option<Failure>, turn: &mut Turn<'_>) {
        let active = link.active.swap_remove(at);
        turn.ended.push(Ended {
            stream: active.stream,
            written_ns: active.written_ns,
            first_byte_ns: active.first_byte_ns,
            ended_ns: turn.now_ns,
            bytes_received: active.received_bytes,
            status: active.status,
            failure,
        });
        self.start_waiting(link, turn.now_ns);
    }
}

fn note_bytes(active: &mut Active, head: &Head, now: u64) {
    if active.first_byte_ns == 0 {
        active.first_byte_ns = now;
    }
    active.received_bytes += (frame::HEAD_BYTES + head.length) as u64;
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
        Ok(Link {
            stream: Stream::open(
                &server.endpoint,
                server.tls.as_ref(),
                !self.keep_alive,
                dns_ns,
                now_ns,
            )?,
            endpoint,
            address: server.endpoint.chosen(),
            opened: false,
            out: Vec::new(),
            held: Vec::new(),
            next_id: 1,
            active: Vec::new(),
            waiting: Vec::new(),
            most_active: u32::MAX,
            draining: false,
            window: frame::FIRST_WINDOW.into(),
            first_window: frame::FIRST_WINDOW.into(),
            unreported_bytes: 0,
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
        link.waiting.push((stream, request));
        self.start_waiting(link, now_ns);
        Ok(())
    }

    fn flush(&mut self, link: &mut Link) -> Result<(), Failure> {
        if !link.opened {
            return Ok(());
        }
        link.stream.flush()?;
        let mut at = 0;
        while at < link.out.len() {
            match link.stream.send(&link.out[at..])? {
                0 => break,
                n => at += n,
            }
        }
        link.out.drain(..at);
        Ok(())
    }

    fn ready(&mut self, link: &mut Link, ready: Ready, turn: &mut Turn<'_>) -> Result<bool, Failure> {
        if !link.opened {
            let server = &mut self.servers[link.endpoint as usize];
            if !link
                .stream
                .advance(&mut server.endpoint, &mut self.scratch, ready, turn.recorder)?
            {
                return Ok(true);
            }
            if server.tls.is_some() && link.stream.protocol() != Some(b"h2") {
                return Err(Failure::new(ErrorKind::Tls, "the server does not offer HTTP/2"));
            }
            turn.now_ns = now_ns();
            link.opened = true;
            link.out.extend_from_slice(&self.opening);
            self.start_waiting(link, turn.now_ns);
        }
        if ready.readable() {
            loop {
                let (n, more) = match link.stream.receive(&mut self.buffer, &mut self.scratch)? {
                    Received::Nothing => break,
                    Received::End => {
                        if link.active.is_empty() || link.draining && link.active.is_empty() {
                            return Ok(false);
                        }
                        return Err(Failure::new(
                            ErrorKind::Reset,
                            "the server closed the connection before it had answered everything",
                        ));
                    }
                    Received::Bytes(n, more) => (n, more),
                };
                turn.now_ns = now_ns();
                let buffer = std::mem::take(&mut self.buffer);
                let result = if link.held.is_empty() {
                    self.take(link, &buffer[..n], turn)
                        .map(|used| link.held.extend_from_slice(&buffer[used..n]))
                } else {
                    let mut held = std::mem::take(&mut link.held);
                    held.extend_from_slice(&buffer[..n]);
                    self.take(link, &held, turn).map(|used| {
                        held.drain(..used);
                        link.held = held;
                    })
                };
                self.buffer = buffer;
                result?;
                if !more && !ready.closing() {
                    break;
                }
            }
        }
        let over = link.active.is_empty() && (link.draining || (!self.keep_alive && !turn.ended.is_empty()));
        Ok(!over)
    }

    fn abandon(&mut self, link: &mut Link, stream: u32) -> bool {
        link.waiting.retain(|&(waiting, _)| waiting != stream);
        if !link.opened {
            return !link.waiting.is_empty();
        }
        if let Some(at) = link.active.iter().position(|active| active.stream == stream) {
            let active = link.active.swap_remove(at);
            frame::write(
                &mut link.out,
                frame::RST_STREAM,
                0,
                active.id,
                &frame::CANCEL.to_be_bytes(),
            );
        }
        true
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
