//! Virtual users that are written in Rust, over HTTP/2.

use super::servers::{self, fixture};
use procession_load::plan::{HttpVersion, Pacing, TlsOptions};
use procession_load::result::{ErrorKind, RunResult};
use procession_load::users::{Reply, Scenario, Stop, User, VirtualUser};
use std::future::{poll_fn, Future};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

type Asked<'a> = Pin<Box<dyn Future<Output = Result<Reply, Stop>> + 'a>>;

/// Waits for all of them at the same time.
async fn all(mut asked: Vec<Asked<'_>>) -> Vec<Result<Reply, Stop>> {
    let mut replies: Vec<Option<Result<Reply, Stop>>> = asked.iter().map(|_| None).collect();
    poll_fn(move |context| {
        for (one, reply) in asked.iter_mut().zip(&mut replies) {
            if reply.is_none() {
                if let Poll::Ready(result) = one.as_mut().poll(context) {
                    *reply = Some(result);
                }
            }
        }
        if replies.iter().any(Option::is_none) {
            return Poll::Pending;
        }
        Poll::Ready(replies.drain(..).flatten().collect())
    })
    .await
}

fn asked(user: &User, count: usize) -> Vec<Asked<'_>> {
    (0..count).map(|_| Box::pin(user.get("/")) as Asked<'_>).collect()
}

fn run<V: VirtualUser>(user: V, url: &str, users: u32, iterations: u64) -> RunResult {
    Scenario::new("visit", user)
        .version(HttpVersion::Http2)
        .base_url(url)
        .tls(TlsOptions {
            ca_file: Some(fixture("ca.pem")),
            ..TlsOptions::default()
        })
        .pacing(Pacing::users(users))
        .plan(|plan| {
            plan.processes = 1;
            plan.duration = None;
            plan.iterations = Some(iterations);
            plan.timeout = Duration::from_secs(5);
        })
        .run()
        .unwrap()
}

fn failures(result: &RunResult) -> Vec<(ErrorKind, u64)> {
    let errors = result.errors.iter();
    errors.map(|error| (error.kind, error.count)).collect()
}

pub fn requests_of_a_user_in_rust_share_a_connection() {
    async fn visit(user: User) -> Result<(), Stop> {
        // More than the server allows at the same time: the rest waits.
        for reply in all(asked(&user, 8)).await {
            let reply = reply?;
            let is_good = reply.status == 503 || (reply.status, reply.body()) == (200, b"half and half");
            if !is_good {
                return Err(Stop::rejected(format!("{} {:?}", reply.status, reply.body())));
            }
        }
        let body = vec![b'x'; 300_000];
        user.request("POST", "/").body(&body, "text/plain").send().await?;
        Ok(())
    }
    let server = servers::http2(u64::MAX, u64::MAX);
    let result = run(visit, &format!("http://{}", server.address), 1, 50);
    assert_eq!(
        (result.totals.requests, result.totals.connections),
        (450, 1),
        "{:?}",
        result.errors
    );
    assert_eq!(
        failures(&result),
        [(ErrorKind::Status5xx, 45)],
        "{:?}",
        result.errors
    );
    assert_eq!(result.totals.failed_iterations, 0);
    assert!(result.totals.bytes_sent > 50 * 300_000);

    let secured = servers::http2_tls();
    let result = run(
        visit,
        &format!("https://localhost:{}", secured.address.port()),
        2,
        20,
    );
    assert_eq!((result.totals.requests, result.totals.connections), (180, 2));
    assert_eq!(result.phases.tls.count, 2);
    assert!(failures(&result)
        .iter()
        .all(|(kind, _)| *kind == ErrorKind::Status5xx));

    let plain = servers::https(false);
    let result = run(
        |user: User| async move { user.get("/").await.map(drop) },
        &format!("https://localhost:{}", plain.address.port()),
        1,
        3,
    );
    assert_eq!(failures(&result), [(ErrorKind::Tls, 3)], "{:?}", result.errors);
}

pub fn users_in_rust_go_on_when_the_server_ends_a_connection_or_a_stream() {
    let server = servers::http2(50, 25);
    let result = run(
        |user: User| async move {
            let replies = all(asked(&user, 4)).await;
            drop(replies);
            Ok(())
        },
        &format!("http://{}", server.address),
        1,
        100,
    );
    // Of each fifty requests of a connection two are reset, and four answered with 503. What the server has not looked at is
    // asked for again, and counted once.
    assert_eq!((result.totals.requests, result.totals.connections), (400, 8));
    assert_eq!(
        failures(&result),
        [(ErrorKind::Status5xx, 32), (ErrorKind::Reset, 16)],
        "{:?}",
        result.errors
    );
}
