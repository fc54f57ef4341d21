//! Header blocks of HTTP/2 (HPACK), as far as a load generator needs them: what is sent is made once, and what is received
//! is read no further than somebody wants to know.
//!
//! We tell the server that our table for its headers holds nothing, so a block can be read without those before it.

use super::huffman;
use crate::http::h1::MOST_HEAD_BYTES;
use crate::http::request::{basic, has_header, USER_AGENT};
use crate::http::url::Url;
use crate::plan::HttpRequest;

/// Entries of the static table (RFC 7541, appendix A) that are of use.
const AUTHORITY: u8 = 1;
const METHOD_GET: u8 = 2;
const METHOD_POST: u8 = 3;
const PATH: u8 = 4;
const SCHEME_HTTP: u8 = 6;
const SCHEME_HTTPS: u8 = 7;
const STATUSES: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
const FIRST_STATUS: u64 = 8;
const INDEXED: u8 = 0x80;

/// That table, as far as it comes before the ordinary headers.
const FIRST_FIELDS: [(&str, &str); 14] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
];
/// The rest of it, where only one has a value.
const OTHER_FIELDS: [&str; 47] = [
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "accept",
    "access-control-allow-origin",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "link",
    "location",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
];

/// The field of this number, counting from 1.
fn known_field(index: u64) -> Option<(&'static str, &'static str)> {
    let at = usize::try_from(index.checked_sub(1)?).ok()?;
    if let Some(field) = FIRST_FIELDS.get(at) {
        return Some(*field);
    }
    let name = *OTHER_FIELDS.get(at - FIRST_FIELDS.len())?;
    let value = if name == "accept-encoding" {
        "gzip, deflate"
    } else {
        ""
    };
    Some((name, value))
}

/// The header block of a request. Nothing of it enters the server's table: each block stands for itself.
pub(crate) fn encode(request: &HttpRequest, url: &Url) -> Vec<u8> {
    let mut block = Vec::new();
    match request.method.as_str() {
        "GET" => block.push(INDEXED | METHOD_GET),
        "POST" => block.push(INDEXED | METHOD_POST),
        method => named_by(&mut block, METHOD_GET, method),
    }
    block.push(INDEXED | if url.tls { SCHEME_HTTPS } else { SCHEME_HTTP });
    if url.path == "/" {
        block.push(INDEXED | PATH);
    } else {
        named_by(&mut block, PATH, &url.path);
    }
    let given_host = request
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("host"));
    named_by(
        &mut block,
        AUTHORITY,
        given_host.map_or(&url.authority, |header| &header.value),
    );
    if !has_header(&request.headers, "user-agent") {
        literal(&mut block, "user-agent", USER_AGENT);
    }
    if let (Some(credentials), false) = (&url.credentials, has_header(&request.headers, "authorization")) {
        literal(&mut block, "authorization", &basic(credentials));
    }
    for header in &request.headers {
        let name = header.name.to_ascii_lowercase();
        // These speak of the connection, which is not theirs here.
        let is_left_out = match name.as_str() {
            "host" | "connection" | "keep-alive" | "transfer-encoding" | "upgrade" | "proxy-connection" => {
                true
            }
            "te" => !header.value.eq_ignore_ascii_case("trailers"),
            _ => false,
        };
        if !is_left_out {
            literal(&mut block, &name, &header.value);
        }
    }
    if !request.body.0.is_empty() && !has_header(&request.headers, "content-length") {
        literal(&mut block, "content-length", &request.body.0.len().to_string());
    }
    block
}

fn named_by(block: &mut Vec<u8>, index: u8, value: &str) {
    // A literal without indexing: four bits for the name's index, which is small.
    block.push(index);
    text(block, value);
}

/// Appends a field.
pub(crate) fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    text(block, name);
    text(block, value);
}

fn text(block: &mut Vec<u8>, text: &str) {
    integer(block, text.len(), 7);
    block.extend_from_slice(text.as_bytes());
}

