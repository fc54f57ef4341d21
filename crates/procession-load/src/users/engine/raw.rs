//! Raw TCP and UDP sockets of a user's own.

use super::*;

impl Engine {
    /// Opens a raw socket; the ticket is done when it is connected.
    pub fn connect(&mut self, endpoint: u32, is_udp: bool, timeout_ns: u64) -> (Ticket, Option<Socket>) {
        let now = monotonic_ns();
        let timing = Timing {
            sent_ns: now,
            ..Timing::default()
        };
        let speaks = Speaks::Raw {
            inbox: Vec::new(),
            wanted: None,
            datagrams: VecDeque::new(),
            is_udp,
            closed: false,
            fault: None,
        };
        match self.open(endpoint, is_udp, speaks, now) {
            Err(failure) => {
                let ticket = self.new_ticket(Waiting::Done);
                self.finish(
                    ticket.index,
                    Done::Failed(failure),
                    Timing {
                        ended_ns: monotonic_ns(),
                        ..timing
                    },
                );
                (ticket, None)
            }
            Ok(index) => {
                let ticket = self.new_ticket(Waiting::Link(index));
                let link = self.links[index as usize].as_mut().expect("it was just opened");
                link.timing = timing;
                link.waiter = Some(ticket.index);
                let socket = Socket {
                    index,
                    serial: link.serial,
                };
                if !link.transport.is_open() {
                    self.limit(index, now.saturating_add(timeout_ns));
                } else {
                    link.waiter = None;
                    let timing = Timing {
                        ended_ns: monotonic_ns(),
                        ..timing
                    };
                    self.finish(ticket.index, Done::Ready, timing);
                }
                (ticket, Some(socket))
            }
        }
    }

    pub(super) fn raw(&mut self, socket: Socket) -> Option<&mut Link> {
        let link = self.links.get_mut(socket.index as usize)?.as_mut()?;
        (link.serial == socket.serial).then_some(link)
    }

    /// Sends bytes on a raw socket; the ticket is done when the kernel has them.
    pub fn send(&mut self, socket: Socket, bytes: Vec<u8>, timeout_ns: u64) -> Ticket {
        self.on_socket(socket, timeout_ns, |engine, index| {
            let link = engine.links[index as usize].as_mut().expect("it is open");
            link.out = Outgoing::Own(bytes);
            link.out_at = 0;
            if let Speaks::Raw { wanted, .. } = &mut link.speaks {
                *wanted = None;
            }
            if link.transport.is_open() {
                engine.write(index);
            }
        })
    }

    /// Receives from a raw socket.
    pub fn receive(&mut self, socket: Socket, what: Receive, timeout_ns: u64) -> Ticket {
        self.on_socket(socket, timeout_ns, |engine, index| {
            let link = engine.links[index as usize].as_mut().expect("it is open");
            if let Speaks::Raw { wanted, .. } = &mut link.speaks {
                *wanted = Some(what);
            }
            engine.serve_raw(index, monotonic_ns());
        })
    }

    pub(super) fn on_socket(
        &mut self,
        socket: Socket,
        timeout_ns: u64,
        act: impl FnOnce(&mut Engine, u32),
    ) -> Ticket {
        let now = monotonic_ns();
        let usable = self.raw(socket).map(|link| link.waiter.is_none());
        if usable != Some(true) {
            let ticket = self.new_ticket(Waiting::Done);
            let text = if usable.is_none() {
                "the connection is closed"
            } else {
                "the connection is in use by another call"
            };
            let timing = Timing {
                sent_ns: now,
                ended_ns: now,
                ..Timing::default()
            };
            let kind = if usable.is_none() {
                ErrorKind::Reset
            } else {
                ErrorKind::Script
            };
            self.finish(ticket.index, Done::Failed(Failure::new(kind, text)), timing);
            return ticket;
        }
        let ticket = self.new_ticket(Waiting::Link(socket.index));
        let link = self.links[socket.index as usize].as_mut().expect("it is open");
        link.waiter = Some(ticket.index);
        link.timing = Timing {
            sent_ns: now,
            ..Timing::default()
        };
        self.limit(socket.index, now.saturating_add(timeout_ns));
        act(self, socket.index);
        ticket
    }

    /// Closes a raw socket.
    pub fn close_socket(&mut self, socket: Socket) {
        if self.raw(socket).is_some() {
            if let Some(waiter) = self.links[socket.index as usize]
                .as_mut()
                .and_then(|link| link.waiter.take())
            {
                let failure = Failure::new(ErrorKind::Reset, "the connection was closed while it was in use");
                self.finish(waiter, Done::Failed(failure), Timing::default());
            }
            self.close(socket.index);
        }
    }
}
