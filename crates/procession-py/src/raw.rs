//! Results that have arrived and are not decoded yet.

use std::sync::Arc;

use procession::channel::Channel;
use procession::os::process::generation;
use procession::shm::{Block, Owner};
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;

use crate::codec::{Reader, Receiver};
use crate::worker::outcome;

#[derive(Debug)]
enum Bytes {
    Here(Box<[u8]>),
    Block(Block, usize),
}

/// How an item ended.
#[derive(Debug)]
pub struct Told<'py> {
    /// What it returned or raised.
    pub outcome: PyResult<Bound<'py, PyAny>>,
    /// What it had written, if that was kept and anything was.
    pub output: Option<Bound<'py, PyAny>>,
}

/// A message from a worker, whose blocks are the caller's by now. Decoding may run user code, so it happens in the
/// thread that wants the value; what is never decoded gives its blocks back.
#[derive(Debug)]
pub struct Raw {
    channel: Arc<Channel>,
    bytes: Bytes,
    at: usize,
    items: u32,
    generation: u32,
}

impl Raw {
    /// Takes over `items` outcomes that begin `at` bytes into a message that lies in `block` or is copied from
    /// `bytes`; `seat` is the worker's ownership of all blocks.
    pub fn adopt(
        channel: &Arc<Channel>,
        seat: Owner,
        block: Option<Block>,
        bytes: &[u8],
        at: usize,
        items: u32,
    ) -> Raw {
        let mut rest = Reader::over(&bytes[at..]);
        for _ in 0..items {
            let walked = skip_outcome(&mut rest, &mut |attached| {
                if let Some(block) = channel.arena().check(attached.block) {
                    channel.arena().hand_over(block, seat, Owner::CALLER);
                }
            });
            if walked.is_none() {
                break;
            }
        }
        let bytes = match block {
            Some(block) => {
                channel.arena().hand_over(block, seat, Owner::CALLER);
                Bytes::Block(block, bytes.len())
            }
            None => Bytes::Here(bytes.into()),
        };
        Raw {
            channel: channel.clone(),
            bytes,
            at,
            items,
            generation: generation(),
        }
    }

    /// How many outcomes are left to be decoded.
    pub fn items(&self) -> u32 {
        self.items
    }

    fn reader(&self) -> Reader {
        let (start, len) = match &self.bytes {
            Bytes::Here(bytes) => (bytes.as_ptr(), bytes.len()),
            Bytes::Block(block, len) => (self.channel.arena().start(*block).cast_const(), *len),
        };
        // SAFETY: the bytes are ours and stay in place while `self` lives; `at` was counted by a reader over them.
        unsafe { Reader::new(start.add(self.at), len - self.at) }
    }

    /// Decodes the next outcome; user code may run.
    pub fn next<'py>(&mut self, py: Python<'py>, task: &str) -> Told<'py> {
        let mut output = None;
        let outcome = self.decode_next(py, task, &mut output);
        if let (Err(e), Some(text)) = (&outcome, &output) {
            // An exception may refuse attributes; its output can still be had from the result.
            let _ = e.value(py).setattr(intern!(py, "output"), text);
        }
        Told { outcome, output }
    }

    fn decode_next<'py>(
        &mut self,
        py: Python<'py>,
        task: &str,
        output: &mut Option<Bound<'py, PyAny>>,
    ) -> Result<Bound<'py, PyAny>, PyErr> {
        let mut reader = self.reader();
        // The next outcome begins where the walk ends, however far decoding gets.
        let mut after = reader;
        let walked = skip_outcome(&mut after, &mut |_| {});
        self.items -= 1;
        let before = self.at;
        match walked {
            Some(()) => self.at += reader.left() - after.left(),
            None => {
                self.items = 0;
                return Err(PyRuntimeError::new_err(
                    "a result in the pool's shared memory is garbled",
                ));
            }
        }
        debug_assert!(self.at > before);
        let mine = Receiver {
            arena: self.channel.shared_arena(),
            owner: Owner::CALLER,
            from: Owner::CALLER,
            copies: false,
        };
        let kind = reader.byte().unwrap_or(outcome::RAISED);
        if kind & outcome::WITH_OUTPUT != 0 {
            *output = Some(reader.value(py, &mine)?);
        }
        match kind & !outcome::WITH_OUTPUT {
            outcome::OK => reader.value(py, &mine).map_err(|e| {
                if e.is_instance_of::<pyo3::exceptions::PyMemoryError>(py) {
                    return e;
                }
                decode_error(py, task, "", e)
            }),
            _ => {
                let text = reader.value(py, &mine)?.extract::<String>().unwrap_or_default();
                let said = reader.value(py, &mine)?.extract::<String>().unwrap_or_default();
                let error = match reader.value(py, &mine) {
                    Ok(value) if value.is_none() => PyRuntimeError::new_err(said)
                        .into_value(py)
                        .into_bound(py)
                        .into_any(),
                    Ok(value) => value,
                    Err(e) => return Err(decode_error(py, task, &text, e)),
                };
                let remote = py
                    .import(intern!(py, "multiprocessing.pool"))?
                    .getattr(intern!(py, "RemoteTraceback"))?
                    .call1((format!("\n\"\"\"\n{text}\"\"\""),))?;
                error.setattr(intern!(py, "__cause__"), remote)?;
                Err(PyErr::from_value(error))
            }
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if self.generation != generation() {
            return;
        }
        let mut reader = self.reader();
        for _ in 0..self.items {
            let arena = self.channel.arena();
            let walked = skip_outcome(&mut reader, &mut |attached| {
                if let Some(block) = arena.check(attached.block) {
                    arena.free(block, Owner::CALLER);
                }
            });
            if walked.is_none() {
                break;
            }
        }
        if let Bytes::Block(block, _) = self.bytes {
            self.channel.arena().free(block, Owner::CALLER);
        }
    }
}

/// Walks past one outcome.
pub fn skip_outcome(reader: &mut Reader, found: &mut dyn FnMut(crate::codec::Attached)) -> Option<()> {
    let kind = reader.byte()?;
    if kind & outcome::WITH_OUTPUT != 0 {
        reader.skip(found)?;
    }
    match kind & !outcome::WITH_OUTPUT {
        outcome::OK => reader.skip(found),
        outcome::RAISED => {
            reader.skip(found)?;
            reader.skip(found)?;
            reader.skip(found)
        }
        _ => None,
    }
}

fn decode_error(py: Python<'_>, task: &str, said: &str, cause: PyErr) -> PyErr {
    errors(py, "result_decode_error", (task, said, cause.value(py)))
}

/// Has `procession.errors` make an error.
pub fn errors<'py>(py: Python<'py>, maker: &str, arguments: impl pyo3::call::PyCallArgs<'py>) -> PyErr {
    let made = py
        .import("procession.errors")
        .and_then(|m| m.getattr(maker)?.call1(arguments));
    match made {
        Ok(error) => PyErr::from_value(error),
        Err(e) => e,
    }
}
