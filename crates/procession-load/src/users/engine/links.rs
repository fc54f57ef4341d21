//! Connections: made, looked up, kept alive, closed.

use super::*;

impl Engine {
    /// A server, by a number that requests name it by; with TLS if there is a client for it.
    pub fn add_endpoint(&mut self, endpoint: Endpoint, tls: Option<TlsClient>) -> u32 {
        if tls.is_some() && self.sealed.is_empty() {
            self.sealed = vec![0; READ_BYTES].into_boxed_slice();
        }
        self.endpoints.push(Server { endpoint, tls });
        (self.endpoints.len() - 1) as u32
    }

    pub(super) fn open(
        &mut self,
        endpoint: u32,
        is_udp: bool,
        speaks: Speaks,
        now_ns: u64,
    ) -> Result<u32, Failure> {
        let server = &self.endpoints[endpoint as usize];
        let transport = match server.endpoint.address() {
            Address::Ip(address) if is_udp => {
                let fd = net::udp(address)?;
                net::note_arrivals(&fd);
                Transport::Udp(fd, None)
            }
            _ => Transport::Tcp(server.open(now_ns)?),
        };
        self.serial = self.serial.wrapping_add(1);
        let link = Link {
            tried: server.endpoint.chosen(),
            transport,
            endpoint,
            serial: self.serial,
            hung_up: false,
            waiter: None,
            limit_ns: u64::MAX,
            armed_ns: u64::MAX,
            out: Outgoing::Own(Vec::new()),
            out_at: 0,
            timing: Timing::default(),
            speaks,
        };
        let index = self.free_links.pop().unwrap_or_else(|| {
            self.links.push(None);
            (self.links.len() - 1) as u32
        });
        if let Err(failure) = self.watch(&link, index) {
            self.free_links.push(index);
            return Err(failure);
        }
        self.links[index as usize] = Some(link);
        Ok(index)
    }

    pub(super) fn watch(&self, link: &Link, index: u32) -> Result<(), Failure> {
        let data = EventData::new_u64(u64::from(index) | u64::from(link.serial) << 32);
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&*self.epoll, link.transport.as_fd(), data, interest)
            .map_err(|errno| Failure::of_system("cannot watch a connection", errno))
    }

    /// Nobody is at this address of the server: tries the next one, if there is one.
    pub(super) fn open_elsewhere(&mut self, index: u32, now_ns: u64) -> bool {
        let Some(mut link) = self.links[index as usize].take() else {
            return false;
        };
        let server = &mut self.endpoints[link.endpoint as usize];
        let mut opened = false;
        while server.endpoint.try_next(link.tried) {
            link.tried = server.endpoint.chosen();
            if let Ok(stream) = server.open(now_ns) {
                link.transport = Transport::Tcp(stream);
                opened = true;
                break;
            }
        }
        let opened = opened && self.watch(&link, index).is_ok();
        self.links[index as usize] = Some(link);
        opened
    }

    pub(super) fn close(&mut self, index: u32) {
        if let Some(link) = self.links[index as usize].take() {
            self.free_links.push(index);
            let Some(key) = link.speaks.between() else {
                return;
            };
            if matches!(link.speaks, Speaks::Http2 { .. }) {
                self.retire(key, index);
            } else if let (Some(idle), None) = (self.idle.get_mut(&key), link.waiter) {
                idle.retain(|other| *other != index);
            }
        }
    }

    pub(super) fn limit(&mut self, index: u32, at_ns: u64) {
        let link = self.links[index as usize]
            .as_mut()
            .expect("the link was just used");
        link.limit_ns = at_ns;
        // One timer for each link, which finds out when it rings whether it was the right time.
        if at_ns < link.armed_ns {
            link.armed_ns = at_ns;
            let serial = link.serial;
            self.timers.add(at_ns, Due::Limit { link: index, serial });
        }
    }

    /// Closes all connections of a user.
    pub fn forget_user(&mut self, user: u32) {
        let is_done = |link: &Link| match &link.speaks {
            Speaks::Http2 { connection, .. } => connection.is_idle(),
            _ => link.waiter.is_none(),
        };
        let of_user = |link: &Link| link.speaks.between().is_some_and(|(other, _)| other == user);
        let found: Vec<u32> = (0..self.links.len() as u32)
            .filter(|&index| {
                self.links[index as usize]
                    .as_ref()
                    .is_some_and(|link| of_user(link) && is_done(link))
            })
            .collect();
        found.into_iter().for_each(|index| self.close(index));
        self.idle.retain(|(other, _), _| *other != user);
    }
}
