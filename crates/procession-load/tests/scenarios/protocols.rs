//! TLS, HTTP/2, raw TCP and UDP.

use super::count_of;
use super::servers::{self, fixture, Server};
use procession_load::plan::{
    HttpRequest, HttpTarget, HttpVersion, Pacing, Payload, Plan, Target, TcpTarget, UdpTarget, Until,
};
use procession_load::result::{ErrorKind, RunResult, RunState};
use procession_load::users::{Scenario, Stop, User};
use procession_load::Run;
use std::io::{Read, Write};
use std::time::Duration;

fn run(target: Target, pacing: Pacing, iterations: u64) -> RunResult {
    let mut plan = Plan::new(target, pacing);
    plan.processes = 2;
    plan.duration = None;
    plan.iterations = Some(iterations);
    plan.timeout = Duration::from_millis(500);
    let result = Run::start(plan).unwrap().finish().unwrap();
    assert_eq!(result.state, RunState::Finished);
    assert_eq!(result.totals.requests, iterations);
    result
}

fn https(server: &Server, host: &str) -> HttpTarget {
    HttpTarget::get(format!("https://{host}:{}/", server.address.port())).unwrap()
}

pub fn servers_prove_who_they_are() {
    let server = servers::https(false);
    let mut trusting = https(&server, "localhost");
    trusting.connect_to = Some(server.address.to_string());
    trusting.tls.ca_file = Some(fixture("ca.pem"));
    let result = run(Target::Http(trusting.clone()), Pacing::users(4), 200);
    assert_eq!(result.totals.errors, 0, "{:?}", result.errors);
    assert_eq!((result.totals.connections, result.phases.tls.count), (4, 4));
    let mut fresh = trusting.clone();
    fresh.keep_alive = false;
    let result = run(Target::Http(fresh), Pacing::users(4), 40);
    assert_eq!(
        (result.totals.errors, result.phases.tls.count),
        (0, 40),
        "{:?}",
        result.errors
    );

    let mut elsewhere = trusting.clone();
    elsewhere.tls.server_name = Some("example.org".into());
    let mut stranger = trusting.clone();
    stranger.tls.ca_file = None;
    for target in [elsewhere, stranger] {
        let mut insecure = target.clone();
        let result = run(Target::Http(target), Pacing::users(1), 3);
        assert_eq!(count_of(&result, ErrorKind::Tls), 3, "{:?}", result.errors);
        insecure.tls.insecure = true;
        assert_eq!(run(Target::Http(insecure), Pacing::users(1), 3).totals.errors, 0);
    }
}

pub fn a_client_certificate_is_shown_if_there_is_one() {
    let server = servers::https(true);
    let mut target = https(&server, "127.0.0.1");
    target.tls.ca_file = Some(fixture("ca.pem"));
    let result = run(Target::Http(target.clone()), Pacing::users(1), 3);
    assert_eq!(result.totals.errors, 3);
    target.tls.certificate_file = Some(fixture("client.pem"));
    target.tls.key_file = Some(fixture("client.key"));
    assert_eq!(run(Target::Http(target), Pacing::users(2), 50).totals.errors, 0);
}

pub fn http2_requests_share_connections() {
    let server = servers::http2(u64::MAX, u64::MAX);
    let mut target = HttpTarget::get(format!("http://{}/", server.address)).unwrap();
    target.version = HttpVersion::Http2;
    // More than the server allows at the same time: the rest waits.
    target.streams = 8;
    let result = run(Target::Http(target.clone()), Pacing::users(16), 1_000);
    assert_eq!(result.totals.connections, 2);
    assert_eq!(count_of(&result, ErrorKind::Status5xx), 100);
    assert_eq!(result.totals.errors, 100, "{:?}", result.errors);
    let mut post = HttpRequest::new("POST", &target.requests[0].url).unwrap();
    post.body = Payload(vec![b'x'; 100_000]);
    target.requests = vec![post];
    let result = run(Target::Http(target), Pacing::constant_rate(100.0), 10);
    assert_eq!(
        count_of(&result, ErrorKind::Status5xx),
        result.totals.errors,
        "{:?}",
        result.errors
    );

    let secured = servers::http2_tls();
    let mut target = https(&secured, "127.0.0.1");
    target.version = HttpVersion::Http2;
    target.streams = 4;
    target.tls.ca_file = Some(fixture("ca.pem"));
    let result = run(Target::Http(target), Pacing::users(8), 500);
    assert_eq!(
        count_of(&result, ErrorKind::Status5xx),
        result.totals.errors,
        "{:?}",
        result.errors
    );
    let plain = servers::https(false);
    let mut target = https(&plain, "127.0.0.1");
    target.version = HttpVersion::Http2;
    target.tls.insecure = true;
    assert_eq!(
        count_of(&run(Target::Http(target), Pacing::users(1), 2), ErrorKind::Tls),
        2
    );
}

pub fn http2_goes_on_when_the_server_ends_a_connection_or_a_stream() {
    let server = servers::http2(50, 25);
    let mut target = HttpTarget::get(format!("http://{}/", server.address)).unwrap();
    target.version = HttpVersion::Http2;
    target.streams = 4;
    let result = run(Target::Http(target), Pacing::users(8), 400);
    assert!(result.totals.connections >= 8);
    // Of each fifty requests of a connection two are reset, and four answered with 503 (the fiftieth is reset instead).
    assert_eq!(count_of(&result, ErrorKind::Reset), 16, "{:?}", result.errors);
    assert_eq!(count_of(&result, ErrorKind::Status5xx), 32);
    assert_eq!(result.totals.errors, 48);
}

