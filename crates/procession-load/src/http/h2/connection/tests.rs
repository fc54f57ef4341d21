use super::*;
use crate::plan::HttpRequest;

/// Who has asked, and what was answered.
#[derive(Debug, Default)]
struct Kept {
    number: usize,
    headers: Vec<(String, Vec<u8>)>,
    body_bytes: u64,
}

impl Sink for Kept {
    fn head(&mut self, _: u16, headers: &[Header<'_>]) {
        let pairs = headers
            .iter()
            .map(|header| (header.name.to_owned(), header.value.to_vec()));
        self.headers = pairs.collect();
    }

    fn body(&mut self, bytes: &[u8]) {
        self.body_bytes += bytes.len() as u64;
    }
}

fn exchange(number: usize, body_bytes: usize) -> Exchange<Kept> {
    let request = HttpRequest::new("POST", "http://h/").unwrap();
    let mut bytes = hpack::encode(&request, &crate::http::url::Url::parse(&request.url).unwrap());
    let head_bytes = bytes.len();
    bytes.resize(head_bytes + body_bytes, b'x');
    let owner = Kept {
        number,
        ..Kept::default()
    };
    Exchange::new(owner, Outgoing::Own(bytes), head_bytes)
}

/// A frame as the server sends it.
fn frame_of(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::write(&mut bytes, kind, flags, stream, payload);
    bytes
}

fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in pairs {
        frame::write_setting(&mut payload, *name, *value);
    }
    frame_of(frame::SETTINGS, 0, 0, &payload)
}

fn window(stream: u32, step: u32) -> Vec<u8> {
    frame_of(frame::WINDOW_UPDATE, 0, stream, &step.to_be_bytes())
}

fn good(stream: u32) -> Vec<u8> {
    frame_of(
        frame::HEADERS,
        frame::END_HEADERS | frame::END_STREAM,
        stream,
        &[0x88],
    )
}

/// One that is open, with these requests.
fn open(requests: impl IntoIterator<Item = Exchange<Kept>>) -> Connection<Kept> {
    let mut connection = Connection::new();
    for exchange in requests {
        connection.begin(exchange, 1);
    }
    connection.open(2);
    connection
}

/// What has ended by these bytes.
fn ended(connection: &mut Connection<Kept>, bytes: &[u8]) -> Result<Vec<Over<Kept>>, Failure> {
    let mut over = Vec::new();
    connection.take(bytes, 3, &mut over)?;
    Ok(over)
}

fn numbers(over: &[Over<Kept>]) -> Vec<usize> {
    over.iter().map(|(exchange, _)| exchange.owner.number).collect()
}

/// The frames that go out: kind, flags, stream and length.
fn sent(connection: &mut Connection<Kept>) -> Vec<(u8, u8, u32, usize)> {
    connection.frame_bodies();
    let out = std::mem::take(&mut connection.out);
    let mut rest = out.strip_prefix(frame::PREFACE).unwrap_or(&out);
    let mut frames = Vec::new();
    while let Some(head) = Head::read(rest) {
        rest = &rest[frame::HEAD_BYTES + head.length..];
        frames.push((head.kind, head.flags, head.stream, head.length));
    }
    assert!(rest.is_empty());
    frames
}

/// How many bytes of bodies go out, on all streams.
fn sent_bodies(connection: &mut Connection<Kept>) -> usize {
    let frames = sent(connection);
    let of_bodies = frames.iter().filter(|(kind, ..)| *kind == frame::DATA);
    of_bodies.map(|(.., length)| length).sum()
}

fn streams_of(frames: &[(u8, u8, u32, usize)], kind: u8) -> Vec<u32> {
    let of_kind = frames.iter().filter(|frame| frame.0 == kind);
    of_kind.map(|frame| frame.2).collect()
}

