//! What the poller finds: connections that are made, bytes that come or may go, times that are up.

use super::*;

impl Engine {
    /// Waits for something to do, at most so long, holding nothing: others may begin things meanwhile. What it finds is for
    /// [`Engine::handle`].
    ///
    /// # Errors
    ///
    /// `EINTR` if a signal came, which the caller may have to see to.
    pub fn wait(epoll: BorrowedFd<'_>, most_ns: u64, found: &mut Found) -> io::Result<()> {
        found.0.clear();
        let most = rustix::event::Timespec {
            tv_sec: (most_ns / 1_000_000_000) as i64,
            tv_nsec: (most_ns % 1_000_000_000) as i64,
        };
        epoll::wait(epoll, rustix::buffer::spare_capacity(&mut found.0), Some(&most))?;
        Ok(())
    }

    /// Does what [`Engine::wait`] has found and what the clock says.
    pub fn handle(&mut self, found: &Found) {
        let unread = std::mem::take(&mut self.unread);
        for event in &found.0 {
            let key = event.data.u64();
            if key == TIMER_KEY {
                self.timers.rang();
                continue;
            }
            let (index, serial) = (key as u32, (key >> 32) as u32);
            let link = self.links.get(index as usize).and_then(Option::as_ref);
            if link.is_some_and(|link| link.serial == serial) {
                self.event(index, event.flags);
            }
        }
        for (index, serial) in unread {
            let link = self.links[index as usize].as_ref();
            if link.is_some_and(|link| link.serial == serial) {
                self.read(index);
            }
        }
        let now = monotonic_ns();
        self.looked_ns = now;
        while let Some(due) = self.timers.pop(now) {
            self.due(due, now);
        }
    }

    /// Does what can be done without waiting.
    ///
    /// # Errors
    ///
    /// The system refuses to watch; this engine cannot go on.
    pub fn turn(&mut self) -> io::Result<()> {
        let mut found = std::mem::take(&mut self.found);
        loop {
            let epoll = self.epoll.clone();
            match Engine::wait(epoll.as_fd(), 0, &mut found) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            self.handle(&found);
            if found.0.len() < found.0.capacity() {
                break;
            }
        }
        self.found = found;
        Ok(())
    }

    /// Arranges to be woken for the next timer; to be called before waiting.
    ///
    /// # Errors
    ///
    /// As [`Engine::turn`].
    pub fn arm(&mut self) -> io::Result<()> {
        self.timers.arm()
    }

    pub(super) fn due(&mut self, due: Due, now: u64) {
        match due {
            Due::Slept { waiter, serial } => {
                let known = &self.waiters[waiter as usize];
                if known.serial == serial && known.waiting == Waiting::Slept {
                    self.finish(
                        waiter,
                        Done::Slept,
                        Timing {
                            ended_ns: now,
                            ..Timing::default()
                        },
                    );
                }
            }
            Due::Limit { link: index, serial } => {
                let Some(link) = self.links[index as usize]
                    .as_mut()
                    .filter(|link| link.serial == serial)
                else {
                    return;
                };
                if link.armed_ns > now {
                    return;
                }
                link.armed_ns = u64::MAX;
                if matches!(link.speaks, Speaks::Http2 { .. }) {
                    self.give_up_late_streams(index, now);
                    return;
                }
                if link.waiter.is_none() {
                    return;
                }
                if link.limit_ns > now {
                    let at = link.limit_ns;
                    self.limit(index, at);
                    return;
                }
                let is_udp = matches!(link.speaks, Speaks::Raw { is_udp: true, .. });
                let waited_ns = now - link.timing.sent_ns;
                let failure = if is_udp {
                    let waited = waited_ns as f64 * 1e-9;
                    Failure::new(ErrorKind::Lost, format!("no datagram within {waited:.3} s"))
                } else {
                    too_late(link, waited_ns)
                };
                if is_udp {
                    self.settle(index, Done::Failed(failure), now);
                } else {
                    self.fail(index, failure, now);
                }
            }
        }
    }