pub fn a_protocol_of_its_own_is_tested_over_tcp() {
    let server = servers::tcp(|mut stream| {
        let mut buffer = [0; 1024];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            let pings = buffer[..n].iter().filter(|&&byte| byte == b'\n').count();
            for _ in 0..pings {
                let _ = stream.write_all(b"PO");
                let _ = stream.write_all(b"NG\r\n");
            }
        }
    });
    let target = |until, keep_alive| TcpTarget {
        address: server.address.to_string(),
        send: Payload(b"PING\n".to_vec()),
        until,
        keep_alive,
    };
    for until in [Until::Delimiter(Payload(b"\r\n".to_vec())), Until::Bytes(6)] {
        let result = run(Target::Tcp(target(until, true)), Pacing::users(4), 400);
        assert_eq!(
            (result.totals.errors, result.totals.connections),
            (0, 4),
            "{:?}",
            result.errors
        );
        assert_eq!(result.totals.bytes_received, 6 * 400);
    }
    let result = run(Target::Tcp(target(Until::Bytes(6), false)), Pacing::users(2), 50);
    assert_eq!(
        (result.totals.errors, result.totals.connections),
        (0, 50),
        "{:?}",
        result.errors
    );
    let result = run(Target::Tcp(target(Until::Bytes(7), true)), Pacing::users(2), 4);
    assert_eq!(count_of(&result, ErrorKind::Timeout), 4);
    let mut connect = target(Until::Sent, true);
    connect.send = Payload::default();
    // Fewer than the server's backlog has room for: it may be slow to accept.
    let result = run(Target::Tcp(connect), Pacing::users(2), 100);
    assert_eq!(
        (result.totals.errors, result.totals.connections),
        (0, 100),
        "{:?}",
        result.errors
    );
}

pub fn lost_and_doubled_datagrams_are_counted() {
    let server = servers::udp_echo(20, 50);
    let target = UdpTarget {
        address: server.address.to_string(),
        send: Payload(b"hello".to_vec()),
        reply: true,
        numbered: true,
    };
    let result = run(Target::Udp(target.clone()), Pacing::constant_rate(500.0), 400);
    let udp = result.udp.clone().unwrap();
    // Each hundredth is lost, but sent back once by the other rule.
    assert_eq!(
        (udp.sent, udp.lost, udp.received),
        (400, 16, 384),
        "{:?}",
        result.errors
    );
    assert_eq!(count_of(&result, ErrorKind::Lost), 16);
    assert_eq!(udp.duplicates, 4);
    let one_way = UdpTarget {
        reply: false,
        ..target
    };
    let result = run(Target::Udp(one_way), Pacing::constant_rate(500.0), 100);
    assert_eq!((result.totals.errors, result.udp.unwrap().sent), (0, 100));
}

/// Leads from `/start` to `/end`, where who has its cookie is welcome.
fn leading() -> servers::Server {
    servers::tcp(|mut stream| {
        let (mut held, mut buffer) = (String::new(), [0; 4096]);
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            held.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
            while let Some(at) = held.find("\r\n\r\n") {
                let request: String = held.drain(..at + 4).collect();
                let status = if request.starts_with("GET /start ") {
                    "302 Found\r\nLocation: end\r\nSet-Cookie: session=1; Path=/"
                } else if request.contains("Cookie: session=1\r\n") {
                    "200 OK"
                } else {
                    "403 Forbidden"
                };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes());
            }
        }
    })
}

pub fn a_user_in_rust_follows_redirects_with_its_cookies() {
    let server = leading();
    let result = Scenario::new("visit", |user: User| async move {
        let left = user.request("GET", "/start").redirects(0).send().await?;
        let reply = user.get("/start").await?;
        match (left.status, reply.status, reply.led_to.as_deref()) {
            (302, 200, Some(url)) if url.ends_with("/end") => Ok(()),
            other => Err(Stop::rejected(format!("{other:?}"))),
        }
    })
    .base_url(&format!("http://{}/", server.address))
    .redirects(3)
    .plan(|plan| {
        plan.duration = None;
        plan.iterations = Some(20);
    })
    .run()
    .unwrap();
    assert_eq!(
        (result.totals.requests, result.totals.errors),
        (40, 0),
        "{:?}",
        result.errors
    );
    assert_eq!(
        (result.steps[0].name.as_str(), result.steps[0].count),
        ("GET /start", 40)
    );
}

pub fn redirects_and_cookies_are_followed_if_asked_for() {
    let server = leading();
    let mut target = HttpTarget::get(format!("http://{}/start", server.address)).unwrap();
    let statuses = |target: &HttpTarget| -> Vec<(u16, u64)> {
        let result = run(Target::Http(target.clone()), Pacing::users(2), 50);
        result
            .statuses
            .iter()
            .map(|count| (count.status, count.count))
            .collect()
    };
    assert_eq!(statuses(&target), [(302, 50)]);
    target.redirects = 5;
    assert_eq!(statuses(&target), [(403, 50)]);
    target.cookies = true;
    assert_eq!(statuses(&target), [(200, 50)]);
}

pub fn a_unix_socket_takes_the_place_of_an_address() {
    let path = std::env::temp_dir().join(format!("procession-load-{}", std::process::id()));
    let server = servers::unix(&path);
    let mut target = HttpTarget::get("http://nowhere.invalid/").unwrap();
    target.unix_socket = Some(path.clone());
    let result = run(Target::Http(target), Pacing::users(1), 100);
    drop(server);
    std::fs::remove_file(path).unwrap();
    assert_eq!(
        (result.totals.errors, result.totals.connections),
        (0, 1),
        "{:?}",
        result.errors
    );
    assert_eq!(result.tcp, None);
}
