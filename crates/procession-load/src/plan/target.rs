use crate::http::url::Url;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What is called.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Target {
    /// A URL, or several of them.
    Http(HttpTarget),
    /// A server that speaks a protocol of its own over TCP.
    Tcp(TcpTarget),
    /// A server that takes datagrams.
    Udp(UdpTarget),
    /// A [`Workload`](crate::Workload) of the caller's own, such as virtual users.
    Custom {
        /// As the report calls it.
        name: String,
    },
}

/// Requests over HTTP, and how to get them to the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HttpTarget {
    /// One of them each time, by their weights.
    pub requests: Vec<HttpRequest>,
    /// Which version to speak.
    pub version: HttpVersion,
    /// Whether a connection is used again. If not, each request pays for a new one.
    pub keep_alive: bool,
    /// How many requests are in flight on one connection; more than one with HTTP/2 only.
    pub streams: u32,
    /// For `https` URLs.
    pub tls: TlsOptions,
    /// Connects here (`HOST:PORT`) whatever the URL says.
    pub connect_to: Option<String>,
    /// Connects to this Unix socket whatever the URL says.
    pub unix_socket: Option<PathBuf>,
    /// When host names are looked up.
    pub dns: Dns,
    /// How many redirects are followed; what is counted is the last response, timed from the first request.
    pub redirects: u32,
    /// Whether each user keeps the cookies it is given.
    pub cookies: bool,
}

/// One kind of request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HttpRequest {
    /// As the report calls it: method and path if nothing else is said.
    pub name: String,
    /// How often it is chosen, relative to the others.
    pub weight: f64,
    /// Such as `GET`.
    pub method: String,
    /// Absolute, `http` or `https`.
    pub url: String,
    /// Beside `Host` and `Content-Length`, which are made, unless they are among these.
    pub headers: Vec<Header>,
    /// What is sent.
    pub body: Payload,
}

/// A header of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Header {
    /// As it is sent.
    pub name: String,
    /// As it is sent.
    pub value: String,
}

/// Bytes to send: text in files if it is text, a list of numbers otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(with = "PayloadFile"))]
#[serde(from = "PayloadFile", into = "PayloadFile")]
pub struct Payload(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
enum PayloadFile {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<Payload> for PayloadFile {
    fn from(payload: Payload) -> PayloadFile {
        String::from_utf8(payload.0)
            .map_or_else(|error| PayloadFile::Bytes(error.into_bytes()), PayloadFile::Text)
    }
}

impl From<PayloadFile> for Payload {
    fn from(file: PayloadFile) -> Payload {
        match file {
            PayloadFile::Text(text) => Payload(text.into_bytes()),
            PayloadFile::Bytes(bytes) => Payload(bytes),
        }
    }
}

/// Which version of HTTP to speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum HttpVersion {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: agreed upon by TLS, or taken for granted without it.
    Http2,
}

/// When host names are looked up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Dns {
    /// Before the test.
    #[default]
    Once,
    /// For each connection, which waits for the answer.
    PerConnection,
}

/// How servers prove who they are, and who we are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TlsOptions {
    /// Takes any certificate.
    pub insecure: bool,
    /// Certificates (PEM) that are trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate chain (PEM).
    pub certificate_file: Option<PathBuf>,
    /// The key (PEM) of our certificate.
    pub key_file: Option<PathBuf>,
    /// The name asked for, instead of the URL's host.
    pub server_name: Option<String>,
}

/// Exchanges over TCP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TcpTarget {
    /// `HOST:PORT`.
    pub address: String,
    /// What is sent each time; nothing: the test is of connecting alone.
    pub send: Payload,
    /// When an answer is complete.
    pub until: Until,
    /// Whether a connection is used again.
    pub keep_alive: bool,
}

/// When an answer is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// There is none: a request is through when it is sent.
    Sent,
    /// After so many bytes.
    Bytes(u64),
    /// After these bytes.
    Delimiter(Payload),
    /// When the server closes the connection.
    Close,
}

/// Datagrams over UDP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UdpTarget {
    /// `HOST:PORT`.
    pub address: String,
    /// What is sent each time.
    pub send: Payload,
    /// Whether each is answered. An answer that does not come within the timeout counts as lost.
    pub reply: bool,
    /// Puts a sequence number (16 bytes) at the beginning of each datagram and looks for it in the answers, as an echo
    /// server sends them: tells which were lost or reordered. Without it answers are taken in order.
    pub numbered: bool,
}

impl HttpTarget {
    /// `GET`s of one URL.
    ///
    /// # Errors
    ///
    /// If it is not an absolute `http` or `https` URL.
    pub fn get(url: impl Into<String>) -> Result<HttpTarget> {
        Ok(HttpTarget::new(vec![HttpRequest::new("GET", url)?]))
    }

    /// These requests with the defaults: HTTP/1.1, connections kept, no redirects, no cookies, names looked up once.
    pub fn new(requests: Vec<HttpRequest>) -> HttpTarget {
        HttpTarget {
            requests,
            version: HttpVersion::default(),
            keep_alive: true,
            streams: 1,
            tls: TlsOptions::default(),
            connect_to: None,
            unix_socket: None,
            dns: Dns::default(),
            redirects: 0,
            cookies: false,
        }
    }
}

impl HttpRequest {
    /// A request with neither headers nor body, of weight 1, named by its method and path.
    ///
    /// # Errors
    ///
    /// If it is not an absolute `http` or `https` URL.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Result<HttpRequest> {
        let (method, url) = (method.into(), url.into());
        let parsed = Url::parse(&url).map_err(Error::plan)?;
        let path = parsed.path.split('?').next().unwrap_or("/");
        Ok(HttpRequest {
            name: format!("{method} {path}"),
            weight: 1.0,
            method,
            url,
            headers: Vec::new(),
            body: Payload::default(),
        })
    }
}
