//! Requests of virtual users: from what a function asks for to the bytes that are sent.

use super::engine::Sending;
use super::guard::Stranger;
use crate::http::h2;
use crate::http::link::split_address;
use crate::http::request::{encode, has_header, Outgoing};
use crate::http::url::{has_scheme, Url};
use crate::net::{Endpoint, Failure, TlsClient};
use crate::plan::{
    is_loopback, stranger_refusal, Header, HttpRequest, HttpVersion, Payload, Plan, TlsOptions,
};
use crate::result::ErrorKind;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// What TLS calls HTTP/1.1.
const HTTP_1: &[u8] = b"http/1.1";
/// So many prepared requests are remembered; functions that make up URLs would fill the memory otherwise.
const MOST_PREPARED: usize = 4096;

/// What holds for all requests of a run.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct ClientOptions {
    /// What URLs without a host are relative to.
    pub base_url: Option<String>,
    /// Sent with every request.
    pub headers: Vec<(String, String)>,
    /// Which version to speak.
    pub version: HttpVersion,
    /// How servers at `https` URLs prove who they are, and who we are.
    pub tls: TlsOptions,
    /// How many redirects of a request are followed, if it does not say so itself.
    pub redirects: u32,
}

impl ClientOptions {
    /// Says what is wrong with them in a run of this plan, if anything is, before the first user comes across it.
    ///
    /// # Errors
    ///
    /// A base URL that is none, or of a machine of others that the plan would press hard; a header that cannot be sent;
    /// files for TLS that cannot be read.
    pub fn check(&self, plan: &Plan) -> Result<(), String> {
        if let Some(base) = self.base()? {
            // What is asked for at other hosts, only the functions know.
            if let Some(asked) = plan.immodest().filter(|_| !is_loopback(&base.host)) {
                return Err(stranger_refusal(&base.host, &asked));
            }
        }
        for (name, value) in &self.headers {
            check_header(name, value)?;
        }
        if self.tls != TlsOptions::default() {
            TlsClient::new(&self.tls, "localhost", Some(self.protocol()))?;
        }
        Ok(())
    }

    /// The protocol that is to be agreed upon with TLS.
    fn protocol(&self) -> &'static [u8] {
        match self.version {
            HttpVersion::Http1 => HTTP_1,
            HttpVersion::Http2 => h2::ALPN,
        }
    }

    fn base(&self) -> Result<Option<Url>, String> {
        self.base_url.as_deref().map(Url::parse).transpose()
    }
}

/// A request as a user's function asks for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ask<'a> {
    /// Such as `GET`.
    pub method: &'a str,
    /// Absolute, or relative to the base URL.
    pub url: &'a str,
    /// As the report calls it: method and path if nothing else is said.
    pub name: Option<&'a str>,
    /// Beside those that are always sent; they take the place of those of the same name.
    pub headers: &'a [(String, String)],
    /// What is sent, and of what type it is if no header says so.
    pub body: Option<(&'a [u8], &'a str)>,
    /// How many redirects are followed, if not as many as [`ClientOptions::redirects`] says.
    pub redirects: Option<u32>,
}

/// A server that users talk to.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) authority: String,
    host: String,
    port: u16,
    tls: bool,
    endpoint: Option<u32>,
    /// If it is a machine of others.
    stranger: Option<Stranger>,
}

/// What is the same each time that the same thing is asked for.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    pub(super) origin: u32,
    /// Head and body, in this version's form.
    pub(super) bytes: Arc<[u8]>,
    version: HttpVersion,
    /// Where cookies go in.
    head_end: usize,
    to_head: bool,
    pub(super) name: Arc<str>,
}

/// The cookies of one user.
#[derive(Debug, Clone, Default)]
pub(super) struct Cookies {
    /// Origin, name and value.
    jar: Vec<(u32, String, String)>,
}

/// Prepares requests, and remembers what it has prepared.
#[derive(Debug)]
pub(super) struct Client {
    options: ClientOptions,
    base: Option<Url>,
    origins: Vec<Origin>,
    prepared: HashMap<Box<str>, HashMap<&'static str, Prepared>>,
}

