//! The event loop of one thread of users, and how it is driven: by a plain function that waits, by itself, or by asyncio.

use super::user::User;
use super::wait::{make, Makes, Wait};
use super::{stopped, UserStopped};
use crate::gil::GilCell;
use procession_load::users::{Begin, ClientOptions, Crew, Desk, Engine, Found, Outcome, Ticket};
use procession_load::Phase;
use pyo3::exceptions::{PyRuntimeError, PyStopIteration, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How often a thread that waits looks whether the run has ended.
const LOOK_NS: u64 = 50_000_000;
/// The same for the loop that also starts users.
const TURN_NS: u64 = 10_000_000;

/// What an engine and everything that uses it share.
#[derive(Debug)]
pub struct Inner {
    crew: Mutex<Crew>,
    pub desk: Arc<Desk>,
    epoll: Arc<OwnedFd>,
    pub is_async: bool,
    /// Plain functions that share a thread do not await: they are set aside by this, called with what they wait for, and
    /// have its result when it returns.
    set_aside: Option<Py<PyAny>>,
    found: Mutex<Found>,
    /// Who awaits what, by the tickets' indexes.
    waits: GilCell<Vec<Option<Py<Wait>>>>,
    ready: GilCell<VecDeque<usize>>,
    asyncio: GilCell<Option<Asyncio>>,
}

#[derive(Debug)]
struct Asyncio {
    event_loop: Py<PyAny>,
    /// Calls `turn`.
    turn: Py<PyAny>,
    start: Py<PyAny>,
    over: Py<PyAny>,
    is_turn_scheduled: bool,
    /// Whether there is a single user.
    only: bool,
}

fn unpoisoned<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// The crew. Never held while Python code runs, nor across a wait.
    pub fn crew(&self) -> MutexGuard<'_, Crew> {
        unpoisoned(&self.crew)
    }

    pub fn event_loop(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.asyncio
            .with(py, |asyncio| {
                asyncio.as_ref().map(|asyncio| asyncio.event_loop.clone_ref(py))
            })
            .ok_or_else(|| PyRuntimeError::new_err("this virtual user does not run under asyncio"))
    }

    /// A plain function waits for an operation, with the GIL released.
    pub fn block_on(&self, py: Python<'_>, ticket: Ticket) -> PyResult<Outcome> {
        loop {
            match py.detach(|| self.wait_for(ticket)) {
                Ok(outcome) => return Ok(outcome),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => py.check_signals()?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wait_for(&self, ticket: Ticket) -> io::Result<Outcome> {
        let mut found = std::mem::take(&mut *unpoisoned(&self.found));
        loop {
            let most_ns = {
                let mut crew = self.crew();
                if let Some(outcome) = crew.outcome_of(ticket) {
                    drop(crew);
                    *unpoisoned(&self.found) = found;
                    return Ok(outcome);
                }
                crew.arm()?;
                if crew.has_unread() {
                    0
                } else {
                    LOOK_NS
                }
            };
            Engine::wait(self.epoll.as_fd(), most_ns, &mut found)?;
            self.crew().handle(&found);
        }
    }

    /// Blocks on an operation, or returns what a coroutine can await. `begin` runs with the GIL released if it blocks.
    pub fn run<E: Send>(
        self: &Arc<Self>,
        py: Python<'_>,
        makes: impl FnOnce() -> Makes,
        begin: impl FnOnce(&mut Crew) -> Result<Ticket, E> + Send,
    ) -> Result<PyResult<Py<PyAny>>, E> {
        if self.is_async {
            let ticket = begin(&mut self.crew())?;
            let wait = self.awaitable(py, ticket, makes());
            return Ok(match (&self.set_aside, wait) {
                (Some(set_aside), Ok(wait)) => set_aside.call1(py, (wait,)),
                (_, wait) => wait,
            });
        }
        let (ticket, early) = py.detach(|| {
            let mut crew = self.crew();
            let ticket = begin(&mut crew)?;
            drop(crew);
            Ok((ticket, self.wait_for(ticket)))
        })?;
        let outcome = match early {
            Ok(outcome) => Ok(outcome),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => match py.check_signals() {
                Ok(()) => self.block_on(py, ticket),
                Err(error) => Err(error),
            },
            Err(error) => Err(error.into()),
        };
        Ok(outcome.and_then(|outcome| make(py, self, outcome, &makes())))
    }

    /// Something to await for an operation that was begun.
    pub fn awaitable(self: &Arc<Self>, py: Python<'_>, ticket: Ticket, makes: Makes) -> PyResult<Py<PyAny>> {
        let wait = Py::new(py, Wait::new(self.clone(), ticket, makes))?;
        self.waits.with(py, |waits| {
            let index = ticket.index();
            if waits.len() <= index {
                waits.resize_with(index + 1, || None);
            }
            waits[index] = Some(wait.clone_ref(py));
        });
        let scheduled = self.asyncio.with(py, |asyncio| {
            asyncio.as_ref().map(|asyncio| asyncio.is_turn_scheduled)
        });
        if scheduled == Some(false) && self.crew().arm()? {
            self.schedule_turn(py)?;
        }
        Ok(wait.into_any())
    }

    fn schedule_turn(&self, py: Python<'_>) -> PyResult<()> {
        let found = self.asyncio.with(py, |asyncio| {
            asyncio.as_mut().map(|asyncio| {
                asyncio.is_turn_scheduled = true;
                (asyncio.event_loop.clone_ref(py), asyncio.turn.clone_ref(py))
            })
        });
        if let Some((event_loop, turn)) = found {
            event_loop.call_method1(py, intern!(py, "call_soon"), (turn,))?;
        }
        Ok(())
    }

    /// Nobody awaits this any more.
    pub fn forget(&self, py: Python<'_>, ticket: Ticket) {
        let wait = self
            .waits
            .with(py, |waits| waits.get_mut(ticket.index()).and_then(Option::take));
        self.crew().cancel(ticket);
        drop(wait);
    }

    pub fn make_ready(&self, py: Python<'_>, task: usize) {
        self.ready.with(py, |ready| ready.push_back(task));
    }

    /// Tells those who await what is over.
    fn deliver(&self, py: Python<'_>) {
        // First all of them are found: those who are told may begin new operations, under the same indexes.
        let mut over = Vec::new();
        while let Some((ticket, outcome)) = self.crew().next_outcome() {
            let wait = self
                .waits
                .with(py, |waits| waits.get_mut(ticket.index()).and_then(Option::take));
            if let Some(wait) = wait {
                over.push((wait, outcome));
            }
        }
        for (wait, outcome) in over {
            if let Some(task) = Wait::finish(wait.bind(py), outcome) {
                self.make_ready(py, task);
            }
        }
    }

    /// The next iteration of a user: `Ok(None)` now, `Ok(Some(…))` something to await first, `Err` never.
    pub fn begin(self: &Arc<Self>, py: Python<'_>, user: usize) -> Option<Option<PyResult<Py<PyAny>>>> {
        let begin = self.crew().begin(user);
        match begin {
            Begin::Now => Some(None),
            Begin::Never => None,
            Begin::When(ticket) => Some(Some(self.awaitable(py, ticket, Makes::Nothing))),
        }
    }

    /// The same for a plain function, which waits for it: whether there is one.
    pub fn begin_blocking(&self, py: Python<'_>, user: usize) -> PyResult<bool> {
        loop {
            match py.detach(|| self.wait_for_iteration(user)) {
                Ok(goes) => return Ok(goes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => py.check_signals()?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wait_for_iteration(&self, user: usize) -> io::Result<bool> {
        let _baton = self.desk.take_baton();
        loop {
            let begin = self.crew().begin(user);
            match begin {
                Begin::Now => return Ok(true),
                Begin::Never => return Ok(false),
                Begin::When(ticket) => match self.wait_for(ticket) {
                    Ok(Outcome::Stopped) => return Ok(false),
                    Ok(_) => {}
                    Err(error) => {
                        self.crew().cancel(ticket);
                        return Err(error);
                    }
                },
            }
        }
    }
}

/// The event loop of one thread of users.
#[pyclass(frozen, module = "procession._native")]
pub struct LoadEngine {
    pub inner: Arc<Inner>,
}

impl LoadEngine {
    pub fn new(
        desk: Arc<Desk>,
        options: ClientOptions,
        iteration: &str,
        is_async: bool,
        set_aside: Option<Py<PyAny>>,
    ) -> PyResult<LoadEngine> {
        let crew = Crew::new(desk.clone(), options, iteration).map_err(PyRuntimeError::new_err)?;
        Ok(LoadEngine {
            inner: Arc::new(Inner {
                epoll: crew.epoll(),
                crew: Mutex::new(crew),
                desk,
                is_async,
                set_aside,
                found: Mutex::default(),
                waits: GilCell::default(),
                ready: GilCell::default(),
                asyncio: GilCell::default(),
            }),
        })
    }
}

/// Coroutines that the engine resumes itself.
struct Tasks {
    coroutines: Vec<Option<Py<PyAny>>>,
    alive: usize,
}

impl Tasks {
    /// Resumes a coroutine until it waits for something or ends.
    fn step(&mut self, py: Python<'_>, inner: &Inner, task: usize) -> PyResult<()> {
        let Some(coroutine) = self.coroutines[task]
            .as_ref()
            .map(|coroutine| coroutine.bind(py).clone())
        else {
            return Ok(());
        };
        let mut result = coroutine.call_method1(intern!(py, "send"), (py.None(),));
        loop {
            match result {
                Ok(yielded) => {
                    if let Ok(wait) = yielded.cast_exact::<Wait>() {
                        if wait.get().is_done(py) {
                            inner.make_ready(py, task);
                        } else {
                            wait.get().set_task(py, task);
                        }
                        return Ok(());
                    }
                    if yielded.is_none() {
                        inner.make_ready(py, task);
                        return Ok(());
                    }
                    let error = PyTypeError::new_err(format!(
                        "a virtual user cannot await {}: under asyncio it could, which is used if the file imports it",
                        yielded.get_type().name()?
                    ));
                    result = coroutine.call_method1(intern!(py, "throw"), (error.into_value(py),));
                }
                Err(error) => {
                    self.coroutines[task] = None;
                    self.alive -= 1;
                    if error.is_instance_of::<PyStopIteration>(py) || error.is_instance_of::<UserStopped>(py)
                    {
                        return Ok(());
                    }
                    return Err(error);
                }
            }
        }
    }

    fn start(&mut self, py: Python<'_>, inner: &Inner, coroutine: Py<PyAny>) {
        self.coroutines.push(Some(coroutine));
        self.alive += 1;
        inner.make_ready(py, self.coroutines.len() - 1);
    }
}

#[pymethods]
impl LoadEngine {
    /// A new user of this engine.
    fn add_user(&self) -> User {
        User::new(self.inner.clone())
    }

    /// Whether no users will come any more.
    #[getter]
    fn is_over(&self) -> bool {
        self.inner.crew().phase() == Phase::Over || !self.inner.desk.is_busy()
    }

    /// Runs users until all is over, each as the coroutine that `live(user)` returns.
    #[pyo3(signature = (live, only=false))]
    fn drive(slf: &Bound<'_, Self>, live: &Bound<'_, PyAny>, only: bool) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner.clone();
        let mut tasks = Tasks {
            coroutines: Vec::new(),
            alive: 0,
        };
        let mut found = Found::default();
        let mut is_first = true;
        loop {
            let wanted = if only {
                u32::from(is_first)
            } else {
                inner.desk.users_to_start()
            };
            is_first = false;
            for _ in 0..wanted {
                let user = Py::new(py, User::new(inner.clone()))?;
                tasks.start(py, &inner, live.call1((user,))?.unbind());
            }
            let mut turns = inner.ready.with(py, |ready| ready.len());
            while turns > 0 {
                let Some(task) = inner.ready.with(py, VecDeque::pop_front) else {
                    break;
                };
                tasks.step(py, &inner, task)?;
                turns -= 1;
            }
            if tasks.alive == 0 && (only || !inner.desk.is_busy()) {
                return Ok(());
            }
            let has_work = inner.crew().arm()? || inner.ready.with(py, |ready| !ready.is_empty());
            let most_ns = if has_work { 0 } else { TURN_NS };
            match py.detach(|| Engine::wait(inner.epoll.as_fd(), most_ns, &mut found)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => py.check_signals()?,
                result => {
                    result?;
                    inner.crew().handle(&found);
                }
            }
            inner.deliver(py);
        }
    }

    /// Lives inside of asyncio's event loop from now on: `start(user)` begins a user's task, and `over` is a future that is
    /// done when there are none any more. With `only`, there is a single user.
    fn attach(
        slf: &Bound<'_, Self>,
        event_loop: Py<PyAny>,
        start: Py<PyAny>,
        over: Py<PyAny>,
        only: bool,
    ) -> PyResult<()> {
        let py = slf.py();
        let turn = slf.getattr("turn")?;
        let asyncio = Asyncio {
            event_loop: event_loop.clone_ref(py),
            turn: turn.clone().unbind(),
            start: start.clone_ref(py),
            over,
            is_turn_scheduled: false,
            only,
        };
        slf.get().inner.asyncio.with(py, |slot| *slot = Some(asyncio));
        event_loop.call_method1(py, "add_reader", (slf.get().inner.epoll.as_raw_fd(), turn))?;
        if only {
            start.call1(py, (Py::new(py, User::new(slf.get().inner.clone()))?,))?;
        }
        LoadEngine::tick(slf)
    }

    /// Leaves asyncio's event loop.
    fn detach(&self, py: Python<'_>) -> PyResult<()> {
        let asyncio = self.inner.asyncio.with(py, Option::take);
        if let Some(asyncio) = asyncio {
            asyncio
                .event_loop
                .call_method1(py, "remove_reader", (self.inner.epoll.as_raw_fd(),))?;
        }
        Ok(())
    }

    /// What asyncio calls when the engine has something to do.
    fn turn(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = &slf.get().inner;
        let here = inner.asyncio.with(py, |asyncio| {
            if let Some(asyncio) = asyncio {
                // Whatever is begun meanwhile is seen below.
                asyncio.is_turn_scheduled = true;
            }
            asyncio.is_some()
        });
        if !here {
            return Ok(());
        }
        inner.crew().turn()?;
        inner.deliver(py);
        let has_work = inner.crew().arm()?;
        inner.asyncio.with(py, |asyncio| {
            if let Some(asyncio) = asyncio {
                asyncio.is_turn_scheduled = false;
            }
        });
        if has_work {
            inner.schedule_turn(py)?;
        }
        Ok(())
    }

    /// What asyncio calls now and then: starts users, and sees when all is over.
    fn tick(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let inner = slf.get().inner.clone();
        let found = inner.asyncio.with(py, |asyncio| {
            asyncio.as_ref().map(|asyncio| {
                let (event_loop, start, over) = (&asyncio.event_loop, &asyncio.start, &asyncio.over);
                (
                    event_loop.clone_ref(py),
                    start.clone_ref(py),
                    over.clone_ref(py),
                    asyncio.only,
                )
            })
        });
        let Some((event_loop, start, over, only)) = found else {
            return Ok(());
        };
        LoadEngine::turn(slf)?;
        let wanted = if only { 0 } else { inner.desk.users_to_start() };
        for _ in 0..wanted {
            start.call1(py, (Py::new(py, User::new(inner.clone()))?,))?;
        }
        let is_over = inner.crew().phase() == Phase::Over || (!only && !inner.desk.is_busy());
        if is_over {
            if !over.call_method0(py, "done")?.is_truthy(py)? {
                over.call_method1(py, "set_result", (py.None(),))?;
            }
            return Ok(());
        }
        event_loop.call_method1(py, "call_later", (TURN_NS as f64 * 1e-9, slf.getattr("tick")?))?;
        Ok(())
    }
}

/// For operations that cannot begin.
pub fn refused(py: Python<'_>, failure: Option<procession_load::users::Failure>) -> PyErr {
    match failure {
        None => stopped(),
        Some(failure) => super::failure_error(py, &failure),
    }
}
