//! Virtual users that are written in Rust.

use procession_load::plan::Pacing;
use procession_load::result::{ErrorKind, RunResult, StepKind};
use procession_load::server::{LoopbackServer, Served, ServerOptions};
use procession_load::users::{Scenario, Stop, User};
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