    pub(super) fn event(&mut self, index: u32, flags: EventFlags) {
        let link = self.links[index as usize]
            .as_mut()
            .expect("the caller has looked");
        let closing = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        link.hung_up |= closing;
        if !link.transport.is_open() {
            if !closing && !flags.contains(EventFlags::OUT) && !link.transport.is_connected() {
                return;
            }
            self.connected(index, flags);
        } else if flags.contains(EventFlags::OUT) {
            if matches!(link.speaks, Speaks::Http2 { .. }) {
                self.flush_http2(index);
            } else if link.out_at < link.out.bytes().len() {
                self.write(index);
            } else if let Err(failure) = link.transport.flush() {
                self.fail(index, failure, monotonic_ns());
            }
        }
        let is_readable = closing || flags.contains(EventFlags::IN);
        let is_open = |link: &Link| link.transport.is_open();
        if is_readable && self.links[index as usize].as_ref().is_some_and(is_open) {
            self.read(index);
        }
    }

    pub(super) fn connected(&mut self, index: u32, flags: EventFlags) {
        let link = self.links[index as usize]
            .as_mut()
            .expect("the caller has looked");
        let now = monotonic_ns();
        let Transport::Tcp(stream) = &mut link.transport else {
            return;
        };
        let server = &mut self.endpoints[link.endpoint as usize].endpoint;
        let sealed = &mut self.sealed;
        let advanced = self
            .desk
            .with(|desk| stream.advance(server, sealed, Ready(flags), desk.worker.recorder()));
        match advanced {
            // Nobody counts any more.
            None | Some(Ok(false)) => {}
            Some(Ok(true)) => {
                link.timing.written_ns = now;
                match link.speaks {
                    Speaks::Raw { .. } => self.settle(index, Done::Ready, now),
                    Speaks::Http { .. } => self.write(index),
                    Speaks::Http2 { .. } => self.opened_http2(index, now),
                }
            }
            Some(Err(failure)) => {
                let link = self.links[index as usize].as_mut().expect("it is open");
                // Where somebody is, but does not agree on TLS, another address is no help.
                let is_nobody = matches!(&link.transport, Transport::Tcp(stream) if !stream.is_connected());
                link.hung_up = false;
                if !is_nobody || !self.open_elsewhere(index, now) {
                    self.fail(index, failure, now);
                }
            }
        }
    }

    pub(super) fn write(&mut self, index: u32) {
        let link = self.links[index as usize].as_mut().expect("it is open");
        while link.out_at < link.out.bytes().len() {
            match link.transport.send(&link.out.bytes()[link.out_at..]) {
                Ok(0) => return,
                Ok(sent) => {
                    link.out_at += sent;
                    link.timing.bytes_sent += sent as u64;
                }
                Err(failure) => {
                    // A server that refuses early has said why; that is worth more than the broken pipe.
                    if failure.kind == ErrorKind::Reset {
                        link.out_at = link.out.bytes().len();
                        link.hung_up = true;
                        self.read(index);
                        match self.links[index as usize].as_ref() {
                            Some(link) if link.waiter.is_some() => {}
                            _ => return,
                        }
                    }
                    self.fail(index, failure, monotonic_ns());
                    return;
                }
            }
        }
        if matches!(&link.speaks, Speaks::Raw { wanted: None, .. }) && link.waiter.is_some() {
            self.settle(index, Done::Ready, monotonic_ns());
        }
    }

