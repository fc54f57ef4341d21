//! The loop of a worker whose target is built in: when to begin the next request, and what became of it.
//!
//! A *place* has at most one request in flight: it is a user in the closed model, and one of the requests that may be in
//! flight in the open one. A *link* is a connection, which carries the requests of one place, or, of HTTP/2, of several.
//! What a request is, and how its response is told from others, is the [`Protocol`]'s business.
//!
//! In the closed model a place begins its next request in the same turn in which the last one's response was read: its
//! sending is the next system call. In the open model the place takes the next arrival that is overdue, or waits.

mod protocol;
mod timers;

use crate::net::{Failure, Poller, Ready};
use crate::now_ns;
use crate::plan::Plan;
use crate::record::{Datagram, Sample, StepId};
use crate::result::{ErrorKind, StepKind};
use crate::run::{Phase, Worker, Workload};
use crate::schedule::Random;
pub(crate) use protocol::{Ended, Protocol, Request, Turn};
use std::marker::PhantomData;
use std::os::fd::AsFd;
use timers::Timers;

/// The longest sleep: how soon a stop is noticed.
const LONGEST_SLEEP_NS: u64 = 50_000_000;
/// How often the number of users is looked at while it changes.
const STAGE_INTERVAL_NS: u64 = 5_000_000;
/// After a failed connection a user of the closed model pauses, longer each time: a server that is down would be hammered.
const LEAST_BACKOFF_NS: u64 = 1_000_000;
const MOST_BACKOFF_NS: u64 = 100_000_000;
/// How often a connection is looked at through the kernel's eyes.
const TCP_LOOK_INTERVAL_NS: u64 = 50_000_000;

/// A workload of this protocol; each worker makes its own.
pub(crate) struct Driven<P, F> {
    make: F,
    steps: u32,
    protocol: PhantomData<fn() -> P>,
}

impl<P: Protocol, F: Fn(&Plan) -> Result<P, String> + Send + Sync> Driven<P, F> {
    pub(crate) fn new(steps: usize, make: F) -> Driven<P, F> {
        Driven {
            make,
            steps: steps as u32,
            protocol: PhantomData,
        }
    }
}

impl<P: Protocol, F: Fn(&Plan) -> Result<P, String> + Send + Sync> Workload for Driven<P, F> {
    fn run(&self, worker: &mut Worker) -> Result<(), String> {
        let protocol = (self.make)(&worker.plan().clone())?;
        let mut driver = Driver::new(protocol, worker)?;
        driver
            .run()
            .map_err(|error| format!("cannot wait for the network: {error}"))
    }