#[test]
fn no_more_streams_are_open_than_the_server_allows_and_the_others_take_their_turn() {
    let mut connection = open((0..5).map(|number| exchange(number, 0)));
    assert_eq!(streams_of(&sent(&mut connection), frame::HEADERS), [1]);
    ended(&mut connection, &settings(&[(frame::MAX_CONCURRENT_STREAMS, 2)])).unwrap();
    assert_eq!(streams_of(&sent(&mut connection), frame::HEADERS), [3]);
    let over = ended(&mut connection, &[good(3), good(1)].concat()).unwrap();
    assert_eq!(numbers(&over), [1, 0]);
    assert!(over
        .iter()
        .all(|(exchange, failure)| failure.is_none() && exchange.status == 200));
    assert_eq!(streams_of(&sent(&mut connection), frame::HEADERS), [5, 7]);
    connection.cancel(4, |kept| kept.number == 2).unwrap();
    let frames = sent(&mut connection);
    assert_eq!(streams_of(&frames, frame::RST_STREAM), [5]);
    assert_eq!(streams_of(&frames, frame::HEADERS), [9]);
    assert_eq!(
        numbers(&ended(&mut connection, &[good(5), good(9)].concat()).unwrap()),
        [4]
    );
    assert_eq!(
        connection.owners().map(|kept| kept.number).collect::<Vec<_>>(),
        [3]
    );
}

#[test]
fn bodies_go_out_as_far_as_the_server_has_room_and_each_has_its_turn() {
    let mut connection = open([exchange(0, 200_000), exchange(1, 200_000), exchange(2, 0)]);
    ended(&mut connection, &settings(&[])).unwrap();
    let frames = sent(&mut connection);
    assert_eq!(streams_of(&frames, frame::HEADERS), [1, 3, 5]);
    // In turn, until the window of the connection is full.
    assert_eq!(streams_of(&frames, frame::DATA), [1, 3, 1, 3]);
    assert_eq!(sent_bodies(&mut connection), 0);
    ended(&mut connection, &window(0, 1_000_000)).unwrap();
    // Now those of the streams are.
    assert_eq!(sent_bodies(&mut connection), 65_535);
    assert_eq!(sent_bodies(&mut connection), 0);
    // A change of what streams begin with is one for those that have begun.
    ended(
        &mut connection,
        &settings(&[(frame::INITIAL_WINDOW_SIZE, 70_000)]),
    )
    .unwrap();
    assert_eq!(sent_bodies(&mut connection), 2 * (70_000 - 65_535));
    ended(&mut connection, &[window(1, 500_000), window(3, 10)].concat()).unwrap();
    let mut frames = Vec::new();
    loop {
        match sent(&mut connection) {
            more if more.is_empty() => break,
            more => frames.extend(more),
        }
    }
    let last = frames.iter().rfind(|frame| frame.0 == frame::DATA);
    assert_eq!(last.map(|frame| (frame.1, frame.2)), Some((frame::END_STREAM, 1)));
    let of_other = frames.iter().filter(|frame| frame.2 == 3);
    assert_eq!(of_other.map(|frame| frame.3).sum::<usize>(), 10);
}

#[test]
fn no_more_of_a_body_is_framed_than_a_socket_takes_at_a_time() {
    let mut connection = open([exchange(0, 10 << 20)]);
    let room = [
        settings(&[(frame::INITIAL_WINDOW_SIZE, 1 << 30)]),
        window(0, 1 << 30),
    ]
    .concat();
    ended(&mut connection, &room).unwrap();
    connection.frame_bodies();
    assert!(connection.out.len() < FULL_BYTES + (32 << 10));
    let mut bytes = 0;
    loop {
        match sent_bodies(&mut connection) {
            0 => break,
            more => bytes += more,
        }
    }
    assert_eq!(bytes, 10 << 20);
}