fn integer(block: &mut Vec<u8>, mut value: usize, bits: u32) {
    let most = (1 << bits) - 1;
    if value < most {
        block.push(value as u8);
        return;
    }
    block.push(most as u8);
    value -= most;
    while value >= 128 {
        block.push((value & 127) as u8 | 128);
        value >>= 7;
    }
    block.push(value as u8);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn integer(&mut self, first: u8, bits: u32) -> Option<u64> {
        let most = (1u64 << bits) - 1;
        let mut value = u64::from(first) & most;
        if value < most {
            return Some(value);
        }
        for shift in (0..56).step_by(7) {
            let byte = self.byte()?;
            value = value.checked_add(u64::from(byte & 127) << shift)?;
            if byte < 128 {
                return Some(value);
            }
        }
        None
    }

    /// A text, and whether it is Huffman-coded.
    fn text(&mut self) -> Option<(&'a [u8], bool)> {
        let first = self.byte()?;
        let length = usize::try_from(self.integer(first, 7)?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some((text, first & 128 != 0))
    }
}

/// Names and values, one after the other.
#[derive(Debug, Default)]
pub(super) struct Fields {
    bytes: Vec<u8>,
    /// Where each name ends, and each value.
    ends: Vec<(usize, usize)>,
}

impl Fields {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut begin = 0;
        self.ends.iter().map(move |&(name_end, value_end)| {
            let name = &self.bytes[begin..name_end];
            begin = value_end;
            (name, &self.bytes[name_end..value_end])
        })
    }

    fn push(&mut self, text: (&[u8], bool)) -> Option<usize> {
        match text {
            (text, false) => self.bytes.extend_from_slice(text),
            (text, true) => huffman::decode(text, &mut self.bytes)?,
        }
        // A few bytes can stand for many.
        (self.bytes.len() <= MOST_HEAD_BYTES).then_some(self.bytes.len())
    }
}

/// All fields of a header block; `None` if it is none, or too long.
pub(super) fn decode(block: &[u8]) -> Option<Fields> {
    let (mut reader, mut fields) = (Reader(block), Fields::default());
    while let Some(first) = reader.byte() {
        if first & 0x80 != 0 {
            let (name, value) = known_field(reader.integer(first, 7)?)?;
            let name_end = fields.push((name.as_bytes(), false))?;
            let value_end = fields.push((value.as_bytes(), false))?;
            fields.ends.push((name_end, value_end));
            continue;
        }
        if first & 0xE0 == 0x20 {
            // Our table stays as small as it is, and it is so before there is anything.
            if reader.integer(first, 5)? != 0 || !fields.ends.is_empty() {
                return None;
            }
            continue;
        }
        let bits = if first & 0xC0 == 0x40 { 6 } else { 4 };
        let name_end = match reader.integer(first, bits)? {
            0 => fields.push(reader.text()?)?,
            known => fields.push((known_field(known)?.0.as_bytes(), false))?,
        };
        let value_end = fields.push(reader.text()?)?;
        fields.ends.push((name_end, value_end));
    }
    Some(fields)
}

/// The status in a response's header block, of which it must be the first field; `None` if there is none (a trailer, or
/// nonsense).
pub(super) fn status(block: &[u8]) -> Option<u16> {
    let mut reader = Reader(block);
    loop {
        let first = reader.byte()?;
        if first & 0x80 != 0 {
            let index = reader.integer(first, 7)?;
            return STATUSES
                .get(usize::try_from(index.checked_sub(FIRST_STATUS)?).ok()?)
                .copied();
        }
        // A change of the table's size, which comes before any field.
        if first & 0xE0 == 0x20 {
            reader.integer(first, 5)?;
            continue;
        }
        let bits = if first & 0xC0 == 0x40 { 6 } else { 4 };
        let name = reader.integer(first, bits)?;
        if name == 0 {
            let (name, coded) = reader.text()?;
            if coded || name != b":status" {
                return None;
            }
        } else if !(FIRST_STATUS..FIRST_STATUS + STATUSES.len() as u64).contains(&name) {
            return None;
        }
        let (value, coded) = reader.text()?;
        return digits(value, coded);
    }
}

