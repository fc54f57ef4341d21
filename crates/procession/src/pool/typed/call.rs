//! One argument out, one result in: what the caller's threads do outside of the pool's lock.

use std::fmt;
use std::ops::Deref;

use serde::de::DeserializeOwned;
use serde::Serialize;

use super::array::Port;
use super::frame::{Frame, Frames, Sink};
use super::function::{encode, Failure};
use super::ledger::{drop_result_parts, free_result_block, Content, Delivery, Ledger, Task};
use super::lifecycle::Shared;
use crate::channel::{Channel, SLOT_INLINE_BYTES};
use crate::error::{codec_reason, Error, Kind, Result};
use crate::shm::{AllocError, Owner};

/// Why an argument was not encoded.
pub(super) enum NotEncoded {
    /// There are no blocks left at the moment.
    Full,
    /// It cannot be.
    Never(String),
}

impl fmt::Display for NotEncoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotEncoded::Full => AllocError::Full.fmt(f),
            NotEncoded::Never(reason) => f.write_str(reason),
        }
    }
}

/// Writes the frame of an argument to `sink`. The argument is gone afterwards, unless the memory is full for now. Returns
/// whether arrays go with it.
pub(super) fn encode_argument<A: Serialize>(
    sink: &mut Sink<'_>,
    port: &Port,
    argument: &mut Option<A>,
) -> Result<bool, NotEncoded> {
    let Some(value) = argument else {
        return Err(NotEncoded::Never("there is none".into()));
    };
    if port.has_leaving() {
        // Left over from one whose encoding has panicked.
        port.cancel_sending();
    }
    let before = sink.len();
    let written = match sink.begin_frame() {
        Some(_) => encode(sink, value),
        None => Err("no shared memory left".to_string()),
    };
    if let Err(reason) = written {
        port.cancel_sending();
        sink.truncate(before);
        return Err(match sink.is_full() {
            true => NotEncoded::Full,
            false => NotEncoded::Never(reason),
        });
    }
    let mut parts = Vec::new();
    // Gone before its arrays leave.
    *argument = None;
    let complete = !port.has_leaving() || port.end_sending(&mut parts);
    if complete && sink.end_frame(before, 0, &parts) {
        return Ok(!parts.is_empty());
    }
    parts.iter().for_each(|part| port.free(part.block));
    sink.truncate(before);
    Err(NotEncoded::Never("no shared memory left".into()))
}

/// Memory on the stack for the encoding of a small argument.
pub(super) struct Scratch([u8; SLOT_INLINE_BYTES]);

impl Scratch {
    pub const BYTES: usize = SLOT_INLINE_BYTES;

    pub fn new() -> Self {
        Scratch([0; SLOT_INLINE_BYTES])
    }

    /// What a sink has written here.
    pub fn bytes(&self, len: usize) -> &[u8] {
        &self.0[..len]
    }

    pub fn sink<'s>(&'s mut self, channel: &'s Channel) -> Sink<'s> {
        // SAFETY: the sink borrows these bytes mutably for its life.
        unsafe { Sink::over(channel.arena(), Owner::CALLER, self.0.as_mut_ptr(), self.0.len()) }
    }
}

/// Decodes a result, or says why there is none.
pub(super) fn decode_result<R: DeserializeOwned>(
    shared: &Shared,
    port: &Port,
    task: Task,
    item: u64,
    frame: Frame<'_>,
) -> Result<R> {
    let task = || shared.lock().task_name(task, item);
    if frame.failed {
        return Err(error_of(postcard::from_bytes(frame.body), task()));
    }
    let has_parts = frame.parts().len() > 0;
    if has_parts && !port.begin_receiving(frame.parts()) {
        return Err(Error::new(Kind::Damaged { task: task() }));
    }
    let decoded = postcard::from_bytes(frame.body);
    if has_parts {
        port.end_receiving();
    }
    decoded.map_err(|e| {
        Error::new(Kind::TaskResult {
            task: task(),
            reason: codec_reason(&e),
        })
    })
}

#[cold]
fn error_of(failure: postcard::Result<Failure>, task: String) -> Error {
    Error::new(match failure {
        Ok(Failure::Panicked {
            message,
            location,
            backtrace,
            output,
        }) => {
            let kind = Kind::TaskPanicked {
                task,
                message,
                location,
                backtrace,
            };
            return Error::new(kind).with_output(output);
        }
        Ok(Failure::Argument { reason }) => Kind::TaskArgument { task, reason },
        Ok(Failure::Result { reason }) => Kind::TaskResult { task, reason },
        Err(_) => Kind::Damaged { task },
    })
}

/// A delivery that is being read, frame by frame. What was not read is dropped with it.
pub(super) struct Reading<S: Deref<Target = Shared>> {
    shared: S,
    delivery: Delivery,
    read: u32,
    offset: usize,
}

impl<S: Deref<Target = Shared>> Reading<S> {
    pub fn of(shared: S, delivery: Delivery) -> Self {
        Reading {
            shared,
            delivery,
            read: 0,
            offset: 0,
        }
    }

    /// The task that is read of.
    pub fn task(&self) -> Task {
        self.delivery.task
    }

    /// The next item: its number and its frame, or the error that it has failed with.
    #[inline]
    pub fn next(&mut self) -> Option<(u64, Result<Frame<'_>>)> {
        if self.read == self.delivery.count {
            return None;
        }
        let item = self.delivery.from + u64::from(self.read);
        self.read += 1;
        if let Content::Failed(error) = &self.delivery.content {
            return Some((item, Err(error.clone())));
        }
        let bytes = Ledger::frames_of(&self.shared.channel, &self.delivery.content);
        let mut frames = Frames::of(bytes.get(self.offset..).unwrap_or_default());
        let Some(frame) = frames.next() else {
            return Some((
                item,
                Err(Error::new(Kind::Damaged {
                    task: format!("item {item}"),
                })),
            ));
        };
        self.offset = bytes.len() - frames.rest().len();
        Some((item, Ok(frame)))
    }

    /// Ends the reading; the slot, if there is one, is to be returned to the dispatcher.
    pub fn end(mut self) -> Option<u32> {
        // What is dropped then has nothing left.
        self.release()
    }

    fn release(&mut self) -> Option<u32> {
        drop_result_parts(&self.shared.channel, &self.delivery, self.read);
        let content = std::mem::replace(&mut self.delivery.content, Content::Copied(Vec::new()));
        self.delivery.has_parts = false;
        match content {
            Content::Slot(slot) => {
                free_result_block(&self.shared.channel, slot);
                Some(slot)
            }
            _ => None,
        }
    }
}

impl<S: Deref<Target = Shared>> Drop for Reading<S> {
    fn drop(&mut self) {
        if let Some(slot) = self.release() {
            self.shared.lock().dispatcher.return_slot(slot);
        }
    }
}
