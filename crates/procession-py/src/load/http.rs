//! A virtual user's client for HTTP.

use super::engine::{refused, Inner};
use super::limit_ns;
use super::process::{think, Step};
use super::wait::Makes;
use procession_load::users::{Ask, Expected};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyMapping, PyString};
use std::sync::{Arc, OnceLock};

/// Sends requests, over connections and with cookies that belong to one user.
#[pyclass(frozen, module = "procession.load", name = "HttpClient")]
pub struct HttpClient {
    inner: Arc<Inner>,
    user: usize,
}

/// What a request may say beside method and URL.
#[derive(Default)]
struct Options<'py> {
    name: Option<String>,
    params: Option<Bound<'py, PyAny>>,
    headers: Option<Bound<'py, PyAny>>,
    json: Option<Bound<'py, PyAny>>,
    data: Option<Bound<'py, PyAny>>,
    timeout: Option<f64>,
    expect: Option<Bound<'py, PyAny>>,
    redirects: Option<i64>,
}

fn pairs(headers: &Bound<'_, PyAny>) -> PyResult<Vec<(String, String)>> {
    let mapping = headers
        .cast::<PyMapping>()
        .map_err(|_| PyTypeError::new_err("headers must be a dict of strings"))?;
    mapping
        .items()?
        .iter()
        .map(|pair| {
            let (name, value): (String, Bound<'_, PyAny>) = pair.extract()?;
            Ok((name, value.str()?.to_string()))
        })
        .collect()
}

fn encoded<'py>(py: Python<'py>, values: &Bound<'py, PyAny>) -> PyResult<String> {
    py.import(intern!(py, "urllib.parse"))?
        .call_method1(intern!(py, "urlencode"), (values, true))?
        .extract()
}

fn expected(expect: &Option<Bound<'_, PyAny>>) -> PyResult<Expected> {
    let Some(expect) = expect else {
        return Ok(Expected::Success);
    };
    let statuses = match expect.extract::<u16>() {
        Ok(status) => vec![status],
        Err(_) => expect
            .try_iter()?
            .map(|status| status?.extract())
            .collect::<PyResult<Vec<u16>>>()?,
    };
    Ok(Expected::OneOf(statuses))
}

fn most_redirects(redirects: Option<i64>) -> PyResult<Option<u32>> {
    redirects
        .map(|most| {
            u32::try_from(most)
                .map_err(|_| PyValueError::new_err("redirects must be a whole number, at least 0"))
        })
        .transpose()
}

/// Body and its type.
fn body<'py>(py: Python<'py>, options: &Options<'py>) -> PyResult<Option<(Vec<u8>, &'static str)>> {
    if let Some(json) = &options.json {
        if options.data.is_some() {
            return Err(PyTypeError::new_err("a request has json= or data=, not both"));
        }
        let kwargs = PyDict::new(py);
        kwargs.set_item("separators", (",", ":"))?;
        let text: String = py
            .import(intern!(py, "json"))?
            .getattr(intern!(py, "dumps"))?
            .call((json,), Some(&kwargs))?
            .extract()?;
        return Ok(Some((text.into_bytes(), "application/json")));
    }
    let Some(data) = &options.data else {
        return Ok(None);
    };
    if let Ok(bytes) = data.cast::<PyBytes>() {
        return Ok(Some((bytes.as_bytes().to_vec(), "")));
    }
    if let Ok(text) = data.cast::<PyString>() {
        return Ok(Some((
            text.to_cow()?.into_owned().into_bytes(),
            "text/plain; charset=utf-8",
        )));
    }
    if let Ok(bytes) = data.cast::<pyo3::types::PyByteArray>() {
        // SAFETY: copied at once, with the GIL held and no Python code in between.
        return Ok(Some((unsafe { bytes.as_bytes() }.to_vec(), "")));
    }
    Ok(Some((
        encoded(py, data)?.into_bytes(),
        "application/x-www-form-urlencoded",
    )))
}

impl HttpClient {
    pub fn new(inner: Arc<Inner>, user: usize) -> HttpClient {
        HttpClient { inner, user }
    }

