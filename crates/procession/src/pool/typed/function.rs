//! Functions on their way to workers: how a worker finds the code, and what one call consists of.
//!
//! Workers are forks of the caller, so they have its code at the same addresses. What travels is the distance of a
//! *thunk* from a fixed function of this module, written once into the channel's table of functions; tasks say the number
//! of the entry. A thunk is made by the compiler for each type of function: it decodes the argument, calls, and encodes the
//! result. The function itself has no bytes, as it captures nothing, so nothing else needs to travel.

use std::any::{type_name, Any};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr::NonNull;
use std::sync::Once;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::array::Port;
use crate::error::codec_reason;
use crate::os::process::image_of;

use super::frame::{Frame, Part, Sink, ToSink, FAILED};

/// Why an item has no result, as a worker tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Failure {
    /// The task panicked.
    Panicked {
        message: String,
        location: String,
        backtrace: String,
        output: String,
    },
    /// The argument could not be decoded in the worker.
    Argument { reason: String },
    /// The result could not be encoded.
    Result { reason: String },
}

/// One call in a worker.
pub(super) struct Call<'a, 'c> {
    argument: &'a [u8],
    sink: &'a mut Sink<'c>,
    port: &'a Port,
    parts: Vec<Part>,
}

/// Decodes, calls, encodes.
pub(super) type Thunk = fn(&mut Call<'_, '_>) -> Result<(), Failure>;

fn thunk<F, A, R>(call: &mut Call<'_, '_>) -> Result<(), Failure>
where
    F: Fn(A) -> R + Copy + Send + 'static,
    A: DeserializeOwned,
    R: Serialize,
{
    let argument = postcard::from_bytes::<A>(call.argument).map_err(|e| Failure::Argument {
        reason: codec_reason(&e),
    })?;
    // SAFETY: the type has no bytes (checked in `of`), so nothing is read; a value of it was given to `of` to be copied and
    // used elsewhere (`Copy + Send + 'static`).
    let function = unsafe { NonNull::<F>::dangling().read() };
    let result = function(argument);
    call.port.end_forked_copies();
    encode(call.sink, &result).map_err(|reason| Failure::Result { reason })?;
    // Gone before its arrays leave.
    drop(result);
    if call.port.has_leaving() && !call.port.end_sending(&mut call.parts) {
        return Err(Failure::Result {
            reason: "no shared memory left".into(),
        });
    }
    Ok(())
}

/// Encodes a value to a sink, or says why not.
#[inline]
pub(super) fn encode<T: Serialize>(sink: &mut Sink<'_>, value: &T) -> Result<(), String> {
    postcard::serialize_with_flavor(value, ToSink(sink)).map_err(|e| {
        sink.failure()
            .map_or_else(|| codec_reason(&e), |failure| failure.to_string())
    })
}

/// What the caller needs to know of a function.
#[derive(Debug, Clone, Copy)]
pub(super) struct Function {
    thunk: Thunk,
    name: &'static str,
}

impl Function {
    /// The function of this type.
    #[inline]
    pub fn of<F, A, R>(_function: F) -> Self
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: DeserializeOwned,
        R: Serialize,
    {
        const {
            assert!(
                size_of::<F>() == 0,
                "a pool's function must capture nothing: send what it needs along with the argument, as a tuple; \
                 instead of a function pointer, write a closure that calls the function"
            );
        }
        Function {
            thunk: thunk::<F, A, R>,
            name: type_name::<F>(),
        }
    }

    /// Its path, without what the compiler adds.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// What identifies it in this process. Not its thunk alone: the compiler may use one for functions that do the same.
    #[inline]
    pub fn key(self) -> (usize, usize) {
        (self.thunk as usize, self.name.as_ptr() as usize)
    }

    /// Where its code lies.
    pub fn code(self) -> CodeAddress {
        CodeAddress(self.thunk as usize)
    }
}

/// Where code of this program lies: the same distance from a fixed function in all copies of the program, wherever the
/// kernel has put them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CodeAddress(usize);

impl CodeAddress {
    /// The code that calls a function which captures nothing.
    pub fn of_initializer<F: Fn() + 'static>() -> Option<Self> {
        fn call<F: Fn()>() {
            // SAFETY: the type has no bytes (checked below), so nothing is read; a value of it was given to the builder.
            let function = unsafe { NonNull::<F>::dangling().as_ref() };
            function();
        }
        (size_of::<F>() == 0).then_some(CodeAddress(call::<F> as *const () as usize))
    }

    /// Whether it lies in the same file as this crate, and not in a shared library that another process may lack.
    pub fn is_in_this_file(self) -> bool {
        let ours = anchor as *const () as usize;
        image_of(self.0).is_some() && image_of(self.0) == image_of(ours)
    }

    /// A word that means it in all copies of the program; never 0.
    pub fn to_word(self) -> u64 {
        // The lowest bit says that there is one: the distance itself may be 0.
        (self.0.wrapping_sub(anchor as *const () as usize) as u64) << 1 | 1
    }

    /// What a word means.
    ///
    /// # Safety
    /// The word was made by [`CodeAddress::to_word`] in a copy of this program.
    pub unsafe fn from_word(word: u64) -> Self {
        CodeAddress((anchor as *const () as usize).wrapping_add((word as i64 >> 1) as usize))
    }

    /// The thunk that lies there.
    ///
    /// # Safety
    /// It came from [`Function::code`].
    pub unsafe fn to_thunk(self) -> Thunk {
        // SAFETY: the caller's promise.
        unsafe { std::mem::transmute::<usize, Thunk>(self.0) }
    }

    /// The initializer that lies there.
    ///
    /// # Safety
    /// It came from [`CodeAddress::of_initializer`].
    pub unsafe fn to_initializer(self) -> fn() {
        // SAFETY: the caller's promise.
        unsafe { std::mem::transmute::<usize, fn()>(self.0) }
    }
}

