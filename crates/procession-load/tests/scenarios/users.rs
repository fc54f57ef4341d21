//! Virtual users that are written in Rust.

use super::servers::{self, fixture, Server};
use procession_load::plan::{Pacing, TlsOptions};
use procession_load::result::{ErrorKind, RunResult, StepKind};
use procession_load::server::{LoopbackServer, Served, ServerOptions};
use procession_load::users::{Scenario, Stop, User};
use std::io::{Read, Write};
use std::time::Duration;

fn counts(result: &RunResult) -> Vec<(StepKind, &str, u64, u64)> {
    let mut counts: Vec<_> = result
        .steps
        .iter()
        .map(|step| (step.kind, step.name.as_str(), step.count, step.errors))
        .collect();
    counts.sort();
    counts
}

pub fn a_future_is_a_virtual_user() {
    let server = LoopbackServer::start(ServerOptions::default()).unwrap();
    let result = Scenario::new("visit", |user: User| async move {
        let reply = user.step("look", user.get("/")).await?;
        user.think(Duration::from_millis(1)).await?;
        user.request("POST", "/cart")
            .name("put")
            .body(b"x", "text/plain")
            .send()
            .await?;
        match user.iteration() % 4 {
            0 => Err(Stop::rejected(format!("status {}", reply.status))),
            1 => Ok("no number".parse::<u32>().map(drop)?),
            _ => Ok(()),
        }
    })
    .base_url(&server.url())
    .pacing(Pacing::users(1))
    .plan(|plan| {
        plan.duration = None;
        plan.iterations = Some(40);
    })
    .run()
    .unwrap();
    assert_eq!(
        counts(&result),
        [
            (StepKind::Request, "GET /", 40, 0),
            (StepKind::Request, "put", 40, 10),
            (StepKind::Step, "look", 40, 0),
            (StepKind::Iteration, "visit", 40, 20),
        ]
    );
    assert_eq!(server.served(Served::Good), 80);
    let errors: Vec<_> = result
        .errors
        .iter()
        .map(|error| (error.kind, error.count))
        .collect();
    assert_eq!(errors, [(ErrorKind::Assertion, 10), (ErrorKind::Script, 10)]);
}

pub fn many_users_in_rust_keep_to_a_rate() {
    let server = LoopbackServer::start(ServerOptions::default()).unwrap();
    let result = Scenario::new("visit", |user: User| async move { user.get("/").await.map(drop) })
        .base_url(&server.url())
        .pacing(Pacing::constant_rate(2_000.0))
        .duration(Duration::from_millis(500))
        .plan(|plan| plan.processes = 2)
        .run()
        .unwrap();
    // On a machine that is busy the last ones may come too late.
    let totals = &result.totals;
    assert_eq!(totals.requests + totals.unsent, 1_000);
    assert!(totals.requests >= 900 && totals.iterations == totals.requests);
    assert_eq!(result.totals.errors, 0, "{:?}", result.errors);
    assert!(result.latency.lag.is_some());
}

pub fn a_user_in_rust_is_told_what_it_cannot_do() {
    let result = Scenario::new("lost", |user: User| async move {
        user.get("http://127.0.0.1:1/")
            .await
            .map(drop)
            .or(Ok::<(), Stop>(()))?;
        user.get("/").await.map(drop)
    })
    .plan(|plan| {
        plan.duration = None;
        plan.iterations = Some(5);
    })
    .run()
    .unwrap();
    let errors: Vec<_> = result
        .errors
        .iter()
        .map(|error| (error.kind, error.count))
        .collect();
    assert_eq!(errors, [(ErrorKind::Refused, 5), (ErrorKind::Script, 5)]);
    assert_eq!(result.totals.failed_iterations, 5);
}

pub fn a_response_without_end_holds_up_nobody() {
    let server = servers::tcp(|mut stream| {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            if !buffer[..n].starts_with(b"GET /endless ") {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                continue;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            let much = vec![b'x'; 1 << 20];
            while stream.write_all(&much).is_ok() {}
            return;
        }
    });
    let result = Scenario::new("visit", |user: User| async move {
        if user.id() > 0 {
            return user.get("/").await.map(drop);
        }
        let endless = user
            .request("GET", "/endless")
            .timeout(Duration::from_millis(200))
            .send()
            .await;
        match endless {
            Ok(_) => Err(Stop::rejected("it ends")),
            Err(_) => Ok(()),
        }
    })
    .base_url(&format!("http://{}", server.address))
    .pacing(Pacing::users(2))
    .duration(Duration::from_secs(1))
    .plan(|plan| plan.processes = 1)
    .run()
    .unwrap();
    let errors: Vec<_> = result.errors.iter().map(|error| error.kind).collect();
    assert_eq!(errors, [ErrorKind::Timeout], "{:?}", result.errors);
    assert_eq!(result.totals.failed_iterations, 0);
    let others = counts(&result)
        .into_iter()
        .find(|step| step.1 == "GET /")
        .unwrap();
    assert!(others.2 >= 10 && others.3 == 0, "{others:?}");
}

/// What becomes of 20 visits to a server that speaks TLS.
fn visits(server: &Server, tls: TlsOptions) -> RunResult {
    Scenario::new("visit", |user: User| async move {
        let reply = user.get("/").await?;
        match reply.status {
            200 => Ok(()),
            status => Err(Stop::rejected(format!("status {status}"))),
        }
    })
    .base_url(&format!("https://localhost:{}", server.address.port()))
    .tls(tls)
    .pacing(Pacing::users(2))
    .plan(|plan| {
        plan.processes = 1;
        plan.duration = None;
        plan.iterations = Some(20);
    })
    .run()
    .unwrap()
}

fn failures(result: &RunResult) -> Vec<(ErrorKind, u64)> {
    let errors = result.errors.iter();
    errors.map(|error| (error.kind, error.count)).collect()
}

pub fn a_user_in_rust_trusts_whom_it_is_told_to_trust() {
    let server = servers::https(false);
    let trusting = TlsOptions {
        ca_file: Some(fixture("ca.pem")),
        ..TlsOptions::default()
    };
    let result = visits(&server, trusting.clone());
    assert_eq!((failures(&result), result.totals.requests), (vec![], 20));
    // Each of the two users keeps its connection.
    assert_eq!((result.totals.connections, result.phases.tls.count), (2, 2));

    let insecure = TlsOptions {
        insecure: true,
        ..TlsOptions::default()
    };
    assert_eq!(failures(&visits(&server, insecure)), []);
    let elsewhere = TlsOptions {
        server_name: Some("example.org".into()),
        ..trusting
    };
    for doubtful in [TlsOptions::default(), elsewhere] {
        let result = visits(&server, doubtful);
        assert_eq!(failures(&result), [(ErrorKind::Tls, 20)], "{:?}", result.errors);
        assert_eq!(result.totals.failed_iterations, 20);
    }
}

pub fn a_user_in_rust_shows_its_certificate_if_it_has_one() {
    let server = servers::https(true);
    let nobody = TlsOptions {
        ca_file: Some(fixture("ca.pem")),
        ..TlsOptions::default()
    };
    let somebody = TlsOptions {
        certificate_file: Some(fixture("client.pem")),
        key_file: Some(fixture("client.key")),
        ..nobody.clone()
    };
    assert_eq!(failures(&visits(&server, somebody)), []);
    let result = visits(&server, nobody);
    assert_eq!(result.totals.errors, 20, "{:?}", result.errors);
    assert_eq!(result.totals.failed_iterations, 20);
}
