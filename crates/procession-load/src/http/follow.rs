//! Redirects and cookies, for tests that ask for them: then requests are made anew each time.

use super::h1::Sink;
use super::request::encode;
use super::url::{has_scheme, Url};
use crate::net::Failure;
use crate::plan::{Header, HttpRequest, Payload};
use crate::result::ErrorKind;
use httparse::Header as Received;

/// The cookies that a user has been given by one server. Their path and domain are not looked at: all go to that server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Jar(Vec<(String, String)>);

impl Jar {
    /// Takes a `Set-Cookie` header.
    pub(crate) fn take(&mut self, header: &str) {
        let mut parts = header.split(';').map(str::trim);
        let Some((name, value)) = parts.next().and_then(|cookie| cookie.split_once('=')) else {
            return;
        };
        let is_over = |part: &str| {
            let age = part
                .split_once('=')
                .filter(|(name, _)| name.eq_ignore_ascii_case("max-age"));
            age.is_some_and(|(_, seconds)| seconds.trim().parse::<i64>().is_ok_and(|seconds| seconds <= 0))
        };
        self.0.retain(|(known, _)| known != name);
        if !parts.any(is_over) {
            self.0.push((name.to_owned(), value.to_owned()));
        }
    }

    fn header(&self) -> Option<Header> {
        let all: Vec<String> = self
            .0
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        (!all.is_empty()).then(|| Header {
            name: "Cookie".to_owned(),
            value: all.join("; "),
        })
    }
}

/// What of a response decides how to go on.
#[derive(Debug, Default)]
pub(crate) struct Look {
    location: Option<String>,
    pub(crate) cookies: Vec<String>,
}

