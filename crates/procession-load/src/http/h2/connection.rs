//! One connection of HTTP/2, apart from how its bytes travel: what comes in is given to [`Connection::take`], and
//! [`Connection::flush`] sends what is to go out.
//!
//! Who has sent a request is told of its end exactly once, whatever happens: by `take`, or by being taken out with
//! [`cancel`](Connection::cancel), [`take_unsent`](Connection::take_unsent) or [`take_all`](Connection::take_all).
//!
//! What is received is never held back: the windows are as large as they can be, as whoever is given it keeps what is of use
//! and drops the rest. What is to be sent waits for the server's windows, and of it only so much is framed as a socket takes.

use super::frame::{self, Head};
use super::hpack;
use crate::http::h1::{Sink, MOST_HEADERS, MOST_HEAD_BYTES};
use crate::http::request::Outgoing;
use crate::net::{Failure, Stream};
use crate::result::ErrorKind;
use httparse::Header;
use std::borrow::Cow;
use std::collections::VecDeque;

/// After so many bytes the server is told that it may send as many again.
const WINDOW_STEP: u32 = 1 << 30;
/// Before stream numbers run out, a new connection is made.
const LAST_STREAM: u32 = 1 << 30;
/// So many requests begin before the server has said how many it takes at a time: what is too many, it refuses.
const MOST_AT_FIRST: usize = 1;
/// So much waits to be sent; what of bodies is beyond is framed when there is room.
const FULL_BYTES: usize = 64 << 10;
/// A server that asks and asks, and does not read the answers, is not waited for any longer.
const MOST_UNREAD_BYTES: usize = 16 << 20;

/// A request, and what is known of its response.
#[derive(Debug)]
pub(crate) struct Exchange<T> {
    /// Whose it is, who is given the response as it comes.
    pub(crate) owner: T,
    out: Outgoing,
    /// Where the header block ends and the body begins.
    head_bytes: usize,
    /// The stream's number; 0 before it has one.
    id: u32,
    sent_body_bytes: usize,
    /// How much of the body the server takes now.
    window: i64,
    /// What has come since the server was told last that it may send more.
    unreported_bytes: u32,
    pub(crate) written_ns: u64,
    pub(crate) first_byte_ns: u64,
    pub(crate) received_bytes: u64,
    pub(crate) status: u16,
}

/// A request that has ended, and how it failed, if it did.
pub(crate) type Over<T> = (Exchange<T>, Option<Failure>);

/// See the module.
#[derive(Debug)]
pub(crate) struct Connection<T> {
    is_open: bool,
    out: Vec<u8>,
    /// The beginning of a frame whose end has not come yet.
    held: Vec<u8>,
    /// A header block whose end has not come yet: its stream, and the flags that came with its beginning.
    block: Option<(u32, u8, Vec<u8>)>,
    next_id: u32,
    /// In the order of their numbers.
    streams: VecDeque<Exchange<T>>,
    /// Requests that wait for the connection, or for the server to allow more of them.
    waiting: VecDeque<Exchange<T>>,
    /// Those that the server has not looked at, and will not.
    unsent: Vec<Exchange<T>>,
    /// Streams with a body that is not framed to its end, in turn.
    uploads: VecDeque<u32>,
    /// Whether the server has said what it allows.
    is_known: bool,
    most_streams: usize,
    /// The server takes no more requests here.
    is_draining: bool,
    window: i64,
    first_window: i64,
    unreported_bytes: u32,
}

fn breach(what: impl Into<Cow<'static, str>>) -> Failure {
    Failure::new(ErrorKind::Protocol, what)
}

impl<T> Exchange<T> {
    /// `out` is the header block and, behind its `head_bytes`, the body.
    pub(crate) fn new(owner: T, out: Outgoing, head_bytes: usize) -> Exchange<T> {
        Exchange {
            owner,
            out,
            head_bytes,
            id: 0,
            sent_body_bytes: 0,
            window: 0,
            unreported_bytes: 0,
            written_ns: 0,
            first_byte_ns: 0,
            received_bytes: 0,
            status: 0,
        }
    }

    /// Whether it went out.
    pub(crate) fn has_begun(&self) -> bool {
        self.id != 0
    }

    /// The same request as if nothing had happened.
    pub(crate) fn anew(self) -> Exchange<T> {
        Exchange::new(self.owner, self.out, self.head_bytes)
    }

