use super::counters::SharedCounters;
use super::{Served, ServerOptions, Spoil};
use crate::net::{receive, send, Poller};
use crate::now_ns;
use rustix::net::{self, sockopt, SocketFlags};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

const LISTENER: u64 = u64::MAX;
const MOST_HEADERS: usize = 64;
const MALFORMED: &[u8] = b"220 mail.example ESMTP ready\r\n";

struct Connection {
    fd: OwnedFd,
    /// What has come in and is not a whole request yet.
    held: Vec<u8>,
    /// What did not fit out.
    unsent: Vec<u8>,
    close_when_sent: bool,
}

struct Server<'a> {
    options: &'a ServerOptions,
    counters: &'a SharedCounters,
    poller: Poller,
    connections: Vec<Option<Connection>>,
    generations: Vec<u32>,
    free: Vec<u32>,
    /// Answers that wait for their moment.
    waiting: BinaryHeap<Reverse<(u64, u64, u8)>>,
    answers: Answers,
    requests: u64,
    stall_ns: Option<u64>,
}

struct Answers {
    good: Vec<u8>,
    status_500: Vec<u8>,
}

/// Answers until the process is killed.
pub(super) fn serve(
    listener: &OwnedFd,
    options: &ServerOptions,
    counters: &SharedCounters,
) -> io::Result<()> {
    let poller = Poller::new()?;
    poller.add(listener, LISTENER)?;
    let mut server = Server {
        options,
        counters,
        poller,
        connections: Vec::new(),
        generations: Vec::new(),
        free: Vec::new(),
        waiting: BinaryHeap::new(),
        answers: Answers::new(options),
        requests: 0,
        stall_ns: None,
    };
    let mut ready = Vec::new();
    let mut buffer = vec![0u8; 64 * 1024];
    loop {
        let now = now_ns();
        let mut sleep_ns = 1_000_000_000;
        if let Some(Reverse((when, _, _))) = server.waiting.peek() {
            sleep_ns = when.saturating_sub(now).min(sleep_ns);
        }
        if let Some(stall) = server.stall_ns {
            sleep_ns = stall.saturating_sub(now).min(sleep_ns);
        }
        server.poller.wait_into(sleep_ns, &mut ready)?;
        server.stall_if_due();
        for &(token, _) in &ready {
            if token == LISTENER {
                server.accept(listener);
            } else {
                server.serve(token, &mut buffer);
            }
        }
        server.answer_the_waiting();
    }
}

impl Answers {
    fn new(options: &ServerOptions) -> Answers {
        let body = match options.body_bytes {
            Some(bytes) => "x".repeat(bytes),
            None => "ok".to_owned(),
        };
        let close = if options.close {
            "Connection: close\r\n"
        } else {
            ""
        };
        let answer = |status: &str, body: &str| {
            let text = format!(
                "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\n{close}Content-Length: {}\r\n\r\n{body}",
                body.len()
            );
            text.into_bytes()
        };
        Answers {
            good: answer("200 OK", &body),
            status_500: answer("500 Internal Server Error", "failed on request"),
        }
    }
}

/// What becomes of the request of this number. Spread over each hundred, so that every stretch of requests has its share.
fn fate(spoil: &Spoil, number: u64) -> Served {
    // 37 has no divisor in common with 100: all hundred places occur.
    let place = (number % 100 * 37 % 100) as u8;
    let mut border = 0;
    for (share, fate) in [
        (spoil.status_500, Served::Status500),
        (spoil.reset, Served::Reset),
        (spoil.never, Served::Never),
        (spoil.half, Served::Half),
        (spoil.malformed, Served::Malformed),
    ] {
        border += share;
        if place < border {
            return fate;
        }
    }
    Served::Good
}

const FATES: [Served; 6] = [
    Served::Good,
    Served::Status500,
    Served::Reset,
    Served::Never,
    Served::Half,
    Served::Malformed,
];

