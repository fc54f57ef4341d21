//! Links: opened for the first request, served when the kernel says so, and ended with what they carry.

use super::place::PlaceState;
use super::{Driver, Protocol, Turn};
use crate::net::{Failure, Ready};
use crate::now_ns;
use crate::result::ErrorKind;
use std::os::fd::AsFd;

/// How often a connection is looked at through the kernel's eyes.
const TCP_LOOK_INTERVAL_NS: u64 = 50_000_000;

pub(super) struct Link<L> {
    pub(super) link: Option<L>,
    /// So that what the kernel told of an earlier link in this place is not taken for this one's.
    pub(super) generation: u32,
    /// Whether it is among those that cannot wait.
    pub(super) restless: bool,
}

impl<'w, P: Protocol> Driver<'w, P> {
    pub(super) fn link_of(&self, place: u32, request: u32) -> u32 {
        let endpoint = self.protocol.requests()[request as usize].endpoint;
        place / self.protocol.streams() * self.protocol.endpoints() + endpoint
    }

    /// Sends what the protocol has kept to send it together.
    pub(super) fn flush(&mut self) {
        while let Some(link_number) = self.unflushed.pop() {
            let Some(link) = &mut self.links[link_number as usize].link else {
                continue;
            };
            if let Err(failure) = self.protocol.flush(link) {
                self.fail_link(link_number, &failure);
            }
        }
    }

    pub(super) fn open(&mut self, link_number: u32, request: u32, now: u64) -> Result<(), Failure> {
        let endpoint = self.protocol.requests()[request as usize].endpoint;
        let mut link = self
            .protocol
            .open(link_number, endpoint, now, self.worker.recorder())?;
        if self.has_rate {
            self.protocol.note_arrivals(&mut link);
        }
        let entry = &mut self.links[link_number as usize];
        entry.generation = entry.generation.wrapping_add(1);
        let token = u64::from(entry.generation) << 32 | u64::from(link_number);
        self.poller
            .add(self.protocol.fd(&link).as_fd(), token)
            .map_err(|error| {
                Failure::new(
                    ErrorKind::Generator,
                    format!("cannot watch a connection: {error}"),
                )
            })?;
        entry.link = Some(link);
        self.open_links += 1;
        if self.has_rate {
            self.note_users();
        }
        Ok(())
    }

    pub(super) fn close(&mut self, link_number: u32) {
        // The kernel forgets a descriptor that is closed, along with what there was to tell of it.
        if self.links[link_number as usize].link.take().is_some() {
            self.open_links -= 1;
            if self.has_rate {
                self.note_users();
            }
            self.note_unrest(link_number);
        }
    }

    /// Counts a link among those that cannot wait, or no longer.
    #[inline]
    pub(super) fn note_unrest(&mut self, link_number: u32) {
        if !self.has_rate {
            return;
        }
        let entry = &mut self.links[link_number as usize];
        let restless = entry
            .link
            .as_ref()
            .is_some_and(|link| !self.protocol.can_wait(link));
        match (entry.restless, restless) {
            (false, true) => self.restless_links += 1,
            (true, false) => self.restless_links -= 1,
            _ => {}
        }
        entry.restless = restless;
    }

    /// The places whose requests this link carries now.
    fn busy_places_of(&self, link_number: u32) -> impl Iterator<Item = u32> + use<'_, 'w, P> {
        let (streams, endpoints) = (self.protocol.streams(), self.protocol.endpoints());
        let first = link_number / endpoints * streams;
        let last = (first + streams).min(self.places.len() as u32);
        (first..last).filter(move |&place| {
            let state = &self.places[place as usize];
            state.state == PlaceState::Busy && self.link_of(place, state.request) == link_number
        })
    }

    #[cold]
    pub(super) fn fail_link(&mut self, link_number: u32, failure: &Failure) {
        self.fail_link_except(link_number, failure, |_| false);
    }

