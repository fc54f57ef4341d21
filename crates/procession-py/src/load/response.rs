//! A response, of which nothing is made before it is looked at.

use super::process::promise;
use super::ExpectationFailed;
use procession_load::users::Reply;
use pyo3::exceptions::{PyKeyError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};
use std::sync::Arc;

/// The response to a request.
#[pyclass(frozen, module = "procession.load", name = "HttpResponse")]
pub struct HttpResponse {
    reply: Box<Reply>,
    name: Arc<str>,
    url: String,
    response_ns: u64,
}

impl HttpResponse {
    pub fn new(reply: Box<Reply>, name: Arc<str>, url: String, response_ns: u64) -> HttpResponse {
        HttpResponse {
            reply,
            name,
            url,
            response_ns,
        }
    }

    fn header(&self, wanted: &str) -> Option<String> {
        self.reply
            .headers()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.iter().map(|&b| b as char).collect())
    }

    /// The body as it was before it was compressed.
    fn content<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        if !self.reply.is_whole {
            return Err(PyValueError::new_err(format!(
                "the body of {} bytes was too long to be kept",
                self.reply.body_bytes
            )));
        }
        let bytes = PyBytes::new(py, self.reply.body());
        let wbits = match self
            .header("content-encoding")
            .map(|name| name.trim().to_ascii_lowercase())
            .as_deref()
        {
            Some("gzip" | "x-gzip") => 31,
            Some("deflate") => 15,
            _ => return Ok(bytes),
        };
        if self.reply.body().is_empty() {
            return Ok(bytes);
        }
        Ok(py
            .import(intern!(py, "zlib"))?
            .call_method1(intern!(py, "decompress"), (bytes, wbits))?
            .cast_into()?)
    }

    fn failed(&self, py: Python<'_>, text: String, is_counted: bool) -> PyErr {
        let error = ExpectationFailed::new_err(text);
        let _ = error.value(py).setattr("_is_counted", is_counted);
        error
    }
}

#[pymethods]
impl HttpResponse {
    /// Such as 200.
    #[getter]
    fn status(&self) -> u16 {
        self.reply.status
    }

    /// The same as `status`.
    #[getter]
    fn status_code(&self) -> u16 {
        self.reply.status
    }

    /// Whether the status is below 400.
    #[getter]
    fn ok(&self) -> bool {
        self.reply.status < 400
    }

    /// What was asked for; where redirects were followed, where they have led.
    #[getter]
    fn url(&self) -> &str {
        &self.url
    }

    /// As the report calls the request.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// Seconds from the moment at which the request was due to its last byte.
    #[getter]
    fn elapsed(&self) -> f64 {
        self.response_ns as f64 * 1e-9
    }

    /// The headers by their names in lower case; several of one name are joined by a comma.
    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let headers = PyDict::new(py);
        for (name, value) in self.reply.headers() {
            let name = name.to_ascii_lowercase();
            let mut text: String = value.iter().map(|&b| b as char).collect();
            if let Some(other) = headers.get_item(&name)? {
                text = format!("{other}, {text}");
            }
            headers.set_item(name, text)?;
        }
        Ok(headers)
    }

    /// The body, decompressed if it was compressed.
    #[getter]
    fn body<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.content(py)
    }

    /// The body as text.
    #[getter]
    fn text<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        let kind = self.header("content-type").unwrap_or_default();
        let charset = kind
            .split(';')
            .skip(1)
            .filter_map(|part| part.trim().split_once('='))
            .find(|(key, _)| key.eq_ignore_ascii_case("charset"))
            .map_or("utf-8", |(_, value)| value.trim_matches('"'))
            .to_owned();
        Ok(self
            .content(py)?
            .call_method1(intern!(py, "decode"), (charset, "replace"))?
            .cast_into()?)
    }

    /// The body as JSON, or what stands in it under these keys, one within the other.
    #[pyo3(signature = (*keys))]
    fn json<'py>(&self, py: Python<'py>, keys: Vec<Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        let loads = py.import(intern!(py, "json"))?.getattr(intern!(py, "loads"))?;
        let mut value = match loads.call1((self.content(py)?,)) {
            Ok(value) => value,
            Err(error) if error.is_instance_of::<PyValueError>(py) => {
                return Err(self.failed(py, format!("the body is no JSON: {}", error.value(py)), false));
            }
            Err(error) => return Err(error),
        };
        for key in keys {
            value = value.get_item(&key).map_err(|_| {
                PyKeyError::new_err(format!("the JSON of the response holds nothing under {key:?}"))
            })?;
        }
        Ok(value)
    }

    /// Fails the request and the iteration if the response is not like this; returns the response otherwise.
    ///
    /// Percentiles, such as `p99="<300ms"`, are judged at the end of the run, for all requests of this name.
    #[pyo3(signature = (*, status=None, text=None, header=None, **percentiles))]
    fn expect<'py>(
        slf: &Bound<'py, Self>,
        status: Option<Bound<'py, PyAny>>,
        text: Option<&str>,
        header: Option<&str>,
        percentiles: Option<Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, Self>> {
        let py = slf.py();
        let this = slf.get();
        for (figure, limit) in percentiles.iter().flat_map(|figures| figures.iter()) {
            let (figure, limit): (String, String) = (
                figure.extract()?,
                limit
                    .extract()
                    .map_err(|_| PyTypeError::new_err("limits are strings, such as p99=\"<300ms\""))?,
            );
            let is_figure =
                figure.starts_with('p') || figure == "mean" || figure == "max" || figure == "errors";
            if !is_figure || !limit.starts_with('<') {
                return Err(PyTypeError::new_err(format!(
                    "expect() knows status, text, header, and limits such as p99=\"<300ms\", not {figure}={limit:?}"
                )));
            }
            // `p99_9` is p99.9, which no keyword can be.
            promise(format!("{}{limit} for {}", figure.replace('_', "."), this.name));
        }
        if let Some(status) = status {
            let fits = match status.extract::<u16>() {
                Ok(status) => status == this.reply.status,
                Err(_) => status.contains(this.reply.status)?,
            };
            if !fits {
                // From 400 on it was counted as failed when it came.
                let is_counted = this.reply.status >= 400;
                let text = format!("{}: status {} instead of {status}", this.name, this.reply.status);
                return Err(this.failed(py, text, is_counted));
            }
        }
        if let Some(text) = text {
            if !this.text(py)?.contains(text)? {
                return Err(this.failed(py, format!("{}: {text:?} is not in the body", this.name), false));
            }
        }
        if let Some(header) = header {
            if this.header(header).is_none() {
                return Err(this.failed(py, format!("{}: there is no header {header}", this.name), false));
            }
        }
        Ok(slf.clone())
    }

    fn __bool__(&self) -> bool {
        self.reply.status < 400
    }

    fn __repr__(&self) -> String {
        format!(
            "<Response {} of {} bytes from {}>",
            self.reply.status, self.reply.body_bytes, self.url
        )
    }
}
