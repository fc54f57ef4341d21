//! Raw sockets of virtual users, for protocols of their own.

use super::engine::{refused, Inner};
use super::limit_ns;
use super::wait::Makes;
use crate::gil::GilCell;
use procession_load::now_ns;
use procession_load::users::{Receive, Socket};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::{Arc, OnceLock};

/// Makes connections of one user over TCP.
#[pyclass(frozen, module = "procession.load")]
pub struct TcpClient {
    inner: Arc<Inner>,
    user: usize,
}

/// Makes sockets of one user for datagrams.
#[pyclass(frozen, module = "procession.load")]
pub struct UdpClient {
    inner: Arc<Inner>,
    user: usize,
}

/// A connection over TCP. What is received is timed from what was sent last.
#[pyclass(frozen, module = "procession.load")]
pub struct TcpConnection {
    inner: Arc<Inner>,
    user: usize,
    socket: Socket,
    address: String,
    /// When the last request was sent, until its response has begun to be waited for.
    sent_ns: GilCell<Option<u64>>,
}

/// A socket for datagrams to one address.
#[pyclass(frozen, module = "procession.load")]
pub struct UdpSocket {
    inner: Arc<Inner>,
    user: usize,
    socket: Socket,
    address: String,
    sent_ns: GilCell<Option<u64>>,
}

fn open(
    py: Python<'_>,
    inner: &Arc<Inner>,
    user: usize,
    address: &str,
    is_udp: bool,
    timeout: Option<f64>,
) -> PyResult<Py<PyAny>> {
    let timeout_ns = limit_ns(timeout)?;
    let opened: OnceLock<Socket> = OnceLock::new();
    let made = inner.run(
        py,
        || match opened.get() {
            None => Makes::Nothing,
            Some(&socket) if is_udp => Makes::Udp {
                socket,
                address: address.to_owned(),
                user,
            },
            Some(&socket) => Makes::Tcp {
                socket,
                address: address.to_owned(),
                user,
            },
        },
        |crew| {
            let (ticket, socket) = crew.connect(address, is_udp, timeout_ns)?;
            if let Some(socket) = socket {
                let _ = opened.set(socket);
            }
            Ok(ticket)
        },
    );
    made.unwrap_or_else(|failure| Err(refused(py, failure)))
}

#[pymethods]
impl TcpClient {
    /// Connects to `HOST:PORT`. How long it takes is a step of its own in the report.
    #[pyo3(signature = (address, *, timeout=None))]
    fn connect(&self, py: Python<'_>, address: &str, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        open(py, &self.inner, self.user, address, false, timeout)
    }
}

#[pymethods]
impl UdpClient {
    /// A socket for datagrams to `HOST:PORT`.
    #[pyo3(signature = (address))]
    fn connect(&self, py: Python<'_>, address: &str) -> PyResult<Py<PyAny>> {
        open(py, &self.inner, self.user, address, true, None)
    }
}

impl TcpClient {
    pub fn new(inner: Arc<Inner>, user: usize) -> TcpClient {
        TcpClient { inner, user }
    }
}

impl UdpClient {
    pub fn new(inner: Arc<Inner>, user: usize) -> UdpClient {
        UdpClient { inner, user }
    }
}

fn send(
    py: Python<'_>,
    inner: &Arc<Inner>,
    socket: Socket,
    sent_ns: &GilCell<Option<u64>>,
    data: Vec<u8>,
    timeout: Option<f64>,
) -> PyResult<Py<PyAny>> {
    let timeout_ns = limit_ns(timeout)?;
    let now = now_ns();
    sent_ns.with(py, |sent| *sent = Some(now));
    inner
        .run(
            py,
            || Makes::Nothing,
            |crew| crew.send(socket, data, timeout_ns).ok_or(None),
        )
        .unwrap_or_else(|failure| Err(refused(py, failure)))
}

#[expect(clippy::too_many_arguments, reason = "the two kinds of sockets share it")]
fn receive(
    py: Python<'_>,
    inner: &Arc<Inner>,
    user: usize,
    socket: Socket,
    sent_ns: &GilCell<Option<u64>>,
    what: Receive,
    name: String,
    timeout: Option<f64>,
) -> PyResult<Py<PyAny>> {
    let timeout_ns = limit_ns(timeout)?;
    // Only the first answer belongs to what was sent.
    let sent = sent_ns.with(py, Option::take);
    inner
        .run(
            py,
            || Makes::Nothing,
            |crew| {
                let exchange = sent.map(|sent_ns| (name.as_str(), sent_ns));
                crew.receive(user, socket, what, exchange, timeout_ns).ok_or(None)
            },
        )
        .unwrap_or_else(|failure| Err(refused(py, failure)))
}