    pub(super) fn read(&mut self, index: u32) {
        let mut at_once = 0;
        loop {
            let link = self.links[index as usize].as_mut().expect("it is open");
            let serial = link.serial;
            let (count, more) = match link.transport.receive(&mut self.buffer, &mut self.sealed) {
                Ok(Some(received)) => received,
                Ok(None) => return,
                Err(failure) => {
                    match &mut link.speaks {
                        Speaks::Raw {
                            is_udp: true, fault, ..
                        } => {
                            // A port where nobody listens; the socket lives on.
                            *fault = Some(failure);
                            self.serve_raw(index, monotonic_ns());
                            return;
                        }
                        Speaks::Raw { closed, fault, .. } => {
                            *closed = true;
                            *fault = Some(failure);
                            self.serve_raw(index, monotonic_ns());
                            return;
                        }
                        Speaks::Http { .. } | Speaks::Http2 { .. } => {
                            self.fail(index, failure, monotonic_ns());
                            return;
                        }
                    }
                }
            };
            let now = link.transport.arrived_ns(link.timing.sent_ns);
            let data = &self.buffer[..count];
            match &mut link.speaks {
                Speaks::Http { reader, .. } => {
                    if link.waiter.is_none() {
                        // Closed while idle, or it talks without being asked.
                        self.close(index);
                        return;
                    }
                    if count == 0 {
                        let begun = reader.has_begun();
                        match reader.closed() {
                            Some(reply) => self.replied(index, reply, now),
                            None => {
                                let text = if begun {
                                    "the connection was closed in the middle of the response"
                                } else {
                                    "the connection was closed without a response"
                                };
                                self.fail(index, Failure::new(ErrorKind::Reset, text), now);
                            }
                        }
                        return;
                    }
                    link.timing.bytes_received += count as u64;
                    if link.timing.first_byte_ns == 0 {
                        link.timing.first_byte_ns = now;
                    }
                    match reader.feed(data) {
                        Ok(Some(reply)) => {
                            self.replied(index, reply, now);
                            // What the server closes now shows itself by an event of its own.
                            return;
                        }
                        Ok(None) => {}
                        Err(text) => {
                            self.fail(index, Failure::new(ErrorKind::Protocol, text), now);
                            return;
                        }
                    }
                }
                Speaks::Http2 { .. } => {
                    if count == 0 {
                        self.cut_http2(index, now);
                        return;
                    }
                    if !self.received_http2(index, count, now) {
                        return;
                    }
                }
                Speaks::Raw {
                    is_udp: true,
                    datagrams,
                    ..
                } => {
                    if datagrams.len() < 4096 {
                        datagrams.push_back(data.to_vec());
                    }
                    if link.timing.first_byte_ns == 0 {
                        link.timing.first_byte_ns = now;
                    }
                    link.timing.bytes_received += count as u64;
                    self.serve_raw(index, now);
                    continue;
                }
                Speaks::Raw { inbox, closed, .. } => {
                    if count == 0 {
                        *closed = true;
                    } else {
                        inbox.extend_from_slice(data);
                        if link.timing.first_byte_ns == 0 {
                            link.timing.first_byte_ns = now;
                        }
                        link.timing.bytes_received += count as u64;
                    }
                    let (over, full) = (count == 0, inbox.len() > MOST_UNREAD_BYTES);
                    self.serve_raw(index, now);
                    if over {
                        return;
                    }
                    if full
                        && self.links[index as usize]
                            .as_ref()
                            .is_some_and(|link| link.waiter.is_some())
                    {
                        let text =
                            format!("more than {MOST_UNREAD_BYTES} bytes came without what was waited for");
                        self.fail(index, Failure::new(ErrorKind::Protocol, text), now);
                        return;
                    }
                }
            }
            // Edge-triggered: less than there was room for means that there is no more, but for the end.
            if !more && !self.has_hung_up(index) {
                return;
            }
            at_once += count;
            if at_once >= MOST_AT_ONCE_BYTES {
                self.unread.push((index, serial));
                return;
            }
        }
    }

    pub(super) fn has_hung_up(&self, index: u32) -> bool {
        self.links[index as usize]
            .as_ref()
            .is_some_and(|link| link.hung_up)
    }