fn interned(method: &str) -> Option<&'static str> {
    ["GET", "HEAD", "DELETE", "OPTIONS", "POST", "PUT", "PATCH"]
        .into_iter()
        .find(|known| *known == method)
}

fn wrong(text: impl Into<std::borrow::Cow<'static, str>>) -> Failure {
    Failure::new(ErrorKind::Script, text)
}

impl Client {
    /// For options that were [checked](ClientOptions::check).
    pub(super) fn new(options: ClientOptions) -> Result<Client, String> {
        Ok(Client {
            base: options.base()?,
            options,
            origins: Vec::new(),
            prepared: HashMap::new(),
        })
    }

    /// Which server, which bytes, and under which name.
    pub(super) fn prepare(&mut self, ask: &Ask<'_>) -> Result<Prepared, Failure> {
        let plain = ask.name.is_none() && ask.headers.is_empty() && ask.body.is_none();
        let known = if plain { interned(ask.method) } else { None };
        if let Some(found) = known.and_then(|method| self.prepared.get(ask.url)?.get(method)) {
            return Ok(found.clone());
        }
        let prepared = self.make(ask)?;
        if let Some(method) = known {
            if self.prepared.len() >= MOST_PREPARED {
                self.prepared.clear();
            }
            self.prepared
                .entry(ask.url.into())
                .or_default()
                .insert(method, prepared.clone());
        }
        Ok(prepared)
    }

    fn resolve_url(&self, text: &str) -> Result<Url, Failure> {
        if has_scheme(text) {
            return Url::parse(text).map_err(wrong);
        }
        let Some(base) = &self.base else {
            return Err(wrong(format!(
                "{text:?} names no host: write the whole URL, or give the run a base URL (url=, or --url)"
            )));
        };
        let scheme = if base.tls { "https" } else { "http" };
        let path = if text.starts_with('/') {
            text.to_owned()
        } else {
            let folder = base.path.split('?').next().unwrap_or("/");
            let folder = &folder[..folder.rfind('/').map_or(0, |at| at + 1)];
            format!("{folder}{text}")
        };
        Url::parse(&format!("{scheme}://{}{path}", base.authority)).map_err(wrong)
    }

    /// How many redirects of this request are followed.
    pub(super) fn redirects(&self, ask: &Ask<'_>) -> u32 {
        ask.redirects.unwrap_or(self.options.redirects)
    }

    fn make(&mut self, ask: &Ask<'_>) -> Result<Prepared, Failure> {
        let (request, url) = self.spelled_out(ask)?;
        Ok(self.made(&request, &url, true))
    }

    /// The same as a request whose response may lead to another.
    pub(super) fn prepare_to_follow(&mut self, ask: &Ask<'_>) -> Result<(Prepared, HttpRequest), Failure> {
        let (mut request, url) = self.spelled_out(ask)?;
        request.url = format!(
            "{}://{}{}",
            if url.tls { "https" } else { "http" },
            url.authority,
            url.path
        );
        Ok((self.made(&request, &url, true), request))
    }

    /// A request that a response has led to.
    pub(super) fn prepare_redirected(&mut self, request: &HttpRequest) -> Result<Prepared, Failure> {
        let url = Url::parse(&request.url).map_err(|why| Failure::new(ErrorKind::Assertion, why))?;
        Ok(self.made(request, &url, false))
    }

    fn made(&mut self, request: &HttpRequest, url: &Url, is_named: bool) -> Prepared {
        let version = self.options.version;
        let (bytes, head_end) = match version {
            HttpVersion::Http1 => {
                let bytes = encode(request, url, true);
                let head_end = bytes.len() - request.body.0.len() - 2;
                (bytes, head_end)
            }
            HttpVersion::Http2 => {
                let mut bytes = h2::encode(request, url);
                let head_end = bytes.len();
                bytes.extend_from_slice(&request.body.0);
                (bytes, head_end)
            }
        };
        Prepared {
            origin: self.origin(url, is_named),
            bytes: bytes.into(),
            version,
            head_end,
            to_head: request.method == "HEAD",
            name: request.name.as_str().into(),
        }
    }