fn digits(value: &[u8], coded: bool) -> Option<u16> {
    if !coded {
        let text = std::str::from_utf8(value).ok().filter(|text| text.len() == 3)?;
        return text.parse().ok();
    }
    // Digits have codes of five (0 to 2) and six bits (3 to 9) that follow each other.
    let bits = value.iter().fold(0u64, |bits, &byte| bits << 8 | u64::from(byte));
    let mut left = 8 * u32::try_from(value.len()).ok().filter(|&length| length <= 4)?;
    let (mut status, mut count) = (0u16, 0);
    while count < 3 {
        let five = (bits >> left.checked_sub(5)?) & 31;
        let digit = if five < 3 {
            left -= 5;
            five
        } else {
            left = left.checked_sub(6)?;
            ((bits >> left) & 63)
                .checked_sub(0b01_1001)?
                .checked_add(3)
                .filter(|&digit| digit < 10)?
        };
        status = status * 10 + digit as u16;
        count += 1;
    }
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_in_every_form() {
        assert_eq!(status(&[0x88]), Some(200));
        assert_eq!(status(&[0x8E, 0x01]), Some(500));
        assert_eq!(status(&[0x20, 0x8D]), Some(404));
        // RFC 7541, C.6.1: 302 with Huffman coding, as an entry of the table.
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), Some(302));
        assert_eq!(status(&[0x08, 0x03, b'5', b'0', b'3']), Some(503));
        assert_eq!(
            status(&[0x00, 0x07, b':', b's', b't', b'a', b't', b'u', b's', 3, b'4', b'1', b'8']),
            Some(418)
        );
        for nonsense in [
            &[][..],
            &[0x82],
            &[0x48, 0xFF],
            &[0x48, 0x84, 1],
            &[0xFF; 20],
            &[0x08, 3, b'x', b'y', b'z'],
        ] {
            assert_eq!(status(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn huffman_digits_are_all_known() {
        // Codes of "199", "345" and "678", padded with ones.
        let pack = |codes: [(u64, u32); 3]| {
            let (mut bits, mut length) = (0u64, 0);
            for (code, width) in codes {
                bits = bits << width | code;
                length += width;
            }
            let padding = (8 - length % 8) % 8;
            bits = bits << padding | ((1 << padding) - 1);
            bits.to_be_bytes()[8 - (length + padding) as usize / 8..].to_vec()
        };
        assert_eq!(digits(&pack([(1, 5), (31, 6), (31, 6)]), true), Some(199));
        assert_eq!(digits(&pack([(25, 6), (26, 6), (27, 6)]), true), Some(345));
        assert_eq!(digits(&pack([(28, 6), (29, 6), (30, 6)]), true), Some(678));
    }

    #[test]
    fn a_request_is_encoded_as_rfc_7541_has_it() {
        let mut request = HttpRequest::new("GET", "http://www.example.com/").unwrap();
        request.headers.push(crate::plan::Header {
            name: "User-Agent".into(),
            value: "x".into(),
        });
        let block = encode(&request, &Url::parse(&request.url).unwrap());
        let expected = [b"\x82\x86\x84\x01\x0fwww.example.com\x00\x0auser-agent\x01x".as_slice()].concat();
        assert_eq!(block, expected);
        let mut long = Vec::new();
        integer(&mut long, 1337, 5);
        assert_eq!(long, [31, 154, 10]);
    }

    fn fields(block: &[u8]) -> Option<Vec<(String, String)>> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let fields = decode(block)?;
        let all = fields.iter().map(|(name, value)| (text(name), text(value)));
        Some(all.collect())
    }

    #[test]
    fn a_response_is_decoded_as_rfc_7541_has_it() {
        // C.6.1, where each field enters the table that holds nothing here.
        let block = b"\x48\x82\x64\x02\x58\x85\xae\xc3\x77\x1a\x4b\x61\x96\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\
            \x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff\x6e\x91\x9d\x29\xad\x17\x18\x63\xc7\x8f\x0b\x97\xc8\xe9\xae\
            \x82\xae\x43\xd3";
        let expected = [
            (":status", "302"),
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("location", "https://www.example.com"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(fields(block).unwrap(), expected);
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let mut request = HttpRequest::new("PUT", "https://me:pw@h:1/a?b").unwrap();
        for (name, value) in [("X-Long", "x".repeat(300)), ("Connection", "close".into())] {
            let name = name.into();
            request.headers.push(crate::plan::Header { name, value });
        }
        request.body = crate::plan::Payload(b"hello".to_vec());
        let mut block = encode(&request, &Url::parse(&request.url).unwrap());
        literal(&mut block, "cookie", "a=1; b=2");
        let expected = [
            (":method", "PUT"),
            (":scheme", "https"),
            (":path", "/a?b"),
            (":authority", "h:1"),
            ("user-agent", USER_AGENT),
            ("authorization", "Basic bWU6cHc="),
            ("x-long", &"x".repeat(300)),
            ("content-length", "5"),
            ("cookie", "a=1; b=2"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(fields(&block).unwrap(), expected);
    }

    #[test]
    fn blocks_that_are_none_or_endless_are_refused() {
        assert_eq!(
            fields(&[0x90]).unwrap(),
            [("accept-encoding".into(), "gzip, deflate".into())]
        );
        assert_eq!(fields(&[0x20, 0xBD]).unwrap()[0].0, "www-authenticate");
        // No field, none of that number, a table that grows, one that changes too late, a text that ends too early.
        for wrong in [
            &[0x80][..],
            &[0xBE],
            &[0x3F, 0x01],
            &[0x88, 0x20],
            &[0x00, 0x05, b'a'],
        ] {
            assert!(decode(wrong).is_none(), "{wrong:?}");
        }
        assert!(decode(&vec![0x90; MOST_HEAD_BYTES]).is_none());
    }

    proptest::proptest! {
        #[test]
        fn no_block_whatever_makes_it_panic(block: Vec<u8>) {
            let _ = (status(&block), decode(&block));
        }
    }
}