    fn unsent_body(&self) -> &[u8] {
        &self.out.bytes()[self.head_bytes + self.sent_body_bytes..]
    }

    fn note_bytes(&mut self, head: &Head, now_ns: u64) {
        if self.first_byte_ns == 0 {
            self.first_byte_ns = now_ns;
        }
        self.received_bytes += (frame::HEAD_BYTES + head.length) as u64;
    }
}

impl<T: Sink> Connection<T> {
    /// One that is not connected yet.
    pub(crate) fn new() -> Connection<T> {
        let mut settings = Vec::new();
        frame::write_setting(&mut settings, frame::HEADER_TABLE_SIZE, 0);
        frame::write_setting(&mut settings, frame::ENABLE_PUSH, 0);
        frame::write_setting(&mut settings, frame::INITIAL_WINDOW_SIZE, frame::LARGEST_WINDOW);
        let mut out = frame::PREFACE.to_vec();
        frame::write(&mut out, frame::SETTINGS, 0, 0, &settings);
        let more = (frame::LARGEST_WINDOW - frame::FIRST_WINDOW).to_be_bytes();
        frame::write(&mut out, frame::WINDOW_UPDATE, 0, 0, &more);
        Connection {
            is_open: false,
            out,
            held: Vec::new(),
            block: None,
            next_id: 1,
            streams: VecDeque::new(),
            waiting: VecDeque::new(),
            unsent: Vec::new(),
            uploads: VecDeque::new(),
            is_known: false,
            most_streams: usize::MAX,
            is_draining: false,
            window: frame::FIRST_WINDOW.into(),
            first_window: frame::FIRST_WINDOW.into(),
            unreported_bytes: 0,
        }
    }

    /// Whether bytes can be sent.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether no request begins here any more.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// Whether no stream is open; requests may wait all the same.
    pub(crate) fn has_no_streams(&self) -> bool {
        self.streams.is_empty()
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.streams.is_empty() && self.waiting.is_empty()
    }

    /// All who wait for a response.
    pub(crate) fn owners(&self) -> impl Iterator<Item = &T> {
        let all = self.streams.iter().chain(&self.waiting);
        all.map(|exchange| &exchange.owner)
    }

    /// It is connected.
    pub(crate) fn open(&mut self, now_ns: u64) {
        self.is_open = true;
        self.start_waiting(now_ns);
    }

    /// Begins a request, or lets it wait for its turn.
    pub(crate) fn begin(&mut self, exchange: Exchange<T>, now_ns: u64) {
        self.waiting.push_back(exchange);
        self.start_waiting(now_ns);
    }

    fn start_waiting(&mut self, now_ns: u64) {
        let most = if self.is_known {
            self.most_streams
        } else {
            MOST_AT_FIRST
        };
        while self.is_open && !self.is_draining && self.streams.len() < most {
            let Some(exchange) = self.waiting.pop_front() else {
                return;
            };
            self.start(exchange, now_ns);
        }
    }

    fn start(&mut self, mut exchange: Exchange<T>, now_ns: u64) {
        exchange.id = self.next_id;
        exchange.window = self.first_window;
        exchange.written_ns = now_ns;
        self.next_id += 2;
        if self.next_id > LAST_STREAM {
            self.is_draining = true;
        }
        let end = if exchange.unsent_body().is_empty() {
            frame::END_STREAM
        } else {
            self.uploads.push_back(exchange.id);
            0
        };
        let block = &exchange.out.bytes()[..exchange.head_bytes];
        frame::write_block(&mut self.out, end, exchange.id, block);
        self.streams.push_back(exchange);
    }

    fn find(&self, id: u32) -> Option<usize> {
        self.streams
            .binary_search_by_key(&id, |exchange| exchange.id)
            .ok()
    }

    /// Gives up the request of this owner: its stream is reset, of which its neighbours notice nothing.
    pub(crate) fn cancel(&mut self, now_ns: u64, is_meant: impl Fn(&T) -> bool) -> Option<Exchange<T>> {
        let is_meant = |exchange: &Exchange<T>| is_meant(&exchange.owner);
        if let Some(at) = self.waiting.iter().position(is_meant) {
            return self.waiting.remove(at);
        }
        let at = self.streams.iter().position(is_meant)?;
        let exchange = self.streams.remove(at)?;
        self.reset(exchange.id, frame::CANCEL);
        self.start_waiting(now_ns);
        Some(exchange)
    }

