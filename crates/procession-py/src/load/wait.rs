//! What coroutines await.

use super::engine::Inner;
use super::raw::{TcpConnection, UdpSocket};
use super::response::HttpResponse;
use super::{failure_error, stopped};
use crate::gil::GilCell;
use procession_load::users::{Outcome, Socket, Ticket};
use pyo3::exceptions::{asyncio::CancelledError, asyncio::InvalidStateError, PyStopIteration};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use std::sync::Arc;

/// What becomes of an operation's outcome.
#[derive(Debug, Clone)]
pub enum Makes {
    /// `None`, or `True` for a user that was called.
    Nothing,
    Response {
        name: Arc<str>,
        url: String,
    },
    Tcp {
        socket: Socket,
        address: String,
        user: usize,
    },
    Udp {
        socket: Socket,
        address: String,
        user: usize,
    },
}

#[derive(Debug, Default)]
struct State {
    result: Option<PyResult<Py<PyAny>>>,
    cancelled: bool,
    is_blocking: bool,
    /// The task of the engine's own loop that awaits it.
    task: Option<usize>,
    /// Functions of asyncio to call, and the contexts to call them in.
    callbacks: Vec<Callback>,
}

type Callback = (Py<PyAny>, Option<Py<PyAny>>);

/// Something that is under way. To asyncio it looks like one of its futures, so tasks, `gather` and `wait_for` take it.
#[pyclass(frozen, module = "procession.load", freelist = 512)]
pub struct Wait {
    inner: Arc<Inner>,
    ticket: Ticket,
    makes: Makes,
    state: GilCell<State>,
}

impl Wait {
    pub fn new(inner: Arc<Inner>, ticket: Ticket, makes: Makes) -> Wait {
        Wait {
            inner,
            ticket,
            makes,
            state: GilCell::default(),
        }
    }

    pub fn is_done(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.result.is_some())
    }

    pub fn set_task(&self, py: Python<'_>, task: usize) {
        self.state.with(py, |state| {
            state.task = Some(task);
            state.is_blocking = false;
        });
    }

    /// It is over. The task to resume, if the engine's own loop has one for it.
    pub fn finish(slf: &Bound<'_, Self>, outcome: Outcome) -> Option<usize> {
        let py = slf.py();
        let result = make(py, &slf.get().inner, outcome, &slf.get().makes);
        Wait::set_result(slf, result)
    }

    fn set_result(slf: &Bound<'_, Self>, result: PyResult<Py<PyAny>>) -> Option<usize> {
        let py = slf.py();
        let (task, callbacks) = slf.get().take_listeners(py, result);
        for (callback, context) in callbacks {
            let called = match &context {
                Some(context) => context.call_method1(py, intern!(py, "run"), (callback, slf)),
                None => callback.call1(py, (slf,)),
            };
            if let Err(error) = called {
                error.write_unraisable(py, None);
            }
        }
        task
    }

    fn take_listeners(&self, py: Python<'_>, result: PyResult<Py<PyAny>>) -> (Option<usize>, Vec<Callback>) {
        self.state.with(py, |state| {
            state.result = Some(result);
            (state.task.take(), std::mem::take(&mut state.callbacks))
        })
    }

    /// Has asyncio call this later: at the moment another task may be running.
    fn call_soon(slf: &Bound<'_, Self>, (callback, context): Callback) -> PyResult<()> {
        let py = slf.py();
        let kwargs = PyDict::new(py);
        if let Some(context) = context {
            kwargs.set_item("context", context)?;
        }
        let event_loop = slf.get().inner.event_loop(py)?;
        event_loop.call_method(py, "call_soon", (callback, slf), Some(&kwargs))?;
        Ok(())
    }

    fn value(&self, py: Python<'_>) -> Option<PyResult<Py<PyAny>>> {
        self.state.with(py, |state| {
            state.result.as_ref().map(|result| match result {
                Ok(value) => Ok(value.clone_ref(py)),
                Err(error) => Err(error.clone_ref(py)),
            })
        })
    }
}