/// Where distances are measured from.
fn anchor() {}

/// What running an item has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ran {
    /// Its frame was written.
    Plain,
    /// The frame was written that says why there is no result.
    Failed,
    /// Its frame was written, and arrays go with it.
    WithParts,
    /// There is no memory even to say that there is none.
    NoMemory,
}

/// Runs one item, and writes its frame: the result, or why there is none; `written` says what a task that panics has written.
pub(super) fn run_item(
    thunk: Result<Thunk, &str>,
    frame: Option<Frame<'_>>,
    sink: &mut Sink<'_>,
    port: &Port,
    written: impl FnOnce() -> String,
) -> Ran {
    let before = sink.len();
    let argument = |reason: &str| Failure::Argument {
        reason: reason.to_string(),
    };
    let has_parts = frame.is_some_and(|frame| frame.parts().len() > 0);
    let outcome = match (thunk, frame) {
        (Err(reason), _) => Err(argument(reason)),
        (_, None) => Err(argument("it is damaged")),
        (_, Some(frame)) if has_parts && !port.begin_receiving(frame.parts()) => {
            Err(argument("its arrays are not in shared memory"))
        }
        (Ok(thunk), Some(frame)) => call(thunk, frame.body, sink, port),
    };
    if has_parts {
        port.end_receiving();
    }
    match outcome {
        Ok(false) => Ran::Plain,
        Ok(true) => Ran::WithParts,
        Err(mut failure) => {
            if let Failure::Panicked { output, .. } = &mut failure {
                *output = written();
            }
            port.cancel_sending();
            sink.truncate(before);
            if write_failure(sink, failure) {
                Ran::Failed
            } else {
                Ran::NoMemory
            }
        }
    }
}

/// True if arrays go with the result.
#[inline]
fn call(thunk: Thunk, argument: &[u8], sink: &mut Sink<'_>, port: &Port) -> Result<bool, Failure> {
    let no_memory = || Failure::Result {
        reason: "no shared memory left".into(),
    };
    let at = sink.begin_frame().ok_or_else(no_memory)?;
    let mut call = Call {
        argument,
        sink,
        port,
        parts: Vec::new(),
    };
    IN_TASK.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(|| thunk(&mut call)));
    IN_TASK.set(false);
    port.end_forked_copies();
    let Call { sink, parts, .. } = call;
    let outcome = outcome.unwrap_or_else(|payload| {
        let failure = Failure::of_panic(&*payload);
        // Its destructor might panic again.
        std::mem::forget(payload);
        Err(failure)
    });
    if outcome.is_ok() && sink.end_frame(at, 0, &parts) {
        return Ok(!parts.is_empty());
    }
    for part in &parts {
        port.free(part.block);
    }
    outcome.and(Err(no_memory()))
}

fn write_failure(sink: &mut Sink<'_>, failure: Failure) -> bool {
    let shorter = match &failure {
        Failure::Panicked { message, .. } => {
            let message = message.chars().take(40).collect();
            Failure::Panicked {
                message,
                location: String::new(),
                backtrace: String::new(),
                output: String::new(),
            }
        }
        _ => Failure::Result {
            reason: "no memory".into(),
        },
    };
    [failure, shorter].iter().any(|failure| {
        let before = sink.len();
        let written = sink
            .begin_frame()
            .is_some_and(|at| encode(sink, failure).is_ok() && sink.end_frame(at, FAILED, &[]));
        if !written {
            sink.truncate(before);
        }
        written
    })
}

thread_local! {
    /// Whether this thread runs a task just now, so that its panic is the task's.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
    static LAST_PANIC: RefCell<Option<(String, String)>> = const { RefCell::new(None) };
}

impl Failure {
    fn of_panic(payload: &(dyn Any + Send)) -> Self {
        let message = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
            (Some(text), _) => text.to_string(),
            (_, Some(text)) => text.clone(),
            _ => "(not a text)".to_string(),
        };
        let (location, backtrace) = LAST_PANIC.take().unwrap_or_default();
        Failure::Panicked {
            message,
            location,
            backtrace,
            output: String::new(),
        }
    }
}

/// Calls what the user wants to be called in a new worker; `Err` says how it panicked.
pub(super) fn run_initializer(initializer: &dyn Fn()) -> Result<(), String> {
    IN_TASK.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(initializer));
    IN_TASK.set(false);
    outcome.map_err(|payload| match Failure::of_panic(&*payload) {
        Failure::Panicked {
            message,
            location,
            backtrace,
            ..
        } => {
            std::mem::forget(payload);
            let at = if location.is_empty() {
                location
            } else {
                format!(" at {location}")
            };
            format!(
                "the initializer panicked{at}: {message}{}{backtrace}",
                if backtrace.is_empty() { "" } else { "\n" }
            )
        }
        other => format!("{other:?}"),
    })
}

/// Lets panics of tasks be kept for their errors, instead of being printed by each worker. All other panics go on to the
/// hook that was there.
///
/// Called in the caller, before the fork: a worker could not replace the hook safely, as a thread that does not exist there
/// may have been using it.
pub(super) fn keep_panics_of_tasks() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IN_TASK.get() {
                return before(info);
            }
            let location = info
                .location()
                .map_or_else(String::new, |place| place.to_string());
            let backtrace = Backtrace::capture();
            let backtrace = match backtrace.status() {
                BacktraceStatus::Captured => backtrace.to_string(),
                _ => String::new(),
            };
            LAST_PANIC.set(Some((location, backtrace)));
        }));
    });
}
