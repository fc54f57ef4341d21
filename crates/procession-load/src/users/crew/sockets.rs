//! Raw sockets.

use super::super::client::{parts, stranger_at};
use super::super::engine::{Done, Receive, Timing};
use super::*;
use crate::net::Endpoint;

impl Crew {
    /// Connects a raw socket to `HOST:PORT`.
    ///
    /// # Errors
    ///
    /// As [`Crew::request`].
    pub fn connect(
        &mut self,
        address: &str,
        is_udp: bool,
        timeout_ns: Option<u64>,
    ) -> Result<(Ticket, Option<Socket>), Option<Failure>> {
        self.may_begin().ok_or(None)?;
        let (endpoint, stranger) = match self.endpoints.get(address) {
            Some((endpoint, stranger)) => {
                self.may_ask(stranger.as_ref()).ok_or(None)?;
                (*endpoint, stranger.clone())
            }
            None => {
                let (host, port) = parts(address).map_err(Some)?;
                let stranger = stranger_at(&host);
                self.may_ask(stranger.as_ref()).ok_or(None)?;
                let resolved = Endpoint::resolve(&host, port).map_err(Some)?;
                let endpoint = self.engine.add_endpoint(resolved, None);
                self.endpoints
                    .insert(address.into(), (endpoint, stranger.clone()));
                (endpoint, stranger)
            }
        };
        let (ticket, socket) = self
            .engine
            .connect(endpoint, is_udp, timeout_ns.unwrap_or(self.timeout_ns));
        if let Some((socket, stranger)) = socket.zip(stranger) {
            self.strangers.insert(socket, stranger);
        }
        let op = if is_udp {
            Op::Pause
        } else {
            Op::Connect {
                name: format!("connect {address}"),
            }
        };
        Ok((self.put(ticket, op), socket))
    }

    /// Gives bytes to a raw socket.
    ///
    /// # Errors
    ///
    /// As [`Crew::pause`].
    pub fn send(&mut self, socket: Socket, bytes: Vec<u8>, timeout_ns: Option<u64>) -> Option<Ticket> {
        self.may_begin()?;
        if !self.strangers.is_empty() {
            self.may_ask(self.strangers.get(&socket))?;
        }
        let count = bytes.len() as u64;
        self.desk.with(|desk| desk.worker.recorder().bytes_sent(count));
        let ticket = self
            .engine
            .send(socket, bytes, timeout_ns.unwrap_or(self.timeout_ns));
        let now = now_ns();
        Some(self.put(
            ticket,
            Op::Raw {
                step: None,
                intended_ns: now,
                sent_ns: now,
            },
        ))
    }

    /// Receives from a raw socket. With a name, and the moment when the request was sent, it is counted as its response.
    ///
    /// # Errors
    ///
    /// As [`Crew::pause`].
    pub fn receive(
        &mut self,
        user: UserIndex,
        socket: Socket,
        what: Receive,
        exchange: Option<(&str, u64)>,
        timeout_ns: Option<u64>,
    ) -> Option<Ticket> {
        self.may_begin()?;
        let now = now_ns();
        let (step, sent_ns, intended_ns) = match exchange {
            Some((name, sent_ns)) => {
                let step = self.step(StepKind::Request, &name.into())?;
                self.desk.with(|desk| desk.worker.recorder().sent(sent_ns, 0));
                let intended_ns = self.take_lag(user, sent_ns);
                (Some(step), sent_ns, intended_ns)
            }
            None => (None, now, now),
        };
        let ticket = self
            .engine
            .receive(socket, what, timeout_ns.unwrap_or(self.timeout_ns));
        Some(self.put(
            ticket,
            Op::Raw {
                step,
                intended_ns,
                sent_ns,
            },
        ))
    }

    /// Closes a raw socket.
    pub fn close(&mut self, socket: Socket) {
        self.strangers.remove(&socket);
        self.engine.close_socket(socket);
    }

    /// A connection was made, or was not.
    pub(super) fn settle_connect(&mut self, name: &str, done: Done, timing: Timing) -> Option<Outcome> {
        let step = self.step(StepKind::Step, &name.into())?;
        let sample = Sample {
            intended_ns: timing.sent_ns,
            sent_ns: timing.sent_ns,
            ended_ns: timing.ended_ns,
            ..Sample::default()
        };
        Some(match done {
            Done::Failed(failure) => {
                self.desk.with(|desk| {
                    let recorder = desk.worker.recorder();
                    recorder.error(failure.kind, &failure.text);
                    recorder.ended(step, &sample, Some((failure.kind, &failure.text)));
                });
                Outcome::Failed(failure)
            }
            _ => {
                self.desk.with(|desk| {
                    desk.worker.recorder().ended(step, &sample, None);
                });
                Outcome::Ready
            }
        })
    }

    /// Something was sent or received, or was not.
    pub(super) fn settle_raw(&mut self, step: Option<StepId>, done: Done, sample: &Sample) -> Outcome {
        match done {
            Done::Received(bytes) => {
                if let Some(step) = step {
                    self.desk
                        .with(|desk| desk.worker.recorder().succeeded(step, sample));
                }
                Outcome::Received(bytes)
            }
            Done::Failed(failure) => {
                self.desk.with(|desk| {
                    let recorder = desk.worker.recorder();
                    match step {
                        Some(step) => recorder.failed(step, sample, failure.kind, &failure.text),
                        None => recorder.error(failure.kind, &failure.text),
                    }
                });
                Outcome::Failed(failure)
            }
            _ => Outcome::Ready,
        }
    }
}