    fn spelled_out(&self, ask: &Ask<'_>) -> Result<(HttpRequest, Url), Failure> {
        let url = self.resolve_url(ask.url)?;
        if ask.method.is_empty() || !ask.method.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(wrong(format!("{:?} is not a method of HTTP", ask.method)));
        }
        for (name, value) in ask.headers {
            check_header(name, value).map_err(wrong)?;
        }
        let is_own = |name: &str| {
            ask.headers
                .iter()
                .any(|(other, _)| other.eq_ignore_ascii_case(name))
        };
        let everywhere = self.options.headers.iter().filter(|(name, _)| !is_own(name));
        let mut headers: Vec<Header> = everywhere
            .chain(ask.headers)
            .map(|(name, value)| Header {
                name: name.clone(),
                value: value.clone(),
            })
            .collect();
        let (body, kind) = ask.body.unwrap_or((&[], ""));
        if !kind.is_empty() && !has_header(&headers, "content-type") {
            headers.push(Header {
                name: "Content-Type".into(),
                value: kind.into(),
            });
        }
        let name = match ask.name {
            Some(name) => name.to_owned(),
            // What stands behind the question mark differs each time.
            None => format!("{} {}", ask.method, url.path.split('?').next().unwrap_or("/")),
        };
        let request = HttpRequest {
            name,
            weight: 1.0,
            method: ask.method.into(),
            url: String::new(),
            headers,
            body: Payload(body.to_vec()),
        };
        Ok((request, url))
    }

    /// Its number. `is_named`: the function asks for it, and no redirect.
    fn origin(&mut self, url: &Url, is_named: bool) -> u32 {
        let same =
            |origin: &Origin| origin.host == url.host && origin.port == url.port && origin.tls == url.tls;
        let at = self.origins.iter().position(same).unwrap_or_else(|| {
            self.origins.push(Origin {
                authority: url.authority.clone(),
                host: url.host.clone(),
                port: url.port,
                tls: url.tls,
                endpoint: None,
                stranger: (!is_loopback(&url.host)).then(|| Stranger {
                    host: url.host.as_str().into(),
                    is_led_to: true,
                }),
            });
            self.origins.len() - 1
        });
        if let Some(stranger) = &mut self.origins[at].stranger {
            stranger.is_led_to &= !is_named;
        }
        at as u32
    }

    /// Who is asked, if it is a machine of others.
    pub(super) fn stranger(&self, origin: u32) -> Option<&Stranger> {
        self.origins[origin as usize].stranger.as_ref()
    }

    /// The server's number in the engine, which `add` gives it the first time, when its name is looked up.
    pub(super) fn endpoint(
        &mut self,
        origin: u32,
        add: impl FnOnce(Endpoint, Option<TlsClient>) -> u32,
    ) -> Result<u32, Failure> {
        let origin = &mut self.origins[origin as usize];
        if let Some(endpoint) = origin.endpoint {
            return Ok(endpoint);
        }
        let tls = match origin.tls {
            true => Some(
                TlsClient::new(&self.options.tls, &origin.host, Some(self.options.protocol()))
                    .map_err(|text| wrong(format!("https://{}: {text}", origin.authority)))?,
            ),
            false => None,
        };
        let endpoint = add(Endpoint::resolve(&origin.host, origin.port)?, tls);
        origin.endpoint = Some(endpoint);
        Ok(endpoint)
    }
}

/// Host and port of `HOST:PORT`.
pub(super) fn parts(address: &str) -> Result<(String, u16), Failure> {
    split_address(address).map_err(|failure| wrong(failure.text))
}

/// If it is a machine of others.
pub(super) fn stranger_at(host: &str) -> Option<Stranger> {
    (!is_loopback(host)).then(|| Stranger {
        host: host.into(),
        is_led_to: false,
    })
}