impl Server<'_> {
    fn stall_if_due(&mut self) {
        let Some((_, hold)) = self.options.stall else {
            return;
        };
        if self.stall_ns.is_some_and(|at| now_ns() >= at) {
            self.stall_ns = Some(u64::MAX);
            std::thread::sleep(hold);
        }
    }

    fn accept(&mut self, listener: &OwnedFd) {
        while let Ok(fd) = net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            let _ = sockopt::set_tcp_nodelay(&fd, true);
            let number = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.generations.push(0);
                self.connections.len() as u32 - 1
            });
            self.generations[number as usize] += 1;
            let token = u64::from(self.generations[number as usize]) << 32 | u64::from(number);
            if self.poller.add(&fd, token).is_err() {
                self.free.push(number);
                continue;
            }
            self.connections[number as usize] = Some(Connection {
                fd,
                held: Vec::new(),
                unsent: Vec::new(),
                close_when_sent: false,
            });
        }
    }

    fn close(&mut self, number: u32) {
        if self.connections[number as usize].take().is_some() {
            self.free.push(number);
        }
    }

    fn serve(&mut self, token: u64, buffer: &mut [u8]) {
        let number = token as u32;
        if self.generations.get(number as usize) != Some(&((token >> 32) as u32)) {
            return;
        }
        self.flush(number);
        loop {
            let Some(connection) = &mut self.connections[number as usize] else {
                return;
            };
            match receive(&connection.fd, buffer) {
                Ok(None) => return,
                Ok(Some(0)) | Err(_) => return self.close(number),
                Ok(Some(n)) => {
                    let was_all = n < buffer.len();
                    if !self.take(token, &buffer[..n]) {
                        return;
                    }
                    if was_all {
                        return;
                    }
                }
            }
        }
    }

    /// Answers the requests that these bytes complete: whether the connection is still there.
    fn take(&mut self, token: u64, new: &[u8]) -> bool {
        let number = token as u32;
        let Some(connection) = &mut self.connections[number as usize] else {
            return false;
        };
        let mut held = std::mem::take(&mut connection.held);
        let bytes: &[u8] = if held.is_empty() {
            new
        } else {
            held.extend_from_slice(new);
            &held
        };
        let mut at = 0;
        loop {
            match request_length(&bytes[at..]) {
                Ok(Some(length)) => {
                    at += length;
                    if !self.request(token) {
                        return false;
                    }
                }
                Ok(None) => break,
                Err(()) => {
                    self.close(number);
                    return false;
                }
            }
        }
        if at < bytes.len() {
            if let Some(connection) = &mut self.connections[number as usize] {
                connection.held = bytes[at..].to_vec();
            }
        }
        true
    }

    fn request(&mut self, token: u64) -> bool {
        if self.requests == 0 {
            let at = self.options.stall.map(|(after, _)| after);
            self.stall_ns = at.map(|after: Duration| now_ns() + after.as_nanos() as u64);
        }
        let fate = fate(&self.options.spoil, self.requests);
        self.requests += 1;
        if self.options.delay.is_zero() {
            return self.answer(token as u32, fate);
        }
        let when = now_ns() + self.options.delay.as_nanos() as u64;
        self.waiting.push(Reverse((when, token, fate as u8)));
        true
    }

    fn answer_the_waiting(&mut self) {
        while let Some(&Reverse((when, token, fate))) = self.waiting.peek() {
            if when > now_ns() {
                return;
            }
            self.waiting.pop();
            if self.generations[token as u32 as usize] == (token >> 32) as u32 {
                self.answer(token as u32, FATES[fate as usize]);
            }
        }
    }

    fn answer(&mut self, number: u32, fate: Served) -> bool {
        let Some(connection) = &mut self.connections[number as usize] else {
            return false;
        };
        self.counters.add(fate as usize);
        let (bytes, close): (&[u8], bool) = match fate {
            Served::Good => (&self.answers.good, self.options.close),
            Served::Status500 => (&self.answers.status_500, self.options.close),
            Served::Never => return true,
            Served::Half => (&self.answers.good[..self.answers.good.len() / 2], true),
            Served::Malformed => (MALFORMED, true),
            Served::Reset => {
                // Closed with a linger of zero, a connection is reset.
                let _ = sockopt::set_socket_linger(&connection.fd, Some(Duration::ZERO));
                self.close(number);
                return false;
            }
        };
        let sent = if connection.unsent.is_empty() {
            send(&connection.fd, bytes).unwrap_or(bytes.len())
        } else {
            0
        };
        connection.unsent.extend_from_slice(&bytes[sent..]);
        connection.close_when_sent |= close;
        if connection.unsent.is_empty() && connection.close_when_sent {
            self.close(number);
            return false;
        }
        true
    }

    fn flush(&mut self, number: u32) {
        let Some(connection) = &mut self.connections[number as usize] else {
            return;
        };
        while !connection.unsent.is_empty() {
            match send(&connection.fd, &connection.unsent) {
                Ok(0) => return,
                Ok(n) => drop(connection.unsent.drain(..n)),
                Err(_) => return self.close(number),
            }
        }
        if connection.close_when_sent {
            self.close(number);
        }
    }
}

/// The length of the request that these bytes begin with, body included; `None` if it is not complete.
fn request_length(bytes: &[u8]) -> Result<Option<usize>, ()> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let head = match request.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(()),
    };
    let body = request
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .map_or(Ok(0), |header| {
            std::str::from_utf8(header.value)
                .unwrap_or("")
                .trim()
                .parse::<usize>()
        })
        .map_err(|_| ())?;
    Ok((bytes.len() >= head + body).then_some(head + body))
}
