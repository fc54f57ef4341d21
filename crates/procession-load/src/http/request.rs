//! The bytes of a request, made once.

use super::url::Url;
use crate::plan::{Header, HttpRequest};
use std::sync::Arc;

/// Bytes on their way out.
#[derive(Debug, Clone)]
pub(crate) enum Outgoing {
    /// The same for many requests.
    Shared(Arc<[u8]>),
    /// For this one.
    Own(Vec<u8>),
}

impl Outgoing {
    /// How many bytes they are.
    pub(crate) fn len(&self) -> usize {
        self.bytes().len()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Outgoing::Shared(bytes) => bytes,
            Outgoing::Own(bytes) => bytes,
        }
    }
}

/// A request as it goes over the wire of HTTP/1.
pub fn encode(request: &HttpRequest, url: &Url, keep_alive: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256 + request.body.0.len());
    bytes.extend_from_slice(format!("{} {} HTTP/1.1\r\n", request.method, url.path).as_bytes());
    let has = |name: &str| has_header(&request.headers, name);
    if !has("host") {
        push_header(&mut bytes, "Host", &url.authority);
    }
    if !has("user-agent") {
        push_header(&mut bytes, "User-Agent", USER_AGENT);
    }
    if let (Some(credentials), false) = (&url.credentials, has("authorization")) {
        push_header(&mut bytes, "Authorization", &basic(credentials));
    }
    if !keep_alive && !has("connection") {
        push_header(&mut bytes, "Connection", "close");
    }
    for header in &request.headers {
        push_header(&mut bytes, &header.name, &header.value);
    }
    let sends_body =
        !request.body.0.is_empty() || matches!(request.method.as_str(), "POST" | "PUT" | "PATCH");
    if sends_body && !has("content-length") && !has("transfer-encoding") {
        push_header(&mut bytes, "Content-Length", &request.body.0.len().to_string());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&request.body.0);
    bytes
}

/// How we introduce ourselves.
pub const USER_AGENT: &str = concat!("procession/", env!("CARGO_PKG_VERSION"));

/// Whether one of these headers has this name.
pub fn has_header(headers: &[Header], name: &str) -> bool {
    headers
        .iter()
        .any(|header| header.name.eq_ignore_ascii_case(name))
}

fn push_header(bytes: &mut Vec<u8>, name: &str, value: &str) {
    for part in [name, ": ", value, "\r\n"] {
        bytes.extend_from_slice(part.as_bytes());
    }
}

/// The value of an `Authorization` header for `user:password`.
pub fn basic(credentials: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("Basic ");
    for chunk in credentials.as_bytes().chunks(3) {
        let word = chunk
            .iter()
            .enumerate()
            .fold(0u32, |word, (at, &byte)| word | u32::from(byte) << (16 - 8 * at));
        for digit in 0..4 {
            let value = (word >> (18 - 6 * digit)) & 63;
            text.push(if digit > chunk.len() {
                '='
            } else {
                DIGITS[value as usize] as char
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Payload;

    fn encoded(change: impl FnOnce(&mut HttpRequest), keep_alive: bool) -> String {
        let mut request = HttpRequest::new("GET", "http://me:pw@localhost:8080/a?b").unwrap();
        change(&mut request);
        let url = Url::parse(&request.url).unwrap();
        String::from_utf8(encode(&request, &url, keep_alive)).unwrap()
    }

    #[test]
    fn headers_are_made_unless_they_are_given() {
        let plain = encoded(|_| {}, true);
        assert!(plain.starts_with("GET /a?b HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: procession/"));
        assert!(
            plain.ends_with("Authorization: Basic bWU6cHc=\r\n\r\n"),
            "{plain}"
        );
        let given = encoded(
            |request| {
                request.method = "POST".into();
                request.body = Payload(b"hello".to_vec());
                for (name, value) in [("host", "other"), ("AUTHORIZATION", "none"), ("user-agent", "me")] {
                    request.headers.push(Header {
                        name: name.into(),
                        value: value.into(),
                    });
                }
            },
            false,
        );
        let expected = "POST /a?b HTTP/1.1\r\nConnection: close\r\nhost: other\r\nAUTHORIZATION: none\r\n\
                        user-agent: me\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(given, expected);
    }

    #[test]
    fn credentials_are_encoded_as_rfc_4648_has_it() {
        for (text, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(basic(text), format!("Basic {expected}"));
        }
    }
}