impl Prepared {
    /// What to send, with a user's cookies.
    pub(super) fn sending(&self, cookies: &Cookies) -> Sending {
        let mut line = String::new();
        for (origin, name, value) in &cookies.jar {
            if *origin == self.origin {
                let separator = if line.is_empty() { "" } else { "; " };
                let _ = write!(line, "{separator}{name}={value}");
            }
        }
        if line.is_empty() {
            return self.sends(Outgoing::Shared(self.bytes.clone()), self.head_end);
        }
        let mut bytes = Vec::with_capacity(self.bytes.len() + line.len() + 16);
        bytes.extend_from_slice(&self.bytes[..self.head_end]);
        match self.version {
            HttpVersion::Http1 => bytes.extend_from_slice(format!("Cookie: {line}\r\n").as_bytes()),
            HttpVersion::Http2 => h2::literal(&mut bytes, "cookie", &line),
        }
        let head_bytes = bytes.len();
        bytes.extend_from_slice(&self.bytes[self.head_end..]);
        self.sends(Outgoing::Own(bytes), head_bytes)
    }

    fn sends(&self, out: Outgoing, head_bytes: usize) -> Sending {
        Sending {
            bytes: match self.version {
                HttpVersion::Http1 => out.len() as u64,
                HttpVersion::Http2 => h2::bytes_of(&out),
            },
            out,
            head_bytes,
            to_head: self.to_head,
        }
    }
}

impl Cookies {
    /// Keeps, changes or drops the cookie that a `Set-Cookie` header names.
    pub(super) fn set(&mut self, origin: u32, header: &str) {
        let mut parts = header.split(';');
        let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else {
            return;
        };
        let (name, value) = (name.trim(), value.trim());
        let is_over = parts.any(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            key.trim().eq_ignore_ascii_case("max-age")
                && value.trim().parse::<i64>().is_ok_and(|seconds| seconds <= 0)
        });
        self.jar.retain(|(of, other, _)| *of != origin || other != name);
        if !is_over && !name.is_empty() {
            self.jar.push((origin, name.to_owned(), value.to_owned()));
        }
    }

    pub(super) fn clear(&mut self) {
        self.jar.clear();
    }
}