impl Sink for Look {
    fn head(&mut self, _: u16, headers: &[Received<'_>]) {
        for header in headers {
            let value = || String::from_utf8_lossy(header.value).into_owned();
            if header.name.eq_ignore_ascii_case("location") {
                self.location = Some(value());
            } else if header.name.eq_ignore_ascii_case("set-cookie") {
                self.cookies.push(value());
            }
        }
    }

    fn body(&mut self, _: &[u8]) {}
}

/// A request as it is sent this time.
pub(crate) fn with_cookies(request: &HttpRequest, jar: &Jar, keep_alive: bool) -> Result<Vec<u8>, Failure> {
    let url = Url::parse(&request.url).map_err(|why| Failure::new(ErrorKind::Protocol, why))?;
    let mut request = request.clone();
    request.headers.extend(jar.header());
    Ok(encode(&request, &url, keep_alive))
}

/// The request that a response leads to; `None` if it leads nowhere.
///
/// # Errors
///
/// If it leads to another server, which nobody has asked to be tested.
pub(crate) fn next_request(
    request: &HttpRequest,
    status: u16,
    look: &Look,
) -> Result<Option<HttpRequest>, Failure> {
    match redirected(request, status, look.location.as_deref())? {
        Some((next, true)) => Err(Failure::new(
            ErrorKind::Assertion,
            format!(
                "{} leads to {}, another server, which is not followed",
                request.name, next.url
            ),
        )),
        next => Ok(next.map(|(next, _)| next)),
    }
}

/// The same wherever it leads, and whether that is another server, which is then told nothing that was meant for the first.
///
/// # Errors
///
/// If it leads to what is no URL.
pub(crate) fn redirected(
    request: &HttpRequest,
    status: u16,
    location: Option<&str>,
) -> Result<Option<(HttpRequest, bool)>, Failure> {
    let (301 | 302 | 303 | 307 | 308, Some(location)) = (status, location) else {
        return Ok(None);
    };
    let failure = |why: String| Failure::new(ErrorKind::Assertion, why);
    let from = Url::parse(&request.url).map_err(failure)?;
    let scheme = if from.tls { "https" } else { "http" };
    let url = if has_scheme(location) {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{}{location}", from.authority)
    } else {
        format!("{scheme}://{}{}", from.authority, relative(&from.path, location))
    };
    let to = Url::parse(&url).map_err(failure)?;
    let leaves = (to.tls, &to.host, to.port) != (from.tls, &from.host, from.port);
    let mut next = request.clone();
    next.url = url;
    if leaves {
        next.headers.retain(|header| {
            let name = header.name.to_ascii_lowercase();
            !matches!(
                &*name,
                "host" | "authorization" | "proxy-authorization" | "cookie"
            )
        });
    }
    // As browsers do.
    if status == 303 || (status < 303 && next.method == "POST") {
        if next.method != "HEAD" {
            next.method = "GET".to_owned();
        }
        next.body = Payload::default();
        next.headers
            .retain(|header| !header.name.to_ascii_lowercase().starts_with("content-"));
    }
    Ok(Some((next, leaves)))
}

/// The path and query that a relative reference leads to from this path and query, as RFC 3986 has it.
fn relative(from: &str, to: &str) -> String {
    let path = from.split('?').next().unwrap_or("/");
    let (to_path, behind) = to.split_at(to.find(['?', '#']).unwrap_or(to.len()));
    if to_path.is_empty() {
        return match behind.starts_with('?') {
            true => format!("{path}{behind}"),
            false => from.to_owned(),
        };
    }
    let folder = &path[..path.rfind('/').unwrap_or(0)];
    let mut segments: Vec<&str> = folder.split('/').skip(1).collect();
    for segment in to_path.split('/') {
        match segment {
            "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    // What ends with a folder has nothing behind its last slash.
    if to_path.ends_with("/.") || to_path.ends_with("/..") || matches!(to_path, "." | "..") {
        segments.push("");
    }
    format!("/{}{behind}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_kept_replaced_and_dropped() {
        let mut jar = Jar::default();
        jar.take("a=1; Path=/; HttpOnly");
        jar.take("b=2");
        jar.take("a=3");
        assert_eq!(jar.header().unwrap().value, "b=2; a=3");
        jar.take("b=; Max-Age=0");
        assert_eq!(jar.header().unwrap().value, "a=3");
        jar.take("nonsense");
        assert_eq!(jar.header().unwrap().value, "a=3");
    }

    #[test]
    fn redirects_are_followed_on_the_same_server_only() {
        let mut request = HttpRequest::new("POST", "http://h:81/a/b?c").unwrap();
        request.body = Payload(b"x".to_vec());
        let go = |status, location: &str| {
            let look = Look {
                location: Some(location.to_owned()),
                cookies: Vec::new(),
            };
            next_request(&request, status, &look)
        };
        let follow = |status, location| {
            let next = go(status, location).unwrap().unwrap();
            (next.method, next.url, next.body.0.len())
        };
        assert_eq!(follow(302, "/d"), ("GET".into(), "http://h:81/d".into(), 0));
        assert_eq!(follow(307, "d?e"), ("POST".into(), "http://h:81/a/d?e".into(), 1));
        assert_eq!(
            follow(303, "http://h:81/d"),
            ("GET".into(), "http://h:81/d".into(), 0)
        );
        assert!(go(301, "http://h:82/")
            .unwrap_err()
            .text
            .contains("another server"));
        assert_eq!(go(200, "/d").unwrap(), None);
        assert_eq!(next_request(&request, 302, &Look::default()).unwrap(), None);
        assert_eq!(
            follow(302, "/login?next=http://h:81/"),
            ("GET".into(), "http://h:81/login?next=http://h:81/".into(), 0)
        );
    }

    #[test]
    fn relative_references_lead_where_rfc_3986_says() {
        for (to, where_to) in [
            ("d", "/a/b/d"),
            ("d/", "/a/b/d/"),
            ("./d?e=/x/..", "/a/b/d?e=/x/.."),
            ("?e", "/a/b/c?e"),
            ("", "/a/b/c?q"),
            ("#part", "/a/b/c?q"),
            ("d#part", "/a/b/d#part"),
            (".", "/a/b/"),
            ("..", "/a/"),
            ("../d", "/a/d"),
            ("../..", "/"),
            ("../../../d", "/d"),
            ("e/../d", "/a/b/d"),
        ] {
            assert_eq!(relative("/a/b/c?q", to), where_to, "{to:?}");
        }
        assert_eq!(relative("/", "d"), "/d");
        assert_eq!(relative("/?q", "?e"), "/?e");
    }

    #[test]
    fn another_server_is_not_told_what_was_meant_for_the_first() {
        let mut request = HttpRequest::new("GET", "http://h:81/").unwrap();
        for name in ["Authorization", "cookie", "X-Run"] {
            request.headers.push(Header {
                name: name.into(),
                value: "1".into(),
            });
        }
        let names = |location| {
            let (next, leaves) = redirected(&request, 307, Some(location)).unwrap().unwrap();
            let names: Vec<String> = next.headers.into_iter().map(|header| header.name).collect();
            (names.join(" "), leaves)
        };
        assert_eq!(names("/a"), ("Authorization cookie X-Run".into(), false));
        assert_eq!(names("https://h:81/"), ("X-Run".into(), true));
        assert_eq!(names("//other/"), ("X-Run".into(), true));
    }
}
