//! Calls with terms of their own.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::Serialize;

use super::function::Function;
use super::ledger::timeout_ms;
use super::{AsyncResult, Imap, MapResult, Pool};
use crate::error::{Error, Kind, Result};

/// What holds for a call in place of what holds for the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Terms {
    /// How long an item may run, in milliseconds, 0 for ever; as the pool has it if it is not said.
    pub timeout_ms: Option<u32>,
    /// Higher ones go first.
    pub priority: i32,
}

/// A pool's calls with a time limit or a priority of their own: what [`Pool::calls`] gives.
///
/// ```no_run
/// use procession::Pool;
/// use std::time::Duration;
///
/// let pool = Pool::new()?;
/// let urgent = pool.calls().priority(5).timeout(Duration::from_millis(100))?;
/// assert_eq!(urgent.apply(|x: u64| x * x, 7)?, 49);
/// # Ok::<(), procession::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Calls<'p> {
    pool: &'p Pool,
    terms: Terms,
}

impl<'p> Calls<'p> {
    pub(super) fn of(pool: &'p Pool) -> Self {
        Calls {
            pool,
            terms: Terms::default(),
        }
    }

    /// How long a task, and each item of a map, may run: as [`PoolBuilder::timeout`](crate::PoolBuilder::timeout), for these
    /// calls alone.
    ///
    /// # Errors
    ///
    /// If the limit is 0 ([`Error::is_bad_option`]).
    pub fn timeout(mut self, limit: Duration) -> Result<Self> {
        if limit.is_zero() {
            let problem = "a timeout of 0 leaves a task no time to run".into();
            return Err(Error::new(Kind::PoolOptions { problem }));
        }
        let limit_ms = timeout_ms(Some(limit));
        let shortest = &self.pool.shared.channel.header().life.shortest_timeout_ms;
        let known = shortest.load(Ordering::Relaxed);
        if limit_ms != 0 && (known == 0 || limit_ms < known) {
            // The supervisor looks at deadlines in time only if it knows how short they may be.
            shortest.store(limit_ms, Ordering::Relaxed);
            self.pool.shared.tell_to_look();
        }
        self.terms.timeout_ms = Some(limit_ms);
        Ok(self)
    }

    /// Before which other calls these go: those with a higher priority first, and those with the same one in the order of
    /// their submission. It is 0 if none is given.
    pub fn priority(mut self, priority: i32) -> Self {
        self.terms.priority = priority;
        self
    }

    /// As [`Pool::apply`].
    ///
    /// # Errors
    ///
    /// As [`Pool::apply`].
    pub fn apply<F, A, R>(&self, function: F, argument: A) -> Result<R>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.apply_async(function, argument)?.get()
    }

    /// As [`Pool::apply_async`].
    ///
    /// # Errors
    ///
    /// As [`Pool::apply_async`].
    pub fn apply_async<F, A, R>(&self, function: F, argument: A) -> Result<AsyncResult<R>>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned + 'static,
    {
        let job = self
            .pool
            .submit(Function::of(function), argument, None, self.terms)?;
        Ok(AsyncResult::new(self.pool.shared.clone(), job))
    }

    /// As [`Pool::map`].
    ///
    /// # Errors
    ///
    /// As [`Pool::map`].
    pub fn map<F, I, R>(&self, function: F, items: I) -> Result<Vec<R>>
    where
        F: Fn(I::Item) -> R + Copy + Send + 'static,
        I: IntoIterator,
        I::Item: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.pool.map_on(function, items, self.terms)
    }

    /// As [`Pool::map_async`].
    ///
    /// # Errors
    ///
    /// As [`Pool::map_async`].
    pub fn map_async<F, I, R>(&self, function: F, items: I) -> Result<MapResult<R>>
    where
        F: Fn(I::Item) -> R + Copy + Send + 'static,
        I: IntoIterator,
        I::Item: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.pool.map_async_on(function, items, self.terms)
    }

    /// As [`Pool::imap`].
    ///
    /// # Errors
    ///
    /// As [`Pool::imap`].
    pub fn imap<'a, F, I, R>(&self, function: F, items: I) -> Result<Imap<'a, R>>
    where
        F: Fn(I::Item) -> R + Copy + Send + 'static,
        I: IntoIterator,
        I::IntoIter: 'a,
        I::Item: Serialize + DeserializeOwned + 'a,
        R: Serialize + DeserializeOwned,
    {
        Ok(Imap::new(self.pool.buffered(function, items, self.terms)?, true))
    }

    /// As [`Pool::imap_unordered`].
    ///
    /// # Errors
    ///
    /// As [`Pool::imap_unordered`].
    pub fn imap_unordered<'a, F, I, R>(&self, function: F, items: I) -> Result<Imap<'a, R>>
    where
        F: Fn(I::Item) -> R + Copy + Send + 'static,
        I: IntoIterator,
        I::IntoIter: 'a,
        I::Item: Serialize + DeserializeOwned + 'a,
        R: Serialize + DeserializeOwned,
    {
        Ok(Imap::new(self.pool.buffered(function, items, self.terms)?, false))
    }
}
