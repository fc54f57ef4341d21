//! Header blocks of HTTP/2 (HPACK), as far as a load generator needs them: what is sent is made once, of what is received
//! only the status is looked at.
//!
//! We tell the server that our table for its headers holds nothing, so a block can be read without those before it.

use super::super::url::Url;
use crate::http::request::{basic, has_header, USER_AGENT};
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

/// The header block of a request. Nothing of it enters the server's table: each block stands for itself.
pub(super) fn encode(request: &HttpRequest, url: &Url) -> Vec<u8> {
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
        if !matches!(
            name.as_str(),
            "host" | "connection" | "keep-alive" | "transfer-encoding" | "upgrade" | "proxy-connection"
        ) {
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

fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
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

    proptest::proptest! {
        #[test]
        fn no_block_whatever_makes_it_panic(block: Vec<u8>) {
            let _ = status(&block);
        }
    }
}
