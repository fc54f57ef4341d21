//! Requests over HTTP/2: those of one user to one origin share a connection.

use super::events::too_late;
use super::*;
use crate::http::h1::{parse_length, Sink};
use crate::http::h2::{check_agreement, Exchange};
use httparse::Header;

/// So often a request that the server says it has not looked at begins anew on another connection.
const MOST_MOVES: u32 = 3;

/// A request under way: who waits for it, and what has come of its response.
#[derive(Debug)]
pub(super) struct Asked {
    waiter: u32,
    sent_ns: u64,
    limit_ns: u64,
    to_head: bool,
    moves: u32,
    /// How long the body is, by the response's own word.
    length: Option<u64>,
    reply: Reply,
}

impl Sink for Asked {
    fn head(&mut self, status: u16, headers: &[Header<'_>]) {
        let length = headers.iter().find(|header| header.name == "content-length");
        // What is no number, no body is as long as.
        self.length = length.map(|header| parse_length(header.value).unwrap_or(u64::MAX));
        self.reply.head(status, headers);
    }

    fn body(&mut self, bytes: &[u8]) {
        if !self.to_head {
            Sink::body(&mut self.reply, bytes);
        }
    }
}

impl Asked {
    /// The response has come to its end: was that all of it?
    fn replied(self) -> Done {
        let bodiless = self.to_head || matches!(self.reply.status, 204 | 304);
        let came = self.reply.body_bytes;
        match self.length {
            Some(length) if length != came && !bodiless => {
                let text = format!("a body of {came} bytes came, and Content-Length says something else");
                Done::Failed(Failure::new(ErrorKind::Protocol, text))
            }
            _ => Done::Replied(Box::new(self.reply)),
        }
    }
}

impl Engine {
    pub(super) fn is_http2(&self, index: u32) -> bool {
        self.links[index as usize]
            .as_ref()
            .is_some_and(|link| matches!(link.speaks, Speaks::Http2 { .. }))
    }

    pub(super) fn request_http2(
        &mut self,
        user: u32,
        origin: u32,
        endpoint: u32,
        sending: Sending,
        timeout_ns: u64,
    ) -> Ticket {
        let now = monotonic_ns();
        let ticket = self.new_ticket(Waiting::Done);
        let asked = Asked {
            waiter: ticket.index,
            sent_ns: now,
            limit_ns: now.saturating_add(timeout_ns),
            to_head: sending.to_head,
            moves: 0,
            length: None,
            reply: Reply::default(),
        };
        let exchange = Exchange::new(asked, sending.out, sending.head_bytes);
        self.ask((user, origin), endpoint, exchange, now);
        ticket
    }

    /// Gives a request to the connection of its user and origin.
    fn ask(&mut self, key: (u32, u32), endpoint: u32, exchange: Exchange<Asked>, now: u64) {
        let index = match self.shared.get(&key) {
            Some(index) => *index,
            None => {
                let speaks = Speaks::Http2 {
                    user: key.0,
                    origin: key.1,
                    connection: Box::new(Connection::new()),
                };
                match self.open(endpoint, false, speaks, now) {
                    Ok(index) => {
                        self.shared.insert(key, index);
                        index
                    }
                    Err(failure) => {
                        self.settle_http2((exchange, Some(failure)), monotonic_ns());
                        return;
                    }
                }
            }
        };
        let limit_ns = exchange.owner.limit_ns;
        self.waiters[exchange.owner.waiter as usize].waiting = Waiting::Link(index);
        let link = self.links[index as usize]
            .as_mut()
            .expect("shared links are open");
        if let Speaks::Http2 { connection, .. } = &mut link.speaks {
            connection.begin(exchange, now);
        }
        let limit_ns = limit_ns.min(link.limit_ns);
        self.limit(index, limit_ns);
        self.flush_http2(index);
    }

    /// This connection takes no more requests.
    pub(super) fn retire(&mut self, key: (u32, u32), index: u32) {
        if self.shared.get(&key) == Some(&index) {
            self.shared.remove(&key);
        }
    }

    /// Tells who waits for a request what has become of it.
    pub(super) fn settle_http2(&mut self, (exchange, failure): Over<Asked>, now: u64) {
        let asked = exchange.owner;
        let timing = Timing {
            sent_ns: asked.sent_ns,
            written_ns: exchange.written_ns,
            first_byte_ns: exchange.first_byte_ns,
            ended_ns: now,
            bytes_sent: 0,
            bytes_received: exchange.received_bytes,
        };
        let waiter = asked.waiter;
        let done = failure.map_or_else(|| asked.replied(), Done::Failed);
        self.finish(waiter, done, timing);
    }

    pub(super) fn opened_http2(&mut self, index: u32, now: u64) {
        let link = self.links[index as usize].as_mut().expect("it is open");
        let is_secured = self.endpoints[link.endpoint as usize].tls.is_some();
        let (Speaks::Http2 { connection, .. }, Transport::Tcp(stream)) = (&mut link.speaks, &link.transport)
        else {
            return;
        };
        if let (true, Err(failure)) = (is_secured, check_agreement(stream)) {
            self.fail(index, failure, now);
            return;
        }
        connection.open(now);
        self.flush_http2(index);
    }

    /// Sends what waits, as far as there is room.
    pub(super) fn flush_http2(&mut self, index: u32) {
        let link = self.links[index as usize].as_mut().expect("it is open");
        let serial = link.serial;
        let (Speaks::Http2 { connection, .. }, Transport::Tcp(stream)) =
            (&mut link.speaks, &mut link.transport)
        else {
            return;
        };
        let Err(failure) = connection.flush(stream) else {
            return;
        };
        // A server that hangs up has said why; that is worth more than the broken pipe.
        if failure.kind == ErrorKind::Reset && !std::mem::replace(&mut link.hung_up, true) {
            self.read(index);
        }
        if self.has_link(index, serial) {
            self.fail(index, failure, monotonic_ns());
        }
    }