impl TcpConnection {
    pub fn new(inner: Arc<Inner>, user: usize, socket: Socket, address: String) -> TcpConnection {
        TcpConnection {
            inner,
            user,
            socket,
            address,
            sent_ns: GilCell::new(None),
        }
    }

    fn take(
        &self,
        py: Python<'_>,
        what: Receive,
        name: Option<String>,
        timeout: Option<f64>,
    ) -> PyResult<Py<PyAny>> {
        let name = name.unwrap_or_else(|| format!("tcp {}", self.address));
        receive(
            py,
            &self.inner,
            self.user,
            self.socket,
            &self.sent_ns,
            what,
            name,
            timeout,
        )
    }
}

#[pymethods]
impl TcpConnection {
    /// Sends all of these bytes.
    #[pyo3(signature = (data, *, timeout=None))]
    fn send(&self, py: Python<'_>, data: &Bound<'_, PyBytes>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        send(
            py,
            &self.inner,
            self.socket,
            &self.sent_ns,
            data.as_bytes().to_vec(),
            timeout,
        )
    }

    /// Receives what there is, at most `size` bytes; nothing if the other side has closed the connection.
    #[pyo3(signature = (size=65536, *, name=None, timeout=None))]
    fn recv(
        &self,
        py: Python<'_>,
        size: usize,
        name: Option<String>,
        timeout: Option<f64>,
    ) -> PyResult<Py<PyAny>> {
        self.take(py, Receive::Some(size), name, timeout)
    }

    /// Receives exactly so many bytes.
    #[pyo3(signature = (size, *, name=None, timeout=None))]
    fn recv_exactly(
        &self,
        py: Python<'_>,
        size: usize,
        name: Option<String>,
        timeout: Option<f64>,
    ) -> PyResult<Py<PyAny>> {
        self.take(py, Receive::Exactly(size), name, timeout)
    }

    /// Receives all up to and with `end`.
    #[pyo3(signature = (end, *, name=None, timeout=None))]
    fn recv_until(
        &self,
        py: Python<'_>,
        end: &Bound<'_, PyBytes>,
        name: Option<String>,
        timeout: Option<f64>,
    ) -> PyResult<Py<PyAny>> {
        if end.as_bytes().is_empty() {
            return Err(PyValueError::new_err(
                "recv_until() needs to know what to wait for",
            ));
        }
        self.take(py, Receive::Until(end.as_bytes().to_vec()), name, timeout)
    }

    /// Closes it.
    fn close(&self) {
        self.inner.crew().close(self.socket);
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_error))]
    fn __exit__(&self, _error: &Bound<'_, pyo3::types::PyTuple>) -> bool {
        self.close();
        false
    }

    fn __repr__(&self) -> String {
        format!("<TcpConnection to {}>", self.address)
    }
}

impl Drop for TcpConnection {
    fn drop(&mut self) {
        self.inner.crew().close(self.socket);
    }
}

impl UdpSocket {
    pub fn new(inner: Arc<Inner>, user: usize, socket: Socket, address: String) -> UdpSocket {
        UdpSocket {
            inner,
            user,
            socket,
            address,
            sent_ns: GilCell::new(None),
        }
    }
}

#[pymethods]
impl UdpSocket {
    /// Sends a datagram.
    fn send(&self, py: Python<'_>, data: &Bound<'_, PyBytes>) -> PyResult<Py<PyAny>> {
        send(
            py,
            &self.inner,
            self.socket,
            &self.sent_ns,
            data.as_bytes().to_vec(),
            None,
        )
    }

    /// Receives a datagram; fails as lost if none comes in time.
    #[pyo3(signature = (*, name=None, timeout=None))]
    fn recv(&self, py: Python<'_>, name: Option<String>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        let name = name.unwrap_or_else(|| format!("udp {}", self.address));
        receive(
            py,
            &self.inner,
            self.user,
            self.socket,
            &self.sent_ns,
            Receive::Datagram,
            name,
            timeout,
        )
    }

    /// Closes it.
    fn close(&self) {
        self.inner.crew().close(self.socket);
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_error))]
    fn __exit__(&self, _error: &Bound<'_, pyo3::types::PyTuple>) -> bool {
        self.close();
        false
    }

    fn __repr__(&self) -> String {
        format!("<UdpSocket to {}>", self.address)
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        self.inner.crew().close(self.socket);
    }
}