/// What an outcome is to Python.
pub fn make(py: Python<'_>, inner: &Arc<Inner>, outcome: Outcome, makes: &Makes) -> PyResult<Py<PyAny>> {
    match outcome {
        Outcome::Stopped => Err(stopped()),
        Outcome::Failed(failure) => Err(failure_error(py, &failure)),
        Outcome::Called => Ok(true.into_pyobject(py)?.to_owned().into_any().unbind()),
        Outcome::Slept => Ok(py.None()),
        Outcome::Received(bytes) => Ok(PyBytes::new(py, &bytes).into_any().unbind()),
        Outcome::Replied(reply, response_ns) => {
            let (name, url) = match makes {
                Makes::Response { name, url } => (name.clone(), url.clone()),
                _ => ("".into(), String::new()),
            };
            let url = reply.led_to.as_deref().map_or(url, str::to_owned);
            let response = HttpResponse::new(reply, name, url, response_ns);
            Ok(Py::new(py, response)?.into_any())
        }
        Outcome::Ready => match makes.clone() {
            Makes::Tcp {
                socket,
                address,
                user,
            } => Ok(Py::new(py, TcpConnection::new(inner.clone(), user, socket, address))?.into_any()),
            Makes::Udp {
                socket,
                address,
                user,
            } => Ok(Py::new(py, UdpSocket::new(inner.clone(), user, socket, address))?.into_any()),
            _ => Ok(py.None()),
        },
    }
}

#[pymethods]
impl Wait {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        match slf.get().value(py) {
            Some(Ok(value)) => Err(PyStopIteration::new_err((value,))),
            Some(Err(error)) => Err(error),
            None => {
                slf.get().state.with(py, |state| state.is_blocking = true);
                Ok(slf.clone().into_any().unbind())
            }
        }
    }

    // --- what asyncio asks of a future -----------------------------------------------------------------------------

    #[getter(_asyncio_future_blocking)]
    fn is_blocking(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.is_blocking)
    }

    #[setter(_asyncio_future_blocking)]
    fn set_blocking(&self, py: Python<'_>, value: bool) {
        self.state.with(py, |state| state.is_blocking = value);
    }

    fn get_loop(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.inner.event_loop(py)
    }

    #[getter(_loop)]
    fn event_loop(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.inner.event_loop(py)
    }

    #[pyo3(signature = (callback, *, context=None))]
    fn add_done_callback(
        slf: &Bound<'_, Self>,
        callback: Py<PyAny>,
        context: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        if slf.get().is_done(py) {
            return Wait::call_soon(slf, (callback, context));
        }
        slf.get()
            .state
            .with(py, |state| state.callbacks.push((callback, context)));
        Ok(())
    }

    fn remove_done_callback(&self, py: Python<'_>, callback: &Bound<'_, PyAny>) -> PyResult<usize> {
        let all = self.state.with(py, |state| std::mem::take(&mut state.callbacks));
        let before = all.len();
        let mut kept = Vec::new();
        for one in all {
            if !one.0.bind(py).eq(callback)? {
                kept.push(one);
            }
        }
        let removed = before - kept.len();
        self.state.with(py, |state| state.callbacks.extend(kept));
        Ok(removed)
    }

    fn done(&self, py: Python<'_>) -> bool {
        self.is_done(py)
    }

    fn cancelled(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.cancelled)
    }

    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.value(py)
            .unwrap_or_else(|| Err(InvalidStateError::new_err("Result is not set.")))
    }

    fn exception(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        match self.value(py) {
            None => Err(InvalidStateError::new_err("Exception is not set.")),
            Some(Ok(_)) => Ok(None),
            Some(Err(error)) if self.cancelled(py) => Err(error),
            Some(Err(error)) => Ok(Some(error.into_value(py).into_any())),
        }
    }

    #[pyo3(signature = (msg=None))]
    fn cancel(slf: &Bound<'_, Self>, msg: Option<Py<PyAny>>) -> PyResult<bool> {
        let py = slf.py();
        if slf.get().is_done(py) {
            return Ok(false);
        }
        slf.get().inner.forget(py, slf.get().ticket);
        slf.get().state.with(py, |state| state.cancelled = true);
        let error = match msg {
            Some(msg) => CancelledError::new_err((msg,)),
            None => CancelledError::new_err(()),
        };
        let (task, callbacks) = slf.get().take_listeners(py, Err(error));
        if let Some(task) = task {
            slf.get().inner.make_ready(py, task);
        }
        for callback in callbacks {
            Wait::call_soon(slf, callback)?;
        }
        Ok(true)
    }
}