    /// What has to begin again on another connection, once this one [drains](Connection::is_draining).
    pub(crate) fn take_unsent(&mut self) -> Vec<Exchange<T>> {
        let mut all = std::mem::take(&mut self.unsent);
        all.extend(self.waiting.drain(..));
        all
    }

    /// All requests, when the connection is dead.
    pub(crate) fn take_all(&mut self) -> Vec<Exchange<T>> {
        let mut all: Vec<_> = self.streams.drain(..).collect();
        all.append(&mut self.take_unsent());
        all
    }

    fn reset(&mut self, id: u32, code: u32) {
        frame::write(&mut self.out, frame::RST_STREAM, 0, id, &code.to_be_bytes());
    }

    // --- sending ---------------------------------------------------------------------------------------------------

    /// Frames as much of the bodies as the server's windows and our own buffer have room for, a part of each in turn.
    fn frame_bodies(&mut self) {
        let mut blocked = 0;
        while self.window > 0 && self.out.len() < FULL_BYTES && blocked < self.uploads.len() {
            let Some(id) = self.uploads.pop_front() else {
                return;
            };
            let Some(at) = self.find(id) else { continue };
            let exchange = &mut self.streams[at];
            let left = exchange.unsent_body();
            let room = exchange.window.min(self.window).max(0) as usize;
            let count = left.len().min(room).min(frame::LARGEST_PAYLOAD);
            if count == 0 {
                self.uploads.push_back(id);
                blocked += 1;
                continue;
            }
            let is_last = count == left.len();
            let end = if is_last { frame::END_STREAM } else { 0 };
            frame::write(&mut self.out, frame::DATA, end, id, &left[..count]);
            exchange.sent_body_bytes += count;
            exchange.window -= count as i64;
            self.window -= count as i64;
            blocked = 0;
            if !is_last {
                self.uploads.push_back(id);
            }
        }
    }

    /// Sends what waits, as far as there is room.
    pub(crate) fn flush(&mut self, stream: &mut Stream) -> Result<(), Failure> {
        if !self.is_open {
            return Ok(());
        }
        stream.flush()?;
        while !stream.has_unsent() {
            self.frame_bodies();
            if self.out.is_empty() {
                break;
            }
            let sent = stream.send(&self.out)?;
            let is_full = sent < self.out.len();
            self.out.drain(..sent);
            if is_full {
                return Ok(());
            }
        }
        if self.is_idle() {
            // Kept small: there are many connections.
            self.out.shrink_to(4096);
        }
        Ok(())
    }

    // --- receiving -------------------------------------------------------------------------------------------------

    /// Takes what has come in, and puts the requests that have ended by it into `over`. An error is that of all others.
    pub(crate) fn take(&mut self, bytes: &[u8], now_ns: u64, over: &mut Vec<Over<T>>) -> Result<(), Failure> {
        if self.held.is_empty() {
            let used = self.frames(bytes, now_ns, over)?;
            self.held.extend_from_slice(&bytes[used..]);
        } else {
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(bytes);
            let used = self.frames(&held, now_ns, over)?;
            held.drain(..used);
            self.held = held;
        }
        if self.held.is_empty() && self.is_idle() {
            self.held = Vec::new();
        }
        Ok(())
    }

    /// The server has closed the connection: what that means for the requests that are left.
    pub(crate) fn cut(&self) -> Failure {
        let text = if self.is_known {
            "the server closed the connection before it had answered everything"
        } else {
            "the server closed the connection instead of speaking HTTP/2"
        };
        Failure::new(ErrorKind::Reset, text)
    }

    /// Takes the frames that are complete, and gives the number of bytes that they are.
    fn frames(&mut self, bytes: &[u8], now_ns: u64, over: &mut Vec<Over<T>>) -> Result<usize, Failure> {
        let mut at = 0;
        while let Some(head) = Head::read(&bytes[at..]) {
            if !self.is_known && head.kind != frame::SETTINGS {
                return Err(breach("the server does not speak HTTP/2"));
            }
            if head.length > frame::LARGEST_PAYLOAD {
                return Err(breach(format!(
                    "a frame of {} bytes is longer than we allow",
                    head.length
                )));
            }
            let begin = at + frame::HEAD_BYTES;
            let Some(payload) = bytes.get(begin..begin + head.length) else {
                break;
            };
            self.frame(&head, payload, now_ns, over)?;
            at = begin + head.length;
        }
        Ok(at)
    }