    /// Gives a raw socket's reader what it waits for, if it is there, since `now`.
    pub(super) fn serve_raw(&mut self, index: u32, now: u64) {
        let Some(link) = self.links[index as usize].as_mut() else {
            return;
        };
        if link.waiter.is_none() {
            return;
        }
        let Speaks::Raw {
            inbox,
            wanted,
            datagrams,
            closed,
            fault,
            is_udp,
        } = &mut link.speaks
        else {
            return;
        };
        let Some(what) = wanted else { return };
        let found = match what {
            Receive::Datagram => datagrams.pop_front(),
            Receive::Some(most) if !inbox.is_empty() => {
                let count = inbox.len().min((*most).max(1));
                Some(inbox.drain(..count).collect())
            }
            Receive::Some(_) => None,
            Receive::Exactly(count) if inbox.len() >= *count => Some(inbox.drain(..*count).collect()),
            Receive::Exactly(_) => None,
            Receive::Until(end) => find(inbox, end).map(|at| inbox.drain(..at + end.len()).collect()),
        };
        let done = match found {
            Some(bytes) => Done::Received(bytes),
            None if *is_udp => match fault.take() {
                Some(failure) => Done::Failed(failure),
                None => return,
            },
            None if *closed => match (fault.take(), what) {
                (Some(failure), _) => Done::Failed(failure),
                (None, Receive::Some(_)) => Done::Received(Vec::new()),
                (None, _) => Done::Failed(Failure::new(
                    ErrorKind::Reset,
                    "the connection was closed before what was waited for came",
                )),
            },
            None => return,
        };
        *wanted = None;
        self.settle(index, done, now);
    }

    pub(super) fn settle(&mut self, index: u32, done: Done, now: u64) {
        let link = self.links[index as usize].as_mut().expect("it is open");
        if let Some(waiter) = link.waiter.take() {
            let timing = Timing {
                ended_ns: now,
                ..link.timing
            };
            self.finish(waiter, done, timing);
        }
    }

    pub(super) fn replied(&mut self, index: u32, reply: Reply, now: u64) {
        let link = self.links[index as usize].as_mut().expect("it is open");
        let whole = link.out_at == link.out.bytes().len();
        link.out = Outgoing::Own(Vec::new());
        link.out_at = 0;
        let waiter = link.waiter.take();
        let timing = Timing {
            ended_ns: now,
            ..link.timing
        };
        let Speaks::Http { user, origin, reader } = &link.speaks else {
            return;
        };
        let key = (*user, *origin);
        // A response before the request was out leaves the connection in the middle of it.
        if reader.keeps_alive() && whole && !link.hung_up {
            self.idle.entry(key).or_default().push(index);
        } else {
            self.close(index);
        }
        if let Some(waiter) = waiter {
            self.finish(waiter, Done::Replied(Box::new(reply)), timing);
        }
    }

    /// The connection is dead, and so is what was under way over it.
    pub(super) fn fail(&mut self, index: u32, failure: Failure, now: u64) {
        let link = self.links[index as usize].as_mut().expect("it is open");
        if let Speaks::Http2 { connection, .. } = &mut link.speaks {
            let all = connection.take_all();
            self.close(index);
            for exchange in all {
                self.settle_http2((exchange, Some(failure.clone())), now);
            }
            return;
        }
        let timing = Timing {
            ended_ns: now,
            ..link.timing
        };
        let waiter = link.waiter;
        self.close(index);
        if let Some(waiter) = waiter {
            self.finish(waiter, Done::Failed(failure), timing);
        }
    }
}

/// What became of a request that has waited for so long.
pub(super) fn too_late(link: &Link, waited_ns: u64) -> Failure {
    let waited = waited_ns as f64 * 1e-9;
    if link.transport.is_open() {
        Failure::new(
            ErrorKind::Timeout,
            format!("no complete response within {waited:.3} s"),
        )
    } else {
        Failure::new(
            ErrorKind::ConnectTimeout,
            format!("no connection within {waited:.3} s"),
        )
    }
}
