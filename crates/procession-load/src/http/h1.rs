//! Responses of HTTP/1, taken apart as they come in, piece by piece.

use httparse::{Header, Status};
use std::mem::MaybeUninit;

/// Longer heads are an error: somebody sends something else.
pub const MOST_HEAD_BYTES: usize = 256 * 1024;
pub(crate) const MOST_HEADERS: usize = 100;

/// What a response's parts are given to.
pub trait Sink {
    /// Whether anybody looks at the headers, which need not be taken apart otherwise.
    const WANTS_HEADERS: bool = true;

    /// Its status and headers.
    fn head(&mut self, status: u16, headers: &[Header<'_>]);
    /// Bytes of its body, in order.
    fn body(&mut self, bytes: &[u8]);
}

/// Keeps nothing.
#[derive(Debug, Clone, Copy)]
pub struct Ignore;

impl Sink for Ignore {
    const WANTS_HEADERS: bool = false;

    #[inline]
    fn head(&mut self, _: u16, _: &[Header<'_>]) {}
    #[inline]
    fn body(&mut self, _: &[u8]) {}
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Head,
    /// So many bytes of the body are to come.
    Body(u64),
    UntilClose,
    /// In the number that begins a chunk: what it is so far, and how many digits it has.
    ChunkSize(u64, u8),
    /// After that number, before the line's end.
    ChunkExtension(u64),
    /// Before the line feed that ends the line with the number.
    ChunkLineFeed(u64),
    Chunk(u64),
    /// Behind a chunk, before CR and LF.
    ChunkEnd,
    ChunkEndLineFeed,
    /// At the beginning of a line of the trailer.
    TrailerLine,
    /// In a line of the trailer that is not empty.
    TrailerText,
    /// After the CR of an empty line, which ends everything.
    TrailerEnd,
}

/// Takes one response apart. Begins anew with [`Parser::begin`].
#[derive(Debug, Clone)]
pub struct Parser {
    place: Place,
    /// The answer to HEAD never has a body, whatever its head says.
    bodiless: bool,
    status: u16,
    keep_alive: bool,
}

/// How far the parser has come with the bytes it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// More has to come. So many of the bytes were used; the others must be given again, along with what follows.
    Partial(usize),
    /// The response is complete, and this is how many bytes were used.
    Complete(usize),
}

impl Default for Parser {
    fn default() -> Parser {
        Parser {
            place: Place::Head,
            bodiless: false,
            status: 0,
            keep_alive: true,
        }
    }
}

impl Parser {
    /// Expects the next response; `bodiless` if it answers a HEAD.
    #[inline]
    pub fn begin(&mut self, bodiless: bool) {
        *self = Parser {
            bodiless,
            ..Parser::default()
        };
    }

    /// The status of the response, once its head was seen.
    #[inline]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether the connection may be used again after the response.
    #[inline]
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// Takes what has come in.
    ///
    /// # Errors
    ///
    /// What is wrong with it: it is not HTTP/1.
    #[inline]
    pub fn feed(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<Parsed, String> {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            match self.place {
                Place::Head => match self.head(rest, sink)? {
                    Some(length) => at += length,
                    None => return Ok(Parsed::Partial(at)),
                },
                Place::Body(0) => return Ok(Parsed::Complete(at)),
                Place::Body(to_come) => {
                    let n = to_come.min(rest.len() as u64);
                    if n == 0 {
                        return Ok(Parsed::Partial(at));
                    }
                    sink.body(&rest[..n as usize]);
                    at += n as usize;
                    self.place = Place::Body(to_come - n);
                }
                Place::UntilClose => {
                    sink.body(rest);
                    return Ok(Parsed::Partial(bytes.len()));
                }
                _ => {
                    let (used, complete) = self.chunked(rest, sink)?;
                    at += used;
                    return Ok(if complete {
                        Parsed::Complete(at)
                    } else {
                        Parsed::Partial(at)
                    });
                }
            }
        }
    }

    /// The connection was closed: whether that completes the response.
    pub fn close(&mut self) -> bool {
        self.keep_alive = false;
        self.place == Place::UntilClose
    }

    /// Whether nothing of the response was understood yet.
    pub fn is_at_head(&self) -> bool {
        self.place == Place::Head
    }

    #[inline]
    fn head(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<Option<usize>, String> {
        let mut headers = [const { MaybeUninit::<Header<'_>>::uninit() }; MOST_HEADERS];
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let length = match config.parse_response_with_uninit_headers(&mut response, bytes, &mut headers) {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) if bytes.len() > MOST_HEAD_BYTES => {
                return Err(format!(
                    "the head of the response is longer than {MOST_HEAD_BYTES} bytes"
                ))
            }
            Ok(Status::Partial) => return Ok(None),
            Err(error) => return Err(format!("the response is not HTTP/1: {error}")),
        };
        let status = response.code.unwrap_or(0);
        if status < 100 {
            return Err(format!(
                "the response has the status {status:03}, which means nothing"
            ));
        }
        if status == 101 {
            return Err("the server switched to another protocol, which nobody had asked for".to_owned());
        }
        if (100..200).contains(&status) {
            return Ok(Some(length));
        }
        self.status = status;
        self.keep_alive = response.version == Some(1);
        let (mut content_length, mut chunked) = (None, false);
        for header in response.headers.iter() {
            match header.name.len() {
                14 if header.name.eq_ignore_ascii_case("content-length") => {
                    let value = parse_length(header.value).ok_or_else(|| {
                        format!("Content-Length is {:?}", String::from_utf8_lossy(header.value))
                    })?;
                    if content_length.is_some_and(|length| length != value) {
                        return Err("the response has two lengths".to_owned());
                    }
                    content_length = Some(value);
                }
                17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                    chunked = has_token(header.value, b"chunked");
                    if !chunked && !has_token(header.value, b"identity") {
                        // Its end can only be told by the connection's.
                        self.keep_alive = false;
                    }
                }
                10 if header.name.eq_ignore_ascii_case("connection") => {
                    if has_token(header.value, b"close") {
                        self.keep_alive = false;
                    } else if has_token(header.value, b"keep-alive") {
                        self.keep_alive = true;
                    }
                }
                _ => {}
            }
        }
        sink.head(status, response.headers);
        self.place = if self.bodiless || status == 204 || status == 304 {
            Place::Body(0)
        } else if chunked {
            Place::ChunkSize(0, 0)
        } else if let Some(length) = content_length {
            Place::Body(length)
        } else {
            self.keep_alive = false;
            Place::UntilClose
        };
        Ok(Some(length))
    }

    fn chunked(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<(usize, bool), String> {
        let wrong = |what: &str| Err(format!("the response's chunks are malformed: {what}"));
        let mut at = 0;
        while at < bytes.len() {
            let byte = bytes[at];
            self.place = match self.place {
                Place::ChunkSize(size, digits) => match (byte as char).to_digit(16) {
                    Some(_) if digits == 15 => return wrong("a size has more than 15 digits"),
                    Some(digit) => Place::ChunkSize(size << 4 | u64::from(digit), digits + 1),
                    None if digits == 0 => return wrong("a size is missing"),
                    None if byte == b'\r' => Place::ChunkLineFeed(size),
                    None if matches!(byte, b';' | b' ' | b'\t') => Place::ChunkExtension(size),
                    None => return wrong("a size is not a number"),
                },
                Place::ChunkExtension(size) if byte == b'\r' => Place::ChunkLineFeed(size),
                Place::ChunkExtension(size) => Place::ChunkExtension(size),
                Place::ChunkLineFeed(_) if byte != b'\n' => return wrong("a line does not end"),
                Place::ChunkLineFeed(0) => Place::TrailerLine,
                Place::ChunkLineFeed(size) => Place::Chunk(size),
                Place::Chunk(size) => {
                    let n = size.min((bytes.len() - at) as u64);
                    sink.body(&bytes[at..at + n as usize]);
                    at += n as usize;
                    self.place = if size == n {
                        Place::ChunkEnd
                    } else {
                        Place::Chunk(size - n)
                    };
                    continue;
                }
                Place::ChunkEnd if byte == b'\r' => Place::ChunkEndLineFeed,
                Place::ChunkEndLineFeed if byte == b'\n' => Place::ChunkSize(0, 0),
                Place::ChunkEnd | Place::ChunkEndLineFeed => return wrong("a chunk is longer than its size"),
                Place::TrailerLine if byte == b'\r' => Place::TrailerEnd,
                Place::TrailerLine => Place::TrailerText,
                Place::TrailerText if byte == b'\n' => Place::TrailerLine,
                Place::TrailerText => Place::TrailerText,
                Place::TrailerEnd if byte == b'\n' => {
                    self.place = Place::Body(0);
                    return Ok((at + 1, true));
                }
                Place::TrailerEnd => return wrong("the last line does not end"),
                Place::Head | Place::Body(_) | Place::UntilClose => return Ok((at, false)),
            };
            at += 1;
        }
        Ok((at, false))
    }
}

/// The number in a `Content-Length`.
pub(crate) fn parse_length(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii();
    if value.is_empty() || value.len() > 18 {
        return None;
    }
    value.iter().try_fold(0u64, |sum, byte| {
        byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0'))
    })
}

fn has_token(value: &[u8], token: &[u8]) -> bool {
    value
        .split(|&byte| byte == b',')
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Kept {
        heads: Vec<u16>,
        body: Vec<u8>,
    }

    impl Sink for Kept {
        fn head(&mut self, status: u16, _: &[Header<'_>]) {
            self.heads.push(status);
        }
        fn body(&mut self, bytes: &[u8]) {
            self.body.extend_from_slice(bytes);
        }
    }

    /// What comes of it whole, after it was shown to come of it in pieces of every size, too.
    fn parse(text: &str, bodiless: bool) -> Result<(u16, String, usize, bool), String> {
        let whole = in_pieces(text.as_bytes(), bodiless, usize::MAX);
        for size in [1, 2, 3, 7] {
            assert_eq!(
                in_pieces(text.as_bytes(), bodiless, size),
                whole,
                "in pieces of {size}"
            );
        }
        whole
    }

    fn in_pieces(bytes: &[u8], bodiless: bool, size: usize) -> Result<(u16, String, usize, bool), String> {
        let (mut parser, mut kept) = (Parser::default(), Kept::default());
        parser.begin(bodiless);
        let (mut held, mut used_before) = (Vec::new(), 0);
        for piece in bytes.chunks(size.min(bytes.len()).max(1)) {
            held.extend_from_slice(piece);
            match parser.feed(&held, &mut kept)? {
                Parsed::Complete(used) => {
                    let body = String::from_utf8(kept.body).unwrap();
                    return Ok((parser.status(), body, used_before + used, parser.keep_alive()));
                }
                Parsed::Partial(used) => {
                    held.drain(..used);
                    used_before += used;
                }
            }
        }
        if parser.close() {
            let body = String::from_utf8(kept.body).unwrap();
            return Ok((parser.status(), body, used_before, parser.keep_alive()));
        }
        Err("cut".to_owned())
    }

    #[test]
    fn bodies_end_where_their_framing_says() {
        let ok = |text: &str, body: &str, keep: bool| {
            let (status, got, used, kept) = parse(text, false).unwrap();
            assert_eq!(
                (status, got.as_str(), used, kept),
                (200, body, text.len(), keep),
                "{text}"
            );
        };
        ok("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", true);
        ok("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", true);
        ok(
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nConnection: Close\r\n\r\nok",
            "ok",
            false,
        );
        ok("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", false);
        ok(
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok",
            "ok",
            true,
        );
        ok("HTTP/1.1 200 OK\r\n\r\nuntil the end", "until the end", false);
        let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\nContent-Length: 9\r\n\r\n\
                      3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n";
        ok(chunks, "abc0123456789", true);
    }

    #[test]
    fn responses_without_a_body_end_with_their_head() {
        for status in [204, 304] {
            let text = format!("HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\n");
            assert_eq!(
                parse(&text, false).unwrap(),
                (status, String::new(), text.len(), true)
            );
        }
        let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(parse(text, true).unwrap(), (200, String::new(), text.len(), true));
    }

    #[test]
    fn interim_responses_are_passed_over_and_a_switch_of_protocols_is_refused() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n\
                    HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx";
        assert_eq!(
            parse(text, false).unwrap(),
            (200, "x".to_owned(), text.len(), true)
        );
        let error = parse("HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n", false).unwrap_err();
        assert!(error.contains("another protocol"));
    }

    #[test]
    fn what_follows_a_response_is_not_taken_for_a_part_of_it() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500";
        assert_eq!(parse(text, false).unwrap().2, text.len() - 12);
    }

    #[test]
    fn malformed_responses_are_errors() {
        for text in [
            "SMTP ready\r\n\r\n",
            "HTTP/1.1 abc OK\r\n\r\n",
            "HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        ] {
            let error = parse(text, false).unwrap_err();
            assert_ne!(error, "cut", "{text}");
        }
        let endless = "HTTP/1.1 200 OK\r\n".to_owned() + &"X: y\r\n".repeat(MOST_HEAD_BYTES / 6 + 1);
        assert!(in_pieces(endless.as_bytes(), false, usize::MAX).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_whatever_make_it_panic_or_use_more_than_there_is(bytes: Vec<u8>, size in 1usize..9) {
            let text = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice(), &bytes].concat();
            let _ = in_pieces(&text, false, size);
            let _ = in_pieces(&bytes, false, size.min(bytes.len().max(1)));
        }
    }
}
