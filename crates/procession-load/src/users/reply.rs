//! A response, kept as it came until somebody looks at it.

use crate::http::h1::{Parsed, Parser, Sink};
use httparse::Header;

/// More of a body than this is read and counted, but not kept.
pub const MOST_KEPT_BYTES: usize = 64 << 20;

/// A complete response.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// Such as 200.
    pub status: u16,
    /// Lines of headers as they came, then the decoded body, in one piece.
    bytes: Vec<u8>,
    head_bytes: usize,
    /// How long the body was, in bytes, whether it was kept or not.
    pub body_bytes: u64,
    /// Where redirects that were followed have led; `None` if there were none.
    pub led_to: Option<Box<str>>,
    /// Whether all of the body was kept.
    pub is_whole: bool,
    /// Whether there are cookies in it.
    pub(super) sets_cookies: bool,
}

impl Reply {
    /// The body, without the framing of chunks.
    pub fn body(&self) -> &[u8] {
        &self.bytes[self.head_bytes..]
    }

    /// Each header's name and value, in the order in which they came.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.bytes[..self.head_bytes]
            .split(|&b| b == b'\n')
            .filter_map(|line| {
                let colon = line.iter().position(|&b| b == b':')?;
                Some((std::str::from_utf8(&line[..colon]).ok()?, &line[colon + 1..]))
            })
    }
}

impl Sink for Reply {
    fn head(&mut self, status: u16, headers: &[Header<'_>]) {
        self.status = status;
        self.is_whole = true;
        let length: usize = headers
            .iter()
            .map(|header| header.name.len() + header.value.len() + 2)
            .sum();
        self.bytes = Vec::with_capacity(length + 256);
        for header in headers {
            self.bytes.extend_from_slice(header.name.as_bytes());
            self.bytes.push(b':');
            self.bytes.extend_from_slice(header.value);
            self.bytes.push(b'\n');
            self.sets_cookies |= header.name.eq_ignore_ascii_case("set-cookie");
        }
        self.head_bytes = self.bytes.len();
    }

    fn body(&mut self, bytes: &[u8]) {
        self.body_bytes += bytes.len() as u64;
        let room = (MOST_KEPT_BYTES + self.head_bytes).saturating_sub(self.bytes.len());
        self.is_whole &= bytes.len() <= room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// Reads one response from pieces of any size.
#[derive(Debug, Default)]
pub(super) struct ReplyReader {
    parser: Parser,
    reply: Reply,
    /// The beginning of what cannot be understood before more comes.
    held: Vec<u8>,
    begun: bool,
}

impl ReplyReader {
    /// A new response begins. That to a `HEAD` has no body, whatever it says.
    pub(super) fn begin(&mut self, to_head: bool) {
        self.parser.begin(to_head);
        self.held.clear();
        self.reply = Reply::default();
        self.begun = false;
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether the connection may be used again after this response.
    pub(super) fn keeps_alive(&self) -> bool {
        self.parser.keep_alive()
    }

    /// Takes in what came. The response, once it is complete.
    pub(super) fn feed(&mut self, data: &[u8]) -> Result<Option<Reply>, String> {
        self.begun = true;
        let is_held = !self.held.is_empty();
        if is_held {
            self.held.extend_from_slice(data);
        }
        let given = if is_held { &self.held[..] } else { data };
        let length = given.len();
        match self.parser.feed(given, &mut self.reply)? {
            Parsed::Partial(used) => {
                if is_held {
                    self.held.drain(..used);
                } else if used < length {
                    self.held.extend_from_slice(&data[used..]);
                }
                Ok(None)
            }
            Parsed::Complete(used) if used < length => Err("the server sent more than its response".into()),
            Parsed::Complete(_) => Ok(Some(std::mem::take(&mut self.reply))),
        }
    }

    /// The server has closed the connection. The response, if that is how it ends.
    pub(super) fn closed(&mut self) -> Option<Reply> {
        self.parser.close().then(|| std::mem::take(&mut self.reply))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_kept_whatever_pieces_it_comes_in() {
        let text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a=b:c\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
        for size in 1..=text.len() {
            let mut reader = ReplyReader::default();
            reader.begin(false);
            let mut replies = text.chunks(size).filter_map(|piece| reader.feed(piece).unwrap());
            let reply = replies.next().expect("it is complete");
            assert_eq!(
                (reply.status, reply.body(), reply.sets_cookies),
                (200, &b"hello"[..], true)
            );
            let headers: Vec<_> = reply.headers().collect();
            assert_eq!(
                headers,
                [("Transfer-Encoding", &b"chunked"[..]), ("Set-Cookie", b"a=b:c")]
            );
        }
    }

    #[test]
    fn what_comes_too_much_is_an_error_and_what_is_missing_is_no_reply() {
        let mut reader = ReplyReader::default();
        reader.begin(false);
        assert!(reader
            .feed(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab")
            .is_err());
        reader.begin(false);
        assert!(reader
            .feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
            .unwrap()
            .is_none());
        assert!(reader.has_begun() && reader.closed().is_none());
        reader.begin(false);
        assert!(reader.feed(b"HTTP/1.0 200 OK\r\n\r\na").unwrap().is_none());
        assert_eq!(reader.closed().unwrap().body(), b"a");
    }
}
