//! Datagrams, answered or not. Numbered ones tell which were lost, doubled, or came out of order.

use crate::drive::{Ended, Protocol, Request, Turn};
use crate::http::link::split_address;
use crate::net::{note_arrivals, receive_noted, send, udp, Address, Endpoint, Failure, Ready};
use crate::now_ns;
use crate::plan::UdpTarget;
use crate::record::{Datagram, Recorder};
use crate::result::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The number, and a word by which our datagrams are known.
const HEADER_BYTES: usize = 16;
const MAGIC: u64 = 0x7072_6f63_6573_7369;
/// So many numbered datagrams may be on their way from one socket.
const STREAMS: u32 = 256;
/// So far back an answer that comes again is recognised.
const REMEMBERED: u64 = 4096;
const LARGEST_DATAGRAM: usize = 65_536;

/// A datagram that was prepared.
#[derive(Clone)]
pub(crate) struct Udp {
    endpoint: Endpoint,
    target: UdpTarget,
    requests: Vec<Request>,
    datagram: Vec<u8>,
    buffer: Box<[u8]>,
}

#[derive(Clone, Copy)]
struct Pending {
    number: u64,
    sent_ns: u64,
}

/// One socket.
pub(crate) struct Link {
    fd: OwnedFd,
    next_number: u64,
    pending: Vec<Option<Pending>>,
    highest_answered: u64,
    answered: Vec<u64>,
    last_round_trip_ns: Option<u64>,
}

impl Udp {
    pub(crate) fn new(target: &UdpTarget) -> Result<Udp, Failure> {
        let (host, port) = split_address(&target.address)?;
        let header = if target.numbered { HEADER_BYTES } else { 0 };
        let mut datagram = vec![0; header];
        datagram.extend_from_slice(&target.send.0);
        Ok(Udp {
            endpoint: Endpoint::resolve(&host, port)?,
            requests: vec![Request {
                name: format!("datagram {}", target.address),
                weight: 1.0,
                endpoint: 0,
                bytes: datagram.len() as u64,
            }],
            target: target.clone(),
            datagram,
            buffer: vec![0; LARGEST_DATAGRAM].into_boxed_slice(),
        })
    }

    /// The request that this answer is for.
    fn match_answer(&self, link: &mut Link, n: usize, recorder: &mut Recorder) -> Option<usize> {
        if !self.target.numbered {
            return link.pending.iter().position(Option::is_some);
        }
        let word = |at: usize| {
            let bytes = self.buffer.get(at..at + 8).filter(|_| at + 8 <= n)?;
            Some(u64::from_be_bytes(bytes.try_into().ok()?))
        };
        let number = word(0)?;
        if word(8)? != MAGIC || number == 0 || number >= link.next_number {
            recorder.error(
                ErrorKind::Protocol,
                "an answer does not begin with the number of a datagram",
            );
            return None;
        }
        let memory = &mut link.answered[(number % REMEMBERED) as usize];
        if *memory == number {
            recorder.datagram(Datagram::Duplicate);
            return None;
        }
        *memory = number;
        if number < link.highest_answered {
            recorder.datagram(Datagram::Reordered);
        }
        link.highest_answered = link.highest_answered.max(number);
        link.pending
            .iter()
            .position(|pending| pending.is_some_and(|pending| pending.number == number))
    }
}

impl Protocol for Udp {
    type Link = Link;

    fn streams(&self) -> u32 {
        if self.target.numbered {
            STREAMS
        } else {
            1
        }
    }

    fn requests(&self) -> &[Request] {
        &self.requests
    }

    fn timeout_kind(&self) -> ErrorKind {
        ErrorKind::Lost
    }

    fn open(&mut self, _: u32, _: u32, _: u64, recorder: &mut Recorder) -> Result<Link, Failure> {
        let Address::Ip(address) = self.endpoint.address() else {
            return Err(Failure::new(ErrorKind::Network, "datagrams go to an address"));
        };
        let fd = udp(address)?;
        // Whether a rate is set or not: else the jitter would be ours, too.
        note_arrivals(&fd);
        recorder.connected(None, None, None);
        Ok(Link {
            fd,
            next_number: 1,
            pending: vec![None; self.streams() as usize],
            highest_answered: 0,
            answered: vec![
                0;
                if self.target.numbered {
                    REMEMBERED as usize
                } else {
                    0
                }
            ],
            last_round_trip_ns: None,
        })
    }

    fn fd<'a>(&self, link: &'a Link) -> BorrowedFd<'a> {
        link.fd.as_fd()
    }

    fn begin(
        &mut self,
        link: &mut Link,
        stream: u32,
        _: u32,
        now_ns: u64,
        recorder: &mut Recorder,
    ) -> Result<(), Failure> {
        let number = link.next_number;
        link.next_number += 1;
        if self.target.numbered {
            self.datagram[..8].copy_from_slice(&number.to_be_bytes());
            self.datagram[8..16].copy_from_slice(&MAGIC.to_be_bytes());
        }
        // A socket without room loses the datagram, as any other place on its way may.
        send(&link.fd, &self.datagram)?;
        recorder.datagram(Datagram::Sent);
        link.pending[stream as usize] = Some(Pending {
            number,
            sent_ns: now_ns,
        });
        Ok(())
    }

    fn begun(&mut self, link: &mut Link, stream: u32, now_ns: u64) -> Option<Ended> {
        if self.target.reply {
            return None;
        }
        let pending = link.pending[stream as usize].take()?;
        Some(Ended {
            stream,
            written_ns: pending.sent_ns,
            ended_ns: now_ns,
            ..Ended::default()
        })
    }

    fn ready(&mut self, link: &mut Link, ready: Ready, turn: &mut Turn<'_>) -> Result<bool, Failure> {
        if !ready.readable() {
            return Ok(true);
        }
        while let Some((n, noted_ns)) = receive_noted(&link.fd, &mut self.buffer)? {
            turn.now_ns = now_ns();
            let arrived_ns = noted_ns.unwrap_or(turn.now_ns).min(turn.now_ns);
            let Some(stream) = self.match_answer(link, n, turn.recorder) else {
                continue;
            };
            let Some(pending) = link.pending[stream].take() else {
                continue;
            };
            turn.recorder.datagram(Datagram::Received);
            let arrived_ns = arrived_ns.max(pending.sent_ns);
            let round_trip_ns = arrived_ns.saturating_sub(pending.sent_ns);
            if let Some(last) = link.last_round_trip_ns.replace(round_trip_ns) {
                turn.recorder.jitter(round_trip_ns.abs_diff(last));
            }
            turn.ended.push(Ended {
                stream: stream as u32,
                written_ns: pending.sent_ns,
                first_byte_ns: arrived_ns,
                ended_ns: arrived_ns,
                is_noted: noted_ns.is_some(),
                bytes_received: n as u64,
                status: 0,
                failure: None,
            });
        }
        Ok(true)
    }

    fn abandon(&mut self, link: &mut Link, stream: u32) -> bool {
        link.pending[stream as usize] = None;
        // Without numbers, a late answer could not be told from the next one's.
        self.target.numbered
    }

    fn is_connected(&self, _: &Link) -> bool {
        true
    }
}