    fn frame(
        &mut self,
        head: &Head,
        payload: &[u8],
        now_ns: u64,
        over: &mut Vec<Over<T>>,
    ) -> Result<(), Failure> {
        if self.block.is_some() && head.kind != frame::CONTINUATION {
            return Err(breach("a header block is interrupted"));
        }
        let content =
            || frame::content(head, payload).ok_or_else(|| breach("the padding is longer than its frame"));
        match head.kind {
            frame::HEADERS => {
                let content = content()?;
                if let Some(at) = self.find(head.stream) {
                    self.streams[at].note_bytes(head, now_ns);
                }
                if head.has(frame::END_HEADERS) {
                    self.headers(head.stream, head.flags, content, now_ns, over);
                } else {
                    self.block = Some((head.stream, head.flags, content.to_vec()));
                }
            }
            frame::CONTINUATION => {
                let Some((id, flags, mut block)) = self.block.take().filter(|(id, ..)| *id == head.stream)
                else {
                    return Err(breach("a header block goes on that has not begun"));
                };
                if let Some(at) = self.find(id) {
                    self.streams[at].note_bytes(head, now_ns);
                }
                block.extend_from_slice(payload);
                if block.len() > MOST_HEAD_BYTES {
                    return Err(breach(format!(
                        "the head of a response is longer than {MOST_HEAD_BYTES} bytes"
                    )));
                }
                if head.has(frame::END_HEADERS) {
                    self.headers(id, flags, &block, now_ns, over);
                } else {
                    self.block = Some((id, flags, block));
                }
            }
            frame::DATA => self.data(head, content()?, now_ns, over),
            frame::RST_STREAM => {
                if let Some(at) = self.find(head.stream) {
                    let code = frame::error_name(frame::number(payload));
                    let failure =
                        Failure::new(ErrorKind::Reset, format!("the server reset the stream ({code})"));
                    self.end(at, Some(failure), now_ns, over);
                }
            }
            frame::SETTINGS if !head.has(frame::ACK) => self.settings(payload, now_ns)?,
            frame::PING if !head.has(frame::ACK) => {
                self.answer(frame::PING, payload)?;
            }
            frame::WINDOW_UPDATE => {
                let step = i64::from(frame::number(payload) & frame::LARGEST_WINDOW);
                if head.stream == 0 {
                    self.window += step;
                } else if let Some(at) = self.find(head.stream) {
                    self.streams[at].window += step;
                }
            }
            frame::GOAWAY => {
                let (last, code) = (
                    frame::number(payload) & frame::LARGEST_WINDOW,
                    frame::number(payload.get(4..).unwrap_or(&[])),
                );
                if code != 0 {
                    let text = format!("the server ended the connection ({})", frame::error_name(code));
                    return Err(Failure::new(ErrorKind::Reset, text));
                }
                self.is_draining = true;
                let looked_at = self.streams.partition_point(|exchange| exchange.id <= last);
                self.unsent.extend(self.streams.drain(looked_at..));
            }
            frame::PUSH_PROMISE => return Err(breach("the server pushes, which it was told not to")),
            _ => {}
        }
        Ok(())
    }

    /// Says that something has come.
    fn answer(&mut self, kind: u8, payload: &[u8]) -> Result<(), Failure> {
        if self.out.len() > MOST_UNREAD_BYTES {
            return Err(breach("the server does not read the answers that it asks for"));
        }
        frame::write(&mut self.out, kind, frame::ACK, 0, payload);
        Ok(())
    }

    fn settings(&mut self, payload: &[u8], now_ns: u64) -> Result<(), Failure> {
        for setting in payload.chunks_exact(6) {
            let name = u16::from_be_bytes([setting[0], setting[1]]);
            let value = frame::number(&setting[2..]);
            match name {
                frame::MAX_CONCURRENT_STREAMS => self.most_streams = value as usize,
                frame::INITIAL_WINDOW_SIZE if value > frame::LARGEST_WINDOW => {
                    return Err(breach("the server allows more than there can be"));
                }
                frame::INITIAL_WINDOW_SIZE => {
                    let change = i64::from(value) - self.first_window;
                    self.first_window = i64::from(value);
                    self.streams
                        .iter_mut()
                        .for_each(|exchange| exchange.window += change);
                }
                _ => {}
            }
        }
        self.is_known = true;
        self.answer(frame::SETTINGS, &[])?;
        self.start_waiting(now_ns);
        Ok(())
    }