#[test]
fn the_server_may_send_as_much_again_before_its_window_is_full() {
    let mut connection = open([exchange(0, 0)]);
    ended(&mut connection, &settings(&[])).unwrap();
    let head = frame_of(frame::HEADERS, frame::END_HEADERS, 1, &[0x88]);
    ended(&mut connection, &head).unwrap();
    sent(&mut connection);
    let full = frame_of(frame::DATA, 0, 1, &[0; frame::LARGEST_PAYLOAD]);
    let many = 2 * WINDOW_STEP as usize / frame::LARGEST_PAYLOAD + 1;
    for _ in 0..many {
        assert_eq!(ended(&mut connection, &full).unwrap().len(), 0);
    }
    assert_eq!(
        streams_of(&sent(&mut connection), frame::WINDOW_UPDATE),
        [0, 1, 0, 1]
    );
    let end = frame_of(frame::DATA, frame::END_STREAM, 1, b"");
    let over = ended(&mut connection, &end).unwrap();
    let bytes = (many * frame::LARGEST_PAYLOAD) as u64;
    assert_eq!(
        (over[0].0.owner.body_bytes, connection.has_no_streams()),
        (bytes, true)
    );
}

#[test]
fn a_response_is_taken_apart_whatever_pieces_it_comes_in() {
    let mut block = vec![0x88];
    hpack::literal(&mut block, "content-type", "text/plain");
    hpack::literal(&mut block, "x-long", &"y".repeat(40_000));
    let interim = frame_of(frame::HEADERS, frame::END_HEADERS, 1, b"\x08\x03103");
    let mut head = Vec::new();
    frame::write_block(&mut head, 0, 1, &block);
    // Padded, and with a trailer.
    let body = frame_of(frame::DATA, frame::PADDED, 1, b"\x02hello..");
    let end = frame_of(
        frame::HEADERS,
        frame::END_HEADERS | frame::END_STREAM,
        1,
        b"\x00\x01a\x01b",
    );
    let all = [settings(&[]), interim, head, body, end].concat();
    for size in [1, 7, 16_384, all.len()] {
        let mut connection = open([exchange(0, 0)]);
        let mut over = Vec::new();
        for piece in all.chunks(size) {
            over.extend(ended(&mut connection, piece).unwrap());
        }
        let [(exchange, None)] = &over[..] else {
            panic!("{over:?}")
        };
        let names: Vec<&str> = exchange.owner.headers.iter().map(|(name, _)| &**name).collect();
        assert_eq!((exchange.status, names), (200, vec!["content-type", "x-long"]));
        assert_eq!(
            (exchange.owner.headers[1].1.len(), exchange.owner.body_bytes),
            (40_000, 5)
        );
        assert!(connection.held.is_empty());
    }
}

#[test]
fn what_is_wrong_with_a_response_costs_its_neighbours_nothing() {
    let wrong: [(&[u8], &str); 6] = [
        (b"\x88\x00\x01A\x01b", "\"A\""),
        (b"\x88\x00\x01a\x03b\nc", "\"a\""),
        (b"\x00\x01a\x01b", "no status"),
        (b"\x88\x88", ":status"),
        (b"\xBE", "cannot be read"),
        (b"\x08\x03abc", "no status"),
    ];
    for (block, words) in wrong {
        let mut connection = open([exchange(0, 0), exchange(1, 0)]);
        ended(&mut connection, &settings(&[])).unwrap();
        let answer = frame_of(frame::HEADERS, frame::END_HEADERS, 1, block);
        let over = ended(&mut connection, &[answer, good(3)].concat()).unwrap();
        let failure = over[0].1.as_ref().unwrap();
        assert_eq!(failure.kind, ErrorKind::Protocol);
        assert!(failure.text.contains(words), "{failure:?}");
        assert_eq!((numbers(&over), over[1].1.is_none()), (vec![0, 1], true));
        assert_eq!(streams_of(&sent(&mut connection), frame::RST_STREAM), [1]);
    }
}

#[test]
fn an_answer_before_all_was_sent_ends_the_sending() {
    let mut connection = open([exchange(0, 1 << 20)]);
    ended(&mut connection, &settings(&[])).unwrap();
    sent(&mut connection);
    let over = ended(&mut connection, &good(1)).unwrap();
    assert!(over[0].1.is_none());
    ended(&mut connection, &window(0, 1 << 20)).unwrap();
    let frames = sent(&mut connection);
    assert_eq!(streams_of(&frames, frame::RST_STREAM), [1]);
    assert_eq!(streams_of(&frames, frame::DATA), [0; 0]);
}