    fn most_steps(&self) -> u32 {
        self.steps
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PlaceState {
    /// A user that is not there (yet, or any more).
    Absent,
    /// Waits for an arrival.
    Idle,
    /// Thinks, or pauses after a failure.
    Pausing,
    Busy,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    state: PlaceState,
    request: u32,
    failures_in_a_row: u32,
    intended_ns: u64,
    sent_ns: u64,
}

struct Link<L> {
    link: Option<L>,
    /// So that what the kernel told of an earlier link in this place is not taken for this one's.
    generation: u32,
}

struct Driver<'w, P: Protocol> {
    protocol: P,
    worker: &'w mut Worker,
    poller: Poller,
    steps: Vec<StepId>,
    /// Sums of weights; empty if there is only one request.
    weights: Vec<f64>,
    places: Vec<Place>,
    links: Vec<Link<P::Link>>,
    /// In the open model, the places that wait; the last one is taken first, so that few connections are used.
    idle: Vec<u32>,
    /// Those that failed before they could begin, to be looked at in the next turn: no recursion.
    stillborn: Vec<(u32, Failure)>,
    timers: Timers,
    busy: u32,
    present: u32,
    open_links: u32,
    has_rate: bool,
    random: Random,
    timeout_ns: u64,
    scan_interval_ns: u64,
    next_scan_ns: u64,
    next_stage_ns: u64,
    next_look_ns: u64,
    look_at: u32,
    ended: Vec<Ended>,
    /// What has ended as soon as it began, to be looked at in the next turn: no recursion.
    done: Vec<(u32, Ended)>,
    /// Links with something to send.
    unflushed: Vec<u32>,
    /// Links with more to read, and what they were ready for.
    unread: Vec<(u64, Ready)>,
}

impl<'w, P: Protocol> Driver<'w, P> {
    fn new(protocol: P, worker: &'w mut Worker) -> Result<Driver<'w, P>, String> {
        let plan = worker.plan().clone();
        let steps: Vec<StepId> = protocol
            .requests()
            .iter()
            .map(|request| worker.recorder().step(StepKind::Request, &request.name))
            .collect();
        let weights: Vec<f64> = protocol
            .requests()
            .iter()
            .scan(0.0, |sum, request| {
                *sum += request.weight;
                Some(*sum)
            })
            .collect();
        let places = worker.most_users();
        let links = places.div_ceil(protocol.streams()) * protocol.endpoints();
        let timeout_ns = plan.timeout.as_nanos() as u64;
        let scan_interval_ns = (timeout_ns / 50).clamp(1_000_000, 20_000_000);
        let has_rate = plan.pacing.has_rate();
        let absent = Place {
            state: PlaceState::Absent,
            request: 0,
            failures_in_a_row: 0,
            intended_ns: 0,
            sent_ns: 0,
        };
        let random = worker.random().clone();
        Ok(Driver {
            protocol,
            poller: Poller::new().map_err(|error| format!("cannot wait for the network: {error}"))?,
            worker,
            weights: if steps.len() > 1 { weights } else { Vec::new() },
            steps,
            places: vec![absent; places as usize],
            links: (0..links)
                .map(|_| Link {
                    link: None,
                    generation: 0,
                })
                .collect(),
            idle: Vec::new(),
            stillborn: Vec::new(),
            timers: Timers::default(),
            busy: 0,
            present: 0,
            open_links: 0,
            has_rate,
            random,
            timeout_ns,
            scan_interval_ns,
            next_scan_ns: 0,
            next_stage_ns: 0,
            next_look_ns: 0,
            look_at: 0,
            ended: Vec::new(),
            done: Vec::new(),
            unflushed: Vec::new(),
            unread: Vec::new(),
        })
    }

    fn run(&mut self) -> std::io::Result<()> {
        let start_ns = self.worker.wait_for_start();
        let mut now = start_ns.max(now_ns());
        if self.has_rate {
            for place in (0..self.places.len() as u32).rev() {
                self.places[place as usize].state = PlaceState::Idle;
                self.idle.push(place);
            }
        }
        let mut ready: Vec<(u64, Ready)> = Vec::new();
        loop {
            let phase = self.worker.phase(now);
            self.bury_the_stillborn();
            if phase == Phase::Over || self.is_through(phase, now) {
                break;
            }
            self.begin_what_is_due(phase, now);
            if now >= self.next_scan_ns {
                self.give_up_the_late(now);
            }
            if now >= self.next_look_ns {
                self.look_at_a_connection(now);
            }
            if P::FLUSHES {
                self.flush();
            }
            self.worker.turned(now);
            let sleep_ns = self.time_to_sleep(now);
            self.poller.wait_into(sleep_ns, &mut ready)?;
            ready.append(&mut self.unread);
            now = now_ns();
            for &(token, readiness) in &ready {
                now = self.serve(token, readiness, now);
                if P::FLUSHES {
                    self.flush();
                }
            }
        }
        self.count_the_unfinished(now_ns());
        Ok(())
    }

    fn is_through(&self, phase: Phase, now: u64) -> bool {
        let may_begin = if self.has_rate {
            self.worker.next_due_ns().is_some()
        } else {
            phase == Phase::Running && self.worker.may_begin(now)
        };
        self.busy == 0 && self.stillborn.is_empty() && self.done.is_empty() && !may_begin
    }

    fn time_to_sleep(&self, now: u64) -> u64 {
        if !self.stillborn.is_empty() || !self.done.is_empty() || !self.unread.is_empty() {
            return 0;
        }
        let mut until = now + LONGEST_SLEEP_NS;
        if self.has_rate && !self.idle.is_empty() {
            until = until.min(self.worker.next_due_ns().unwrap_or(u64::MAX));
        }
        until = until.min(self.timers.next_ns().unwrap_or(u64::MAX));
        if self.busy > 0 {
            until = until.min(self.next_scan_ns);
        }
        if !self.has_rate && (self.worker.users_change() || self.present == 0) {
            until = until.min(self.next_stage_ns);
        }
        until.saturating_sub(now)
    }

    fn begin_what_is_due(&mut self, phase: Phase, now: u64) {
        if self.has_rate {
            while !self.idle.is_empty() {
                let Some(intended) = self.worker.take_arrival(now) else {
                    break;
                };
                let Some(place) = self.idle.pop() else { break };
                let sent = now_ns();
                self.worker.recorder().delay(sent.saturating_sub(intended));
                self.launch(place, intended, sent);
            }
            return;
        }
        if phase == Phase::Running && now >= self.next_stage_ns {
            self.let_users_come(now);
        }
        while let Some(place) = self.timers.pop(now) {
            self.next_iteration(place, phase, now);
        }
    }

    /// Lets users begin whose time has come. Those whose time is over go when their request has ended.
    fn let_users_come(&mut self, now: u64) {
        self.next_stage_ns = if self.worker.users_change() {
            now + STAGE_INTERVAL_NS
        } else {
            u64::MAX
        };
        let wanted = self.worker.users_at(now);
        for place in 0..wanted {
            if self.places[place as usize].state == PlaceState::Absent {
                self.present += 1;
                self.next_iteration(place, Phase::Running, now);
            }
        }
        self.note_users();
    }

    fn note_users(&mut self) {
        let users = if self.has_rate {
            self.open_links
        } else {
            self.present
        };
        self.worker.recorder().users(u64::from(users));
    }

    /// In the closed model: what a place does that has nothing to do.
    fn next_iteration(&mut self, place: u32, phase: Phase, now: u64) {
        if self.worker.users_change() && place >= self.worker.users_at(now) {
            self.leave(place);
        } else if phase == Phase::Running && self.worker.take_iteration(now) {
            self.launch(place, now, now);
        } else {
            self.leave(place);
        }
    }

    fn leave(&mut self, place: u32) {
        self.places[place as usize].state = PlaceState::Absent;
        self.present -= 1;
        if self.protocol.streams() == 1 {
            for endpoint in 0..self.protocol.endpoints() {
                self.close(place * self.protocol.endpoints() + endpoint);
            }
        }
        self.note_users();
    }

    fn choose_request(&mut self) -> u32 {
        let Some(&all) = self.weights.last() else { return 0 };
        let drawn = self.random.unit() * all;
        self.weights
            .partition_point(|&sum| sum <= drawn)
            .min(self.weights.len() - 1) as u32
    }

    fn link_of(&self, place: u32, request: u32) -> u32 {
        let endpoint = self.protocol.requests()[request as usize].endpoint;
        place / self.protocol.streams() * self.protocol.endpoints() + endpoint
    }

    #[inline]
    fn launch(&mut self, number: u32, intended: u64, now: u64) {
        let request = self.choose_request();
        let place = &mut self.places[number as usize];
        place.state = PlaceState::Busy;
        place.request = request;
        place.intended_ns = intended;
        place.sent_ns = now;
        self.busy += 1;
        let bytes = self.protocol.requests()[request as usize].bytes;
        self.worker.recorder().sent(now, bytes);
        let link_number = self.link_of(number, request);
        let stream = number % self.protocol.streams();
        if self.links[link_number as usize].link.is_none() {
            if let Err(failure) = self.open(link_number, request, now) {
                self.stillborn.push((number, failure));
                return;
            }
        }
        let Some(link) = &mut self.links[link_number as usize].link else {
            return;
        };
        match self
            .protocol
            .begin(link, stream, request, now, self.worker.recorder())
        {
            Err(failure) => self.fail_link(link_number, &failure),
            Ok(()) => {
                if P::FLUSHES {
                    self.unflushed.push(link_number);
                }
                if let Some(ended) = self.protocol.begun(link, stream, now) {
                    self.done.push((number, ended));
                }
            }
        }
    }

    /// Sends what the protocol has kept to send it together.
    fn flush(&mut self) {
        while let Some(link_number) = self.unflushed.pop() {
            let Some(link) = &mut self.links[link_number as usize].link else {
                continue;
            };
            if let Err(failure) = self.protocol.flush(link) {
                self.fail_link(link_number, &failure);
            }
        }
    }

    fn open(&mut self, link_number: u32, request: u32, now: u64) -> Result<(), Failure> {
        let endpoint = self.protocol.requests()[request as usize].endpoint;
        let link = self
            .protocol
            .open(link_number, endpoint, now, self.worker.recorder())?;
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

    fn close(&mut self, link_number: u32) {
        // The kernel forgets a descriptor that is closed, along with what there was to tell of it.
        if self.links[link_number as usize].link.take().is_some() {
            self.open_links -= 1;
            if self.has_rate {
                self.note_users();
            }
        }
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
    fn fail_link(&mut self, link_number: u32, failure: &Failure) {
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
        match &mut self.links[link_number as usize].link {
            Some(link) => self
                .protocol
                .begin(link, stream, request, now, self.worker.recorder()),
            None => Ok(()),
        }
    }

    fn bury_the_stillborn(&mut self) {
        if !self.done.is_empty() {
            for (place, ended) in std::mem::take(&mut self.done) {
                self.end(place, ended.ended_ns, Ok(()), &ended);
            }
        }
        if self.stillborn.is_empty() {
            return;
        }
        for (place, failure) in std::mem::take(&mut self.stillborn) {
            let now = now_ns();
            self.end(place, now, Err(failure), &Ended::default());
        }
    }

    #[inline]
    fn serve(&mut self, token: u64, readiness: Ready, now: u64) -> u64 {
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
                self.end(place, ended.ended_ns, outcome, &ended);
            }
        }
        self.ended = ended;
        now
    }

    #[inline]
    fn end(&mut self, number: u32, now: u64, outcome: Result<(), Failure>, ended: &Ended) {
        let place = &mut self.places[number as usize];
        let sample = Sample {
            intended_ns: place.intended_ns,
            sent_ns: place.sent_ns,
            written_ns: ended.written_ns,
            first_byte_ns: ended.first_byte_ns,
            ended_ns: now,
            bytes_received: ended.bytes_received,
            status: ended.status,
        };
        let step = self.steps[place.request as usize];
        self.busy -= 1;
        match outcome {
            Ok(()) => {
                place.failures_in_a_row = 0;
                self.worker.recorder().succeeded(step, &sample);
                self.go_on(number, now, 0);
            }
            Err(failure) => {
                let pause = if failure.kind.has_response() {
                    place.failures_in_a_row = 0;
                    0
                } else {
                    place.failures_in_a_row += 1;
                    backoff_ns(place.failures_in_a_row, failure.kind)
                };
                self.worker
                    .recorder()
                    .failed(step, &sample, failure.kind, &failure.text);
                self.go_on(number, now, pause);
            }
        }
    }

    /// What a place does next whose request has ended just now.
    #[inline]
    fn go_on(&mut self, number: u32, now: u64, pause_ns: u64) {
        if self.has_rate {
            let saturated = self.idle.is_empty();
            match self.worker.take_arrival(now) {
                Some(intended) => {
                    // While all places were busy, it was not our fault that it waited.
                    let delay = if saturated {
                        0
                    } else {
                        now.saturating_sub(intended)
                    };
                    self.worker.recorder().delay(delay);
                    self.launch(number, intended, now);
                }
                None => {
                    self.places[number as usize].state = PlaceState::Idle;
                    self.idle.push(number);
                }
            }
            return;
        }
        let pause_ns = pause_ns + self.worker.think_ns();
        if pause_ns > 0 {
            self.places[number as usize].state = PlaceState::Pausing;
            self.timers.push(now + pause_ns, number);
            return;
        }
        let phase = self.worker.phase(now);
        self.next_iteration(number, phase, now);
    }

    fn give_up_the_late(&mut self, now: u64) {
        self.next_scan_ns = now + self.scan_interval_ns;
        if self.busy == 0 {
            return;
        }
        for number in 0..self.places.len() as u32 {
            let place = self.places[number as usize];
            if place.state != PlaceState::Busy || now.saturating_sub(place.sent_ns) < self.timeout_ns {
                continue;
            }
            if self.stillborn.iter().any(|(stillborn, _)| *stillborn == number) {
                continue;
            }
            let link_number = self.link_of(number, place.request);
            let stream = number % self.protocol.streams();
            let Some(link) = &mut self.links[link_number as usize].link else {
                continue;
            };
            let connected = self.protocol.is_connected(link);
            if !connected {
                self.protocol.look_at_failed_connect(link, self.worker.recorder());
            }
            let goes_on = self.protocol.abandon(link, stream);
            if !goes_on {
                self.close(link_number);
            } else if P::FLUSHES {
                self.unflushed.push(link_number);
            }
            let limit = self.timeout_ns as f64 * 1e-9;
            let kind = self.protocol.timeout_kind();
            if kind == ErrorKind::Lost {
                self.worker.recorder().datagram(Datagram::Lost);
            }
            let failure = if connected {
                Failure::new(kind, format!("no complete response within {limit} s"))
            } else {
                Failure::new(
                    ErrorKind::ConnectTimeout,
                    format!("no connection within {limit} s"),
                )
            };
            self.end(number, now, Err(failure), &Ended::default());
        }
    }

    fn look_at_a_connection(&mut self, now: u64) {
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

    fn count_the_unfinished(&mut self, now: u64) {
        self.bury_all(now);
        for place in self.places.iter().filter(|place| place.state == PlaceState::Busy) {
            let step = self.steps[place.request as usize];
            self.worker
                .recorder()
                .censored(step, place.intended_ns, place.sent_ns, now);
        }
        if let Some(&step) = self.steps.first() {
            self.worker.give_up_arrivals(step, now);
        }
    }

    /// Counts what has failed, without anything new beginning.
    fn bury_all(&mut self, now: u64) {
        for (number, failure) in std::mem::take(&mut self.stillborn) {
            let place = &mut self.places[number as usize];
            place.state = PlaceState::Idle;
            let sample = Sample {
                intended_ns: place.intended_ns,
                sent_ns: place.sent_ns,
                ended_ns: now,
                ..Sample::default()
            };
            let step = self.steps[place.request as usize];
            self.worker
                .recorder()
                .failed(step, &sample, failure.kind, &failure.text);
        }
    }
}

fn backoff_ns(failures_in_a_row: u32, kind: ErrorKind) -> u64 {
    // A connection that was broken off is made again at once: the server is there.
    if !matches!(
        kind,
        ErrorKind::Refused | ErrorKind::Dns | ErrorKind::Generator | ErrorKind::Network | ErrorKind::Tls
    ) {
        return 0;
    }
    (LEAST_BACKOFF_NS << failures_in_a_row.min(10)).min(MOST_BACKOFF_NS)
}