    /// A header block is complete: the response's head, or what follows its body.
    fn headers(&mut self, id: u32, flags: u8, block: &[u8], now_ns: u64, over: &mut Vec<Over<T>>) {
        let Some(at) = self.find(id) else { return };
        let exchange = &mut self.streams[at];
        if exchange.status == 0 {
            match read_head(&mut exchange.owner, block) {
                // Interim responses come before the one that counts.
                Ok(status) => exchange.status = if status < 200 { 0 } else { status },
                Err(failure) => {
                    self.reset(id, frame::PROTOCOL_ERROR);
                    self.end(at, Some(failure), now_ns, over);
                    return;
                }
            }
        }
        if flags & frame::END_STREAM != 0 {
            self.complete(at, now_ns, over);
        }
    }

    fn data(&mut self, head: &Head, content: &[u8], now_ns: u64, over: &mut Vec<Over<T>>) {
        self.unreported_bytes += head.length as u32;
        if self.unreported_bytes >= WINDOW_STEP {
            let step = std::mem::take(&mut self.unreported_bytes).to_be_bytes();
            frame::write(&mut self.out, frame::WINDOW_UPDATE, 0, 0, &step);
        }
        let Some(at) = self.find(head.stream) else {
            return;
        };
        let exchange = &mut self.streams[at];
        exchange.note_bytes(head, now_ns);
        if exchange.status == 0 {
            self.reset(head.stream, frame::PROTOCOL_ERROR);
            let failure = breach("a response has a body before it has a status");
            self.end(at, Some(failure), now_ns, over);
            return;
        }
        exchange.owner.body(content);
        if head.has(frame::END_STREAM) {
            self.complete(at, now_ns, over);
            return;
        }
        exchange.unreported_bytes += head.length as u32;
        if exchange.unreported_bytes >= WINDOW_STEP {
            let step = std::mem::take(&mut exchange.unreported_bytes).to_be_bytes();
            frame::write(&mut self.out, frame::WINDOW_UPDATE, 0, head.stream, &step);
        }
    }

    fn complete(&mut self, at: usize, now_ns: u64, over: &mut Vec<Over<T>>) {
        let exchange = &self.streams[at];
        let id = exchange.id;
        let failure = (exchange.status == 0).then(|| breach("a response ended before it had a status"));
        // A server that answers before it has read everything does not want the rest.
        if !exchange.unsent_body().is_empty() {
            self.reset(id, frame::CANCEL);
        }
        self.end(at, failure, now_ns, over);
    }

    fn end(&mut self, at: usize, failure: Option<Failure>, now_ns: u64, over: &mut Vec<Over<T>>) {
        over.extend(self.streams.remove(at).map(|exchange| (exchange, failure)));
        self.start_waiting(now_ns);
    }
}

/// Gives a response's head to whom it belongs, and tells its status. Of interim ones the status is all.
fn read_head<T: Sink>(owner: &mut T, block: &[u8]) -> Result<u16, Failure> {
    let no_status = || breach("a response has no status");
    if !T::WANTS_HEADERS {
        return hpack::status(block).ok_or_else(no_status);
    }
    let fields = hpack::decode(block).ok_or_else(|| breach("the headers of a response cannot be read"))?;
    let (mut status, mut headers) = (None, Vec::with_capacity(16));
    for (name, value) in fields.iter() {
        if name == b":status" && status.is_none() && headers.is_empty() {
            status = std::str::from_utf8(value)
                .ok()
                .filter(|text| text.len() == 3)
                .and_then(|text| text.parse().ok());
            continue;
        }
        let name = header_name(name)
            .filter(|_| !value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)))
            .ok_or_else(|| {
                let name = String::from_utf8_lossy(name);
                breach(format!("a response has a header that is none: {name:?}"))
            })?;
        if headers.len() == MOST_HEADERS {
            return Err(breach(format!("a response has more than {MOST_HEADERS} headers")));
        }
        headers.push(Header { name, value });
    }
    let status = status.filter(|status| *status >= 100).ok_or_else(no_status)?;
    if status >= 200 {
        owner.head(status, &headers);
    }
    Ok(status)
}

fn header_name(name: &[u8]) -> Option<&str> {
    let is_part =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(byte);
    if name.is_empty() || !name.iter().all(is_part) {
        return None;
    }
    std::str::from_utf8(name).ok()
}

#[cfg(test)]
mod tests;