#[test]
fn what_the_server_has_not_looked_at_begins_elsewhere() {
    let mut connection = open((0..5).map(|number| exchange(number, 0)));
    let most = settings(&[(frame::MAX_CONCURRENT_STREAMS, 3)]);
    ended(&mut connection, &most).unwrap();
    let mut last = 1u32.to_be_bytes().to_vec();
    last.extend([0; 4]);
    ended(&mut connection, &frame_of(frame::GOAWAY, 0, 0, &last)).unwrap();
    assert!(connection.is_draining() && !connection.has_no_streams());
    let unsent = connection.take_unsent();
    let begun: Vec<(usize, bool)> = unsent
        .iter()
        .map(|exchange| (exchange.owner.number, exchange.has_begun()))
        .collect();
    assert_eq!(begun, [(1, true), (2, true), (3, false), (4, false)]);
    assert_eq!(numbers(&ended(&mut connection, &good(1)).unwrap()), [0]);
    assert!(connection.is_idle());
}

#[test]
fn a_server_that_gives_up_or_breaks_the_rules_ends_everything_with_the_reason() {
    let goaway = [0, 0, 0, 0, 0, 0, 0, 11];
    for (bytes, kind, words) in [
        (
            frame_of(frame::GOAWAY, 0, 0, &goaway),
            ErrorKind::Reset,
            "ENHANCE_YOUR_CALM",
        ),
        (
            frame_of(frame::PUSH_PROMISE, 4, 1, &[0; 4]),
            ErrorKind::Protocol,
            "pushes",
        ),
        (
            vec![1, 0, 0, 0, 0, 0, 0, 0, 1],
            ErrorKind::Protocol,
            "65536 bytes",
        ),
        (
            frame_of(frame::CONTINUATION, 4, 1, &[]),
            ErrorKind::Protocol,
            "not begun",
        ),
        (
            [frame_of(frame::HEADERS, 0, 1, &[0x88]), good(3)].concat(),
            ErrorKind::Protocol,
            "interrupted",
        ),
        (
            frame_of(frame::DATA, frame::PADDED, 1, b"\x05ab"),
            ErrorKind::Protocol,
            "padding",
        ),
    ] {
        let mut connection = open([exchange(0, 0), exchange(1, 0)]);
        let failure = ended(&mut connection, &[settings(&[]), bytes].concat()).unwrap_err();
        assert_eq!(failure.kind, kind);
        assert!(failure.text.contains(words), "{failure:?}");
        assert_eq!(connection.take_all().len(), 2);
    }
    let failure = ended(&mut open([exchange(0, 0)]), b"HTTP/1.1 400 Bad Request\r\n").unwrap_err();
    assert!(failure.text.contains("does not speak HTTP/2"));
    assert!(open([]).cut().text.contains("instead of speaking HTTP/2"));
}

proptest::proptest! {
    #[test]
    fn whatever_comes_each_request_is_told_of_once(
        frames in proptest::collection::vec((0u8..11, 0u8..48, 0u32..12, proptest::collection::vec(0u8.., 0..20)), 0..40),
        noise: Vec<u8>,
        size in 1usize..40,
    ) {
        let mut connection = open((0..6).map(|number| exchange(number, 30_000 * (number % 2))));
        let mut bytes = settings(&[(frame::MAX_CONCURRENT_STREAMS, 3)]);
        for (kind, flags, stream, payload) in frames {
            bytes.extend(frame_of(kind, flags, stream, &payload));
        }
        bytes.extend(noise);
        let mut over = Vec::new();
        for piece in bytes.chunks(size) {
            if connection.take(piece, 3, &mut over).is_err() {
                break;
            }
            connection.frame_bodies();
        }
        let left = connection.take_all();
        let ended = over.iter().map(|(exchange, _)| exchange);
        let mut told: Vec<usize> = ended.chain(&left).map(|exchange| exchange.owner.number).collect();
        told.sort_unstable();
        proptest::prop_assert_eq!(told, [0, 1, 2, 3, 4, 5]);
    }
}