fn check_header(name: &str, value: &str) -> Result<(), String> {
    let is_token = |b: u8| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&b);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(format!("{name:?} is not the name of a header"));
    }
    if value.bytes().any(|b| b == b'\r' || b == b'\n' || b == 0) {
        return Err(format!("the value of the header {name} holds the end of a line"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        let options = ClientOptions {
            base_url: Some("http://127.0.0.1:8000/api/".into()),
            headers: vec![("X-Run".into(), "7".into())],
            ..ClientOptions::default()
        };
        Client::new(options).unwrap()
    }

    fn text(prepared: &Prepared) -> String {
        String::from_utf8(prepared.bytes.to_vec()).unwrap()
    }

    #[test]
    fn a_request_says_what_was_asked_for() {
        let mut client = client();
        let ask = Ask {
            method: "POST",
            url: "/cart?id=1",
            headers: &[("x-run".into(), "8".into())],
            body: Some((b"{}", "application/json")),
            ..Ask::default()
        };
        let prepared = client.prepare(&ask).unwrap();
        assert_eq!(&*prepared.name, "POST /cart");
        let text = text(&prepared);
        assert!(
            text.starts_with("POST /cart?id=1 HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"),
            "{text}"
        );
        assert!(
            text.contains("x-run: 8\r\n") && !text.contains("X-Run: 7"),
            "{text}"
        );
        assert!(
            text.contains("Content-Type: application/json\r\nContent-Length: 2\r\n"),
            "{text}"
        );
        assert!(text.ends_with("\r\n\r\n{}"), "{text}");
    }

    #[test]
    fn urls_are_relative_to_the_base() {
        let mut client = client();
        for (url, name) in [
            ("/a", "GET /a"),
            ("b?c=d", "GET /api/b"),
            ("http://[::1]:9/e", "GET /e"),
            ("/login?next=http://elsewhere/", "GET /login"),
        ] {
            let prepared = client
                .prepare(&Ask {
                    method: "GET",
                    url,
                    ..Ask::default()
                })
                .unwrap();
            assert_eq!(&*prepared.name, name);
        }
        let without = Client::new(ClientOptions::default()).unwrap().prepare(&Ask {
            method: "GET",
            url: "/",
            ..Ask::default()
        });
        assert!(without.unwrap_err().text.contains("names no host"));
    }

    #[test]
    fn nobody_smuggles_lines_into_a_request() {
        let mut client = client();
        for (headers, method, url) in [
            (vec![("A".to_string(), "b\r\nC: d".to_string())], "GET", "/"),
            (vec![("A: x\r\n".to_string(), "b".to_string())], "GET", "/"),
            (vec![], "GET / HTTP/1.1\r\n", "/"),
            (vec![], "GET", "/ HTTP/1.1\r\nX: y"),
        ] {
            let ask = Ask {
                method,
                url,
                headers: &headers,
                ..Ask::default()
            };
            assert_eq!(client.prepare(&ask).unwrap_err().kind, ErrorKind::Script);
        }
    }

    #[test]
    fn cookies_go_into_the_head_of_either_version() {
        let options = ClientOptions {
            base_url: Some("http://127.0.0.1/".into()),
            version: HttpVersion::Http2,
            ..ClientOptions::default()
        };
        let mut client = Client::new(options).unwrap();
        let ask = Ask {
            method: "POST",
            url: "/",
            body: Some((b"body", "")),
            ..Ask::default()
        };
        let prepared = client.prepare(&ask).unwrap();
        let mut cookies = Cookies::default();
        let plain = prepared.sending(&cookies);
        cookies.set(prepared.origin, "a=1");
        let sending = prepared.sending(&cookies);
        let (head, body) = sending.out.bytes().split_at(sending.head_bytes);
        assert_eq!(body, b"body");
        assert_eq!(head[..plain.head_bytes], plain.out.bytes()[..plain.head_bytes]);
        assert_eq!(&head[plain.head_bytes..], b"\x00\x06cookie\x03a=1");
    }

    #[test]
    fn machines_of_others_are_known_and_so_is_what_only_redirects_name() {
        let mut client = client();
        let named = |client: &mut Client, url| {
            let ask = Ask {
                method: "GET",
                url,
                ..Ask::default()
            };
            let (prepared, request) = client.prepare_to_follow(&ask).unwrap();
            (client.stranger(prepared.origin).cloned(), request)
        };
        assert_eq!(named(&mut client, "/").0, None);
        assert_eq!(stranger_at("::1"), None);
        let (_, mut request) = named(&mut client, "/");
        request.url = "http://192.0.2.1/".into();
        let origin = client.prepare_redirected(&request).unwrap().origin;
        assert!(client.stranger(origin).unwrap().is_led_to);
        let (stranger, _) = named(&mut client, "http://192.0.2.1/other");
        assert!(!stranger.unwrap().is_led_to);
        client.prepare_redirected(&request).unwrap();
        assert!(!client.stranger(origin).unwrap().is_led_to);
    }

    #[test]
    fn cookies_come_back_to_whom_they_are_from() {
        let mut client = client();
        let prepared = client
            .prepare(&Ask {
                method: "GET",
                url: "/",
                ..Ask::default()
            })
            .unwrap();
        let mut cookies = Cookies::default();
        cookies.set(prepared.origin, "a=1; Path=/; HttpOnly");
        cookies.set(prepared.origin, "b=2");
        cookies.set(prepared.origin + 1, "c=3");
        cookies.set(prepared.origin, "a=4");
        cookies.set(prepared.origin, "b=; Max-Age=0");
        let text = String::from_utf8(prepared.sending(&cookies).out.bytes().to_vec()).unwrap();
        assert!(text.contains("\r\nCookie: a=4\r\n\r\n"), "{text}");
    }
}
