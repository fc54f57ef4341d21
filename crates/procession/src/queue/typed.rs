//! The queue for Rust: any value that serde can write and read.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::Serialize;

use super::{ByteQueue, PutError, TakeError};
use crate::error::codec_reason;
use crate::shm::AllocError;
use crate::sync::waits::{About, Deadlock};

/// Why a [`Queue`]'s call failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum QueueError {
    /// The time was over: there was no item, or no room for one.
    Timeout,
    /// The value could not be written or read.
    Value(postcard::Error),
    /// The system has no memory left.
    Memory(AllocError),
    /// More was put than a queue's item may hold, or its memory says what nobody writes.
    Broken(&'static str),
    /// As many items were reported as done as were put.
    TooManyDone,
    /// The wait would never have ended: all who could end it wait themselves.
    Deadlock(Deadlock),
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueueError::Timeout => write!(f, "the queue took longer than it was given"),
            QueueError::Value(e) => write!(
                f,
                "the value does not travel through a queue: {}",
                codec_reason(e)
            ),
            QueueError::Memory(e) => write!(f, "the queue has no memory for the item: {e}"),
            QueueError::Broken(what) => write!(f, "{what}"),
            QueueError::TooManyDone => write!(f, "task_done() was called more often than items were put"),
            QueueError::Deadlock(deadlock) => deadlock.fmt(f),
        }
    }
}

impl std::error::Error for QueueError {}

impl From<PutError> for QueueError {
    fn from(e: PutError) -> Self {
        match e {
            PutError::Memory(e) => QueueError::Memory(e),
            PutError::TooLarge => QueueError::Broken("the item is too large for a queue"),
            PutError::Garbled => QueueError::Broken("the queue's memory is garbled"),
            PutError::Full | PutError::Busy => QueueError::Timeout,
        }
    }
}

impl From<TakeError> for QueueError {
    fn from(e: TakeError) -> Self {
        match e {
            TakeError::Garbled => QueueError::Broken("the queue's memory is garbled"),
            TakeError::Empty | TakeError::Busy => QueueError::Timeout,
        }
    }
}

impl From<Deadlock> for QueueError {
    fn from(deadlock: Deadlock) -> Self {
        QueueError::Deadlock(deadlock)
    }
}

/// A queue between this process and those that it forks, for any number of senders and receivers. Its values are what a
/// [`Pool`](crate::Pool#functions-arguments-results) takes.
///
/// An item is in shared memory when [`put`](Queue::put) returns: it survives its sender, and a process need not wait for its
/// items to be fetched before it ends. Of a receiver that is killed at most the one item is lost that it had in hand.
///
/// ```
/// use procession::queue::Queue;
/// use procession::Process;
///
/// let queue = Queue::<(u32, String)>::new()?;
/// let sender = queue.clone();
/// // SAFETY: no other thread does anything while this program forks.
/// let builder = unsafe { Process::builder().fork_despite_threads() };
/// let child = builder.target(move || sender.put(&(7, "from the child".to_string())).unwrap());
/// child.start()?;
/// assert_eq!(queue.get()?, (7, "from the child".to_string()));
/// child.join()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Queue<T> {
    bytes: Arc<ByteQueue>,
    _values: PhantomData<fn(T) -> T>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Queue {
            bytes: self.bytes.clone(),
            _values: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl<T> Queue<T> {
    /// A queue for as many items as there is memory for.
    ///
    /// # Errors
    /// When the system has no descriptor or no memory left.
    #[track_caller]
    pub fn new() -> io::Result<Self> {
        Self::over(None, Location::caller())
    }

    /// A queue for up to `capacity` items (at least one): [`put`](Queue::put) waits while it is full.
    ///
    /// # Errors
    /// As of [`new`](Queue::new).
    #[track_caller]
    pub fn bounded(capacity: u32) -> io::Result<Self> {
        Self::over(Some(capacity), Location::caller())
    }

    fn over(capacity: Option<u32>, place: &Location<'_>) -> io::Result<Self> {
        let bytes = ByteQueue::create(capacity)?;
        let file = place.file().rsplit('/').next().unwrap_or_default();
        bytes.set_name(&format!("Queue made at {file}:{}", place.line()));
        Ok(Queue {
            bytes: Arc::new(bytes),
            _values: PhantomData,
        })
    }

    /// How many items there are just now.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is none just now.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Reports that an item which was got is dealt with; see [`join`](Queue::join).
    ///
    /// # Errors
    /// [`QueueError::TooManyDone`].
    pub fn task_done(&self) -> Result<(), QueueError> {
        self.bytes
            .task_done()
            .then_some(())
            .ok_or(QueueError::TooManyDone)
    }

    /// Waits until every item that was put is reported as done.
    ///
    /// # Errors
    /// [`QueueError::Deadlock`].
    #[track_caller]
    pub fn join(&self) -> Result<(), QueueError> {
        let place = Location::caller();
        let asked = || About::here(place);
        self.bytes
            .join::<QueueError>(None, &mut |_| Ok(()), Some(&asked))
            .map(drop)
    }
}

impl<T: Serialize> Queue<T> {
    /// Puts a value; waits for room, if the queue is bounded.
    ///
    /// # Errors
    /// When the value cannot be written, there is no memory for it, or the wait for room would never end.
    #[track_caller]
    pub fn put(&self, value: &T) -> Result<(), QueueError> {
        self.put_within(value, None, Location::caller())
    }

    /// The same, for `limit` at most.
    ///
    /// # Errors
    /// [`QueueError::Timeout`] also.
    #[track_caller]
    pub fn put_timeout(&self, value: &T, limit: Duration) -> Result<(), QueueError> {
        self.put_within(value, Some(limit), Location::caller())
    }

    fn put_within(&self, value: &T, limit: Option<Duration>, place: &Location<'_>) -> Result<(), QueueError> {
        let data = postcard::to_allocvec(value).map_err(QueueError::Value)?;
        let asked = || About::here(place);
        let put = self
            .bytes
            .put::<QueueError>(&data, &[], limit, &mut |_| Ok(()), Some(&asked))?;
        put.then_some(()).ok_or(QueueError::Timeout)
    }
}

impl<T: DeserializeOwned> Queue<T> {
    /// Takes the next value; waits for one.
    ///
    /// # Errors
    /// When the bytes are no `T`, or the wait would never end.
    #[track_caller]
    pub fn get(&self) -> Result<T, QueueError> {
        self.get_within(None, Location::caller())
    }

    /// The same, for `limit` at most.
    ///
    /// # Errors
    /// [`QueueError::Timeout`] also.
    #[track_caller]
    pub fn get_timeout(&self, limit: Duration) -> Result<T, QueueError> {
        self.get_within(Some(limit), Location::caller())
    }

    fn get_within(&self, limit: Option<Duration>, place: &Location<'_>) -> Result<T, QueueError> {
        let asked = || About::here(place);
        let copy = |item: super::Item<'_>| (item.data.to_vec(), item.data_block);
        let taken = self
            .bytes
            .take::<_, QueueError>(limit, &mut |_| Ok(()), Some(&asked), copy)?;
        let (data, block) = taken.ok_or(QueueError::Timeout)?;
        if let Some(block) = block {
            self.bytes.arena().free(block, ByteQueue::owner());
        }
        postcard::from_bytes(&data).map_err(QueueError::Value)
    }
}