    fn ask(&self, py: Python<'_>, method: &str, url: &str, options: Options<'_>) -> PyResult<Py<PyAny>> {
        let mut whole = std::borrow::Cow::Borrowed(url);
        if let Some(params) = &options.params {
            let separator = if url.contains('?') { '&' } else { '?' };
            whole = format!("{url}{separator}{}", encoded(py, params)?).into();
        }
        let url: &str = &whole;
        let headers = options.headers.as_ref().map_or(Ok(Vec::new()), pairs)?;
        let body = body(py, &options)?;
        let expected = expected(&options.expect)?;
        let timeout_ns = limit_ns(options.timeout)?;
        let asked = Ask {
            method,
            url,
            name: options.name.as_deref(),
            headers: &headers,
            body: body.as_ref().map(|(bytes, kind)| (bytes.as_slice(), *kind)),
            redirects: most_redirects(options.redirects)?,
        };
        let user = self.user;
        let called: OnceLock<Arc<str>> = OnceLock::new();
        let made = self.inner.run(
            py,
            || Makes::Response {
                name: called.get().cloned().unwrap_or_else(|| "".into()),
                url: url.to_owned(),
            },
            |crew| {
                // Nobody may have looked at this user's connections since its last call: where it is a coroutine, because one
                // of them held up all others.
                let _ = crew.look_for_closed();
                let (ticket, name) = crew.request(user, &asked, expected, timeout_ns)?;
                let _ = called.set(name);
                Ok(ticket)
            },
        );
        made.unwrap_or_else(|failure| Err(refused(py, failure)))
    }
}

#[pymethods]
impl HttpClient {
    /// Sends a GET request.
    #[pyo3(signature = (url, *, name=None, params=None, headers=None, timeout=None, expect=None, redirects=None))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords to Python")]
    fn get(
        &self,
        py: Python<'_>,
        url: &str,
        name: Option<String>,
        params: Option<Bound<'_, PyAny>>,
        headers: Option<Bound<'_, PyAny>>,
        timeout: Option<f64>,
        expect: Option<Bound<'_, PyAny>>,
        redirects: Option<i64>,
    ) -> PyResult<Py<PyAny>> {
        self.ask(
            py,
            "GET",
            url,
            Options {
                name,
                params,
                headers,
                timeout,
                expect,
                redirects,
                ..Options::default()
            },
        )
    }

    /// Sends a HEAD request.
    #[pyo3(signature = (url, *, name=None, params=None, headers=None, timeout=None, expect=None, redirects=None))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords to Python")]
    fn head(
        &self,
        py: Python<'_>,
        url: &str,
        name: Option<String>,
        params: Option<Bound<'_, PyAny>>,
        headers: Option<Bound<'_, PyAny>>,
        timeout: Option<f64>,
        expect: Option<Bound<'_, PyAny>>,
        redirects: Option<i64>,
    ) -> PyResult<Py<PyAny>> {
        self.ask(
            py,
            "HEAD",
            url,
            Options {
                name,
                params,
                headers,
                timeout,
                expect,
                redirects,
                ..Options::default()
            },
        )
    }

    /// Sends a DELETE request.
    #[pyo3(signature = (url, *, name=None, params=None, headers=None, json=None, data=None, timeout=None, expect=None, redirects=None))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords to Python")]
    fn delete(
        &self,
        py: Python<'_>,
        url: &str,
        name: Option<String>,
        params: Option<Bound<'_, PyAny>>,
        headers: Option<Bound<'_, PyAny>>,
        json: Option<Bound<'_, PyAny>>,
        data: Option<Bound<'_, PyAny>>,
        timeout: Option<f64>,
        expect: Option<Bound<'_, PyAny>>,
        redirects: Option<i64>,
    ) -> PyResult<Py<PyAny>> {
        self.ask(
            py,
            "DELETE",
            url,
            Options {
                name,
                params,
                headers,
                json,
                data,
                timeout,
                expect,
                redirects,
            },
        )
    }