    /// Ends a link, and, in the next turn, all requests on it but those that end otherwise: in the next turn, so that a
    /// request that fails at once does not begin the next one from within.
    #[cold]
    fn fail_link_except(&mut self, link_number: u32, failure: &Failure, except: impl Fn(u32) -> bool) {
        let retry = match &self.links[link_number as usize].link {
            Some(link) => !self.protocol.is_connected(link) && self.protocol.try_next(link),
            None => false,
        };
        self.close(link_number);
        let places: Vec<u32> = self
            .busy_places_of(link_number)
            .filter(|&place| !except(place))
            .collect();
        for place in places {
            if self.stillborn.iter().any(|(stillborn, _)| *stillborn == place) {
                continue;
            }
            if retry && self.begin_again(place).is_ok() {
                continue;
            }
            self.stillborn.push((place, failure.clone()));
        }
    }

    /// Begins a place's request once more, on another address of the server: it has not been sent anywhere yet.
    fn begin_again(&mut self, number: u32) -> Result<(), Failure> {
        let request = self.places[number as usize].request;
        let link_number = self.link_of(number, request);
        let now = now_ns();
        if self.links[link_number as usize].link.is_none() {
            self.open(link_number, request, now)?;
        }
        if P::FLUSHES {
            self.unflushed.push(link_number);
        }
        let stream = number % self.protocol.streams();
        let begun = match &mut self.links[link_number as usize].link {
            Some(link) => self
                .protocol
                .begin(link, stream, request, now, self.worker.recorder()),
            None => Ok(()),
        };
        self.note_unrest(link_number);
        begun
    }

    #[inline]
    pub(super) fn serve(&mut self, token: u64, readiness: Ready, now: u64) -> u64 {
        let link_number = token as u32;
        let Some(entry) = self.links.get_mut(link_number as usize) else {
            return now;
        };
        if entry.generation != (token >> 32) as u32 {
            return now;
        }
        let Some(link) = &mut entry.link else { return now };
        let mut turn = Turn {
            now_ns: now,
            ended: std::mem::take(&mut self.ended),
            has_unread: false,
            recorder: self.worker.recorder(),
        };
        let result = self.protocol.ready(link, readiness, &mut turn);
        let now = turn.now_ns;
        if turn.has_unread {
            self.unread.push((token, readiness));
        }
        let mut ended = turn.ended;
        if let Ok(false) = result {
            self.close(link_number);
        }
        let first_place = link_number / self.protocol.endpoints() * self.protocol.streams();
        if let Err(failure) = result {
            // Before others begin, so that they begin on a link that works.
            let ending = |place: u32| ended.iter().any(|ended| first_place + ended.stream == place);
            self.fail_link_except(link_number, &failure, ending);
        } else if P::FLUSHES && self.links[link_number as usize].link.is_none() {
            let ending = |place: u32| ended.iter().any(|ended| first_place + ended.stream == place);
            let unsent: Vec<u32> = self
                .busy_places_of(link_number)
                .filter(|&place| !ending(place))
                .collect();
            for place in unsent {
                if let Err(failure) = self.begin_again(place) {
                    self.stillborn.push((place, failure));
                }
            }
        } else if P::FLUSHES {
            self.unflushed.push(link_number);
        }
        for ended in ended.drain(..) {
            let place = first_place + ended.stream;
            let outcome = match &ended.failure {
                None => Ok(()),
                Some(failure) => Err(failure.clone()),
            };
            if self
                .places
                .get(place as usize)
                .is_some_and(|place| place.state == PlaceState::Busy)
            {
                self.end(place, now, outcome, &ended);
            }
        }
        self.ended = ended;
        self.note_unrest(link_number);
        now
    }

    pub(super) fn look_at_a_connection(&mut self, now: u64) {
        self.next_look_ns = now + TCP_LOOK_INTERVAL_NS;
        let links = self.links.len() as u32;
        for step in 0..links.min(64) {
            let number = (self.look_at + step) % links;
            if let Some(link) = &mut self.links[number as usize].link {
                if self.protocol.is_connected(link) {
                    self.look_at = (number + 1) % links;
                    self.protocol.look(link, self.worker.recorder());
                    return;
                }
            }
        }
        self.look_at = (self.look_at + 64) % links.max(1);
    }
}
