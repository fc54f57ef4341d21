//! Frames of HTTP/2 (RFC 9113).

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const HEAD_BYTES: usize = 9;
/// The largest payload that each side must take, and that we do not ask to exceed.
pub(super) const LARGEST_PAYLOAD: usize = 16_384;
pub(super) const LARGEST_WINDOW: u32 = (1 << 31) - 1;
pub(super) const FIRST_WINDOW: u32 = 65_535;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
/// Of SETTINGS and PING.
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const WITH_PRIORITY: u8 = 0x20;

pub(super) const HEADER_TABLE_SIZE: u16 = 1;
pub(super) const ENABLE_PUSH: u16 = 2;
pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;

pub(super) const PROTOCOL_ERROR: u32 = 1;
pub(super) const CANCEL: u32 = 8;
/// What the codes of errors are called, in their order.
const ERRORS: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

/// The beginning of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl Head {
    pub(super) fn read(bytes: &[u8]) -> Option<Head> {
        let head = bytes.first_chunk::<HEAD_BYTES>()?;
        Some(Head {
            length: usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]),
            kind: head[3],
            flags: head[4],
            stream: number(&head[5..9]) & (u32::MAX >> 1),
        })
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let length = (self.length as u32).to_be_bytes();
        out.extend_from_slice(&length[1..]);
        out.extend_from_slice(&[self.kind, self.flags]);
        out.extend_from_slice(&self.stream.to_be_bytes());
    }
}

/// Four bytes as a number; fewer count as zero.
pub(super) fn number(bytes: &[u8]) -> u32 {
    bytes
        .first_chunk::<4>()
        .map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

pub(super) fn write(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = payload.len();
    Head {
        length,
        kind,
        flags,
        stream,
    }
    .write(out);
    out.extend_from_slice(payload);
}

/// A header block, in as many frames as it takes.
pub(super) fn write_block(out: &mut Vec<u8>, flags: u8, stream: u32, block: &[u8]) {
    let is_last = |rest: &[u8]| if rest.is_empty() { END_HEADERS } else { 0 };
    let (first, mut rest) = block.split_at(block.len().min(LARGEST_PAYLOAD));
    write(out, HEADERS, flags | is_last(rest), stream, first);
    while !rest.is_empty() {
        let (part, more) = rest.split_at(rest.len().min(LARGEST_PAYLOAD));
        write(out, CONTINUATION, is_last(more), stream, part);
        rest = more;
    }
}

/// The name of an error's code.
pub(super) fn error_name(code: u32) -> String {
    match ERRORS.get(code as usize) {
        Some(name) => (*name).to_owned(),
        None => format!("error {code}"),
    }
}

pub(super) fn write_setting(payload: &mut Vec<u8>, name: u16, value: u32) {
    payload.extend_from_slice(&name.to_be_bytes());
    payload.extend_from_slice(&value.to_be_bytes());
}

/// The payload without padding and priority.
pub(super) fn content<'a>(head: &Head, payload: &'a [u8]) -> Option<&'a [u8]> {
    let mut content = payload;
    if head.has(PADDED) {
        let (&padding, rest) = content.split_first()?;
        content = rest.get(..rest.len().checked_sub(padding.into())?)?;
    }
    if head.kind == HEADERS && head.has(WITH_PRIORITY) {
        content = content.get(5..)?;
    }
    Some(content)
}