    /// Sends a POST request.
    #[pyo3(signature = (url, *, name=None, params=None, headers=None, json=None, data=None, timeout=None, expect=None, redirects=None))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords to Python")]
    fn post(
        &self,
        py: Python<'_>,
        url: &str,
        name: Option<String>,
        params: Option<Bound<'_, PyAny>>,
        headers: Option<Bound<'_, PyAny>>,
        json: Option<Bound<'_, PyAny>>,
        data: Option<Bound<'_, PyAny>>,
        timeout: Option<f64>,
        expect: Option<Bound<'_, PyAny>>,
        redirects: Option<i64>,
    ) -> PyResult<Py<PyAny>> {
        self.ask(
            py,
            "POST",
            url,
            Options {
                name,
                params,
                headers,
                json,
                data,
                timeout,
                expect,
                redirects,
            },
        )
    }

    /// Sends a PUT request.
    #[pyo3(signature = (url, *, name=None, params=None, headers=None, json=None, data=None, timeout=None, expect=None, redirects=None))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords to Python")]
    fn put(
        &self,
        py: Python<'_>,
        url: &str,
        name: Option<String>,
        params: Option<Bound<'_, PyAny>>,
        headers: Option<Bound<'_, PyAny>>,
        json: Option<Bound<'_, PyAny>>,
        data: Option<Bound<'_, PyAny>>,
        timeout: Option<f64>,
        expect: Option<Bound<'_, PyAny>>,
        redirects: Option<i64>,
    ) -> PyResult<Py<PyAny>> {
        self.ask(
            py,
            "PUT",
            url,
            Options {
                name,
                params,
                headers,
                json,
                data,
                timeout,
                expect,
                redirects,
            },
        )
    }

    /// Sends a PATCH request.
    #[pyo3(signature = (url, *, name=None, params=None, headers=None, json=None, data=None, timeout=None, expect=None, redirects=None))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords to Python")]
    fn patch(
        &self,
        py: Python<'_>,
        url: &str,
        name: Option<String>,
        params: Option<Bound<'_, PyAny>>,
        headers: Option<Bound<'_, PyAny>>,
        json: Option<Bound<'_, PyAny>>,
        data: Option<Bound<'_, PyAny>>,
        timeout: Option<f64>,
        expect: Option<Bound<'_, PyAny>>,
        redirects: Option<i64>,
    ) -> PyResult<Py<PyAny>> {
        self.ask(
            py,
            "PATCH",
            url,
            Options {
                name,
                params,
                headers,
                json,
                data,
                timeout,
                expect,
                redirects,
            },
        )
    }

    /// Sends a request of any method.
    #[pyo3(signature = (method, url, *, name=None, params=None, headers=None, json=None, data=None, timeout=None, expect=None, redirects=None))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords to Python")]
    fn request(
        &self,
        py: Python<'_>,
        method: &str,
        url: &str,
        name: Option<String>,
        params: Option<Bound<'_, PyAny>>,
        headers: Option<Bound<'_, PyAny>>,
        json: Option<Bound<'_, PyAny>>,
        data: Option<Bound<'_, PyAny>>,
        timeout: Option<f64>,
        expect: Option<Bound<'_, PyAny>>,
        redirects: Option<i64>,
    ) -> PyResult<Py<PyAny>> {
        if method.is_empty() {
            return Err(PyValueError::new_err("a request needs a method, such as \"GET\""));
        }
        self.ask(
            py,
            &method.to_ascii_uppercase(),
            url,
            Options {
                name,
                params,
                headers,
                json,
                data,
                timeout,
                expect,
                redirects,
            },
        )
    }

    /// Times what stands in the `with` block, under this name.
    fn step(&self, name: String) -> PyResult<Step> {
        Step::named(name)
    }

    /// Pauses this user: so many seconds, or a number of seconds between the two.
    #[pyo3(signature = (seconds, most=None))]
    fn think(&self, py: Python<'_>, seconds: f64, most: Option<f64>) -> PyResult<Py<PyAny>> {
        think(py, Some(self.inner.clone()), seconds, most)
    }

    /// Forgets this user's cookies.
    fn clear_cookies(&self) {
        self.inner.crew().clear_cookies(self.user);
    }
}
