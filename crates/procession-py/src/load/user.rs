//! Who a virtual user is, and what its life is made of.

use super::engine::Inner;
use super::failure_of;
use super::http::HttpClient;
use super::raw::{TcpClient, UdpClient};
use pyo3::prelude::*;
use pyo3::types::PyBool;
use std::sync::Arc;

/// A virtual user.
#[pyclass(frozen, module = "procession.load", dict)]
pub struct User {
    inner: Arc<Inner>,
    index: usize,
    id: u64,
}

impl User {
    pub fn new(inner: Arc<Inner>) -> User {
        let (index, id) = {
            let mut crew = inner.crew();
            let index = crew.enter();
            (index, crew.id(index))
        };
        User { inner, index, id }
    }
}

#[pymethods]
impl User {
    /// Its number among all users of the run, counting from 0.
    #[getter]
    fn id(&self) -> u64 {
        self.id
    }

    /// The number of the worker process that it lives in, counting from 0.
    #[getter]
    fn process(&self) -> u32 {
        self.inner.desk.number()
    }

    /// How many iterations it had before this one.
    #[getter]
    fn iteration(&self) -> u64 {
        self.inner.crew().iteration(self.index)
    }

    /// Its client for HTTP, which it is also given as `http`.
    #[getter]
    fn http(&self) -> HttpClient {
        HttpClient::new(self.inner.clone(), self.index)
    }

    /// Its client for TCP, which it is also given as `tcp`.
    #[getter]
    fn tcp(&self) -> TcpClient {
        TcpClient::new(self.inner.clone(), self.index)
    }

    /// Its client for datagrams, which it is also given as `udp`.
    #[getter]
    fn udp(&self) -> UdpClient {
        UdpClient::new(self.inner.clone(), self.index)
    }

    /// A coroutine asks for the next iteration: `None` if it begins, `False` if there is none, or something to await first.
    fn begin(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if !self.inner.is_async {
            return Ok(PyBool::new(py, self.inner.begin_blocking(py, self.index)?)
                .to_owned()
                .into_any()
                .unbind());
        }
        match self.inner.begin(py, self.index) {
            Some(None) => Ok(py.None()),
            Some(Some(wait)) => wait,
            None => Ok(PyBool::new(py, false).to_owned().into_any().unbind()),
        }
    }

    /// The iteration has ended well.
    fn done(&self) {
        self.inner.crew().end(self.index, None, false);
    }

    /// The iteration has raised.
    fn fail(&self, py: Python<'_>, error: &Bound<'_, PyAny>) {
        let (failure, is_counted) = failure_of(py, error);
        self.inner.crew().end(self.index, Some(&failure), is_counted);
    }

    /// There are no rows of data left for anybody.
    fn out_of_data(&self) {
        let mut crew = self.inner.crew();
        crew.abandon(self.index);
        self.inner.desk.end_of_data();
    }

    /// Its life is over.
    fn leave(&self) {
        self.inner.crew().leave(self.index);
    }

    fn __repr__(&self) -> String {
        format!("<User {} in process {}>", self.id, self.inner.desk.number())
    }
}
