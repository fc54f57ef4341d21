//! The loop of a worker whose target is built in: when to begin the next request, and what became of it.
//!
//! A *place* has at most one request in flight: it is a user in the closed model, and one of the requests that may be in
//! flight in the open one. A *link* is a connection, which carries the requests of one place, or, of HTTP/2, of several.
//! What a request is, and how its response is told from others, is the [`Protocol`]'s business.
//!
//! In the closed model a place begins its next request in the same turn in which the last one's response was read: its
//! sending is the next system call. In the open model the place takes the next arrival that is overdue, or waits.

mod link;
mod place;
mod protocol;
mod timers;

use crate::net::{Failure, Poller, Ready};
use crate::now_ns;
use crate::plan::Plan;
use crate::record::{Datagram, StepId};
use crate::result::{ErrorKind, StepKind};
use crate::run::{Phase, Worker, Workload};
use crate::schedule::Random;
use link::Link;
use place::{Place, PlaceState};
use procession::os::time::sleep_until_ns;
pub(crate) use protocol::{Ended, Protocol, Request, Turn};
use std::marker::PhantomData;
use timers::Timers;

/// The longest sleep: how soon a stop is noticed.
const LONGEST_SLEEP_NS: u64 = 50_000_000;

/// The longest time for which responses are left unread that could be read. Also a server that sends as fast as it can
/// does not have to wait for us within it.
const LONGEST_REST_NS: u64 = 200_000;

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
    /// How many links have to be served as soon as there is something to do for them.
    restless_links: u32,
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
                    restless: false,
                })
                .collect(),
            idle: Vec::new(),
            stillborn: Vec::new(),
            timers: Timers::default(),
            busy: 0,
            present: 0,
            open_links: 0,
            restless_links: 0,
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
            let mut sleep_ns = self.time_to_sleep(now);
            if self.responses_can_wait(sleep_ns) {
                sleep_until_ns(now + sleep_ns);
                // What lies there is read before anything is sent: a server may have closed a connection meanwhile.
                sleep_ns = 0;
            }
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
            self.worker.next_due_ns().is_some() || self.worker.rate_lasts_until_ns(now).is_some()
        } else {
            phase == Phase::Running && self.worker.may_begin(now)
        };
        self.busy == 0 && self.stillborn.is_empty() && self.done.is_empty() && !may_begin
    }

    /// Whether those responses that come before the next request is due may lie there until then: it wakes us anyway, and the
    /// kernel notes when they came. A core that sleeps and wakes for each of both spends more on that than on the requests.
    fn responses_can_wait(&self, sleep_ns: u64) -> bool {
        self.has_rate
            && self.restless_links == 0
            && !self.idle.is_empty()
            && (1..=LONGEST_REST_NS).contains(&sleep_ns)
            && self.worker.next_due_ns().is_some()
    }

    fn time_to_sleep(&self, now: u64) -> u64 {
        if !self.stillborn.is_empty() || !self.done.is_empty() || !self.unread.is_empty() {
            return 0;
        }
        let mut until = now + LONGEST_SLEEP_NS;
        if self.has_rate && !self.idle.is_empty() {
            let next_ns = self.worker.next_due_ns().or(self.worker.rate_lasts_until_ns(now));
            until = until.min(next_ns.unwrap_or(u64::MAX));
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
            let limit = self.timeout_ns as f64 / 1e9;
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
            self.end(number, now, Err(failure), &Ended::at(now));
        }
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
}