    fn has_link(&self, index: u32, serial: u32) -> bool {
        self.links[index as usize]
            .as_ref()
            .is_some_and(|link| link.serial == serial)
    }

    /// Takes what lies in the buffer: whether the connection is still there.
    pub(super) fn received_http2(&mut self, index: u32, count: usize, now: u64) -> bool {
        let link = self.links[index as usize].as_mut().expect("it is open");
        let serial = link.serial;
        let Speaks::Http2 { connection, .. } = &mut link.speaks else {
            return true;
        };
        let mut over = std::mem::take(&mut self.over);
        let taken = connection.take(&self.buffer[..count], now, &mut over);
        for one in over.drain(..) {
            self.settle_http2(one, now);
        }
        self.over = over;
        match taken {
            Ok(()) => self.go_on(index, now),
            Err(failure) => self.fail(index, failure, now),
        }
        self.has_link(index, serial)
    }

    /// After something has come: answers it, and leaves a connection that the server takes no more requests on.
    fn go_on(&mut self, index: u32, now: u64) {
        let link = self.links[index as usize].as_mut().expect("it is open");
        let (serial, endpoint) = (link.serial, link.endpoint);
        let Speaks::Http2 {
            user,
            origin,
            connection,
        } = &mut link.speaks
        else {
            return;
        };
        if !connection.is_draining() {
            self.flush_http2(index);
            return;
        }
        let key = (*user, *origin);
        let unsent = connection.take_unsent();
        let is_through = connection.has_no_streams();
        self.retire(key, index);
        if is_through {
            self.close(index);
        }
        for exchange in unsent {
            self.move_on(key, endpoint, exchange, now);
        }
        if self.has_link(index, serial) {
            self.flush_http2(index);
        }
    }

    /// Begins a request anew that the server has not looked at.
    fn move_on(&mut self, key: (u32, u32), endpoint: u32, exchange: Exchange<Asked>, now: u64) {
        let has_begun = exchange.has_begun();
        let mut exchange = exchange.anew();
        exchange.owner.moves += u32::from(has_begun);
        if exchange.owner.moves > MOST_MOVES {
            let text = "the server ended one connection after the other without looking at the request";
            let failure = Failure::new(ErrorKind::Reset, text);
            self.settle_http2((exchange, Some(failure)), now);
            return;
        }
        self.ask(key, endpoint, exchange, now);
    }

    /// The server has closed the connection.
    pub(super) fn cut_http2(&mut self, index: u32, now: u64) {
        let link = self.links[index as usize].as_mut().expect("it is open");
        match &link.speaks {
            Speaks::Http2 { connection, .. } if !connection.is_idle() => {
                let failure = connection.cut();
                self.fail(index, failure, now);
            }
            _ => self.close(index),
        }
    }

    /// Its user gives up a request.
    pub(super) fn cancel_http2(&mut self, index: u32, waiter: u32) -> Option<Timing> {
        let now = monotonic_ns();
        let exchange = self.take_exchange(index, waiter, now)?;
        self.leave_if_useless(index);
        Some(Timing {
            sent_ns: exchange.owner.sent_ns,
            written_ns: exchange.written_ns,
            first_byte_ns: exchange.first_byte_ns,
            ended_ns: now,
            bytes_sent: 0,
            bytes_received: exchange.received_bytes,
        })
    }

    /// Takes a request away from its connection.
    fn take_exchange(&mut self, index: u32, waiter: u32, now: u64) -> Option<Exchange<Asked>> {
        match &mut self.links[index as usize].as_mut()?.speaks {
            Speaks::Http2 { connection, .. } => connection.cancel(now, |asked| asked.waiter == waiter),
            _ => None,
        }
    }

    /// After requests were given up: closes a connection that nobody waits for, or tells the server.
    fn leave_if_useless(&mut self, index: u32) {
        let Some(link) = self.links[index as usize].as_ref() else {
            return;
        };
        let Speaks::Http2 { connection, .. } = &link.speaks else {
            return;
        };
        if connection.is_idle() && (!connection.is_open() || connection.is_draining()) {
            self.close(index);
        } else {
            self.flush_http2(index);
        }
    }

    /// Gives up the requests whose time limit is over, and arranges to come back for the next.
    pub(super) fn give_up_late_streams(&mut self, index: u32, now: u64) {
        let link = self.links[index as usize].as_mut().expect("it is open");
        let serial = link.serial;
        let Speaks::Http2 { connection, .. } = &link.speaks else {
            return;
        };
        let (mut late, mut next_ns) = (Vec::new(), u64::MAX);
        for asked in connection.owners() {
            if asked.limit_ns <= now {
                late.push((asked.waiter, too_late(link, now - asked.sent_ns)));
            } else {
                next_ns = next_ns.min(asked.limit_ns);
            }
        }
        link.limit_ns = next_ns;
        if next_ns != u64::MAX {
            self.limit(index, next_ns);
        }
        let is_any_late = !late.is_empty();
        for (waiter, failure) in late {
            if let Some(exchange) = self.take_exchange(index, waiter, now) {
                self.settle_http2((exchange, Some(failure)), now);
            }
        }
        if is_any_late && self.has_link(index, serial) {
            self.leave_if_useless(index);
        }
    }
}
