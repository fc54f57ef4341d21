//! Requests, and how they go over HTTP/1.1.

use super::*;

impl Engine {
    /// Sends a request of a user to an origin, over a connection that has room for it, or else over a new one to `endpoint`.
    pub(in crate::users) fn request(
        &mut self,
        user: u32,
        origin: u32,
        endpoint: u32,
        sending: Sending,
        timeout_ns: u64,
    ) -> Ticket {
        if self.version == HttpVersion::Http2 {
            return self.request_http2(user, origin, endpoint, sending, timeout_ns);
        }
        let now = monotonic_ns();
        let timing = Timing {
            sent_ns: now,
            ..Timing::default()
        };
        let index = match self.idle.get_mut(&(user, origin)).and_then(Vec::pop) {
            Some(index) => index,
            None => {
                let speaks = Speaks::Http {
                    user,
                    origin,
                    reader: ReplyReader::default(),
                };
                match self.open(endpoint, false, speaks, now) {
                    Ok(index) => index,
                    Err(failure) => {
                        let ticket = self.new_ticket(Waiting::Done);
                        let timing = Timing {
                            ended_ns: monotonic_ns(),
                            ..timing
                        };
                        self.finish(ticket.index, Done::Failed(failure), timing);
                        return ticket;
                    }
                }
            }
        };
        let ticket = self.new_ticket(Waiting::Link(index));
        let link = self.links[index as usize].as_mut().expect("idle links are open");
        link.waiter = Some(ticket.index);
        link.timing = timing;
        link.out = sending.out;
        link.out_at = 0;
        if let Speaks::Http { reader, .. } = &mut link.speaks {
            reader.begin(sending.to_head);
        }
        self.limit(index, now.saturating_add(timeout_ns));
        if self.links[index as usize]
            .as_ref()
            .is_none_or(|link| link.transport.is_open())
        {
            self.write(index);
        }
        ticket
    }

    /// Looks for connections that were closed while nobody looked; worth it before a request, after a pause.
    pub fn look_for_closed(&mut self) -> io::Result<()> {
        if monotonic_ns().saturating_sub(self.looked_ns) > 1_000_000 {
            self.turn()?;
        }
        Ok(())
    }
}
