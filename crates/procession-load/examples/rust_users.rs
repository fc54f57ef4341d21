//! Virtual users in Rust: `cargo run --release -p procession-load --example rust_users -- http://127.0.0.1:8000/ 64 5`.
//!
//! Arguments: URL, users, seconds. Without a URL it starts a server of its own.

use procession_load::plan::Pacing;
use procession_load::report::{text, TextStyle};
use procession_load::server::{LoopbackServer, ServerOptions};
use procession_load::users::{Scenario, Stop, User};
use std::time::Duration;

async fn visit(user: User) -> Result<(), Stop> {
    let reply = user.get("/").await?;
    if reply.status != 200 {
        return Err(Stop::rejected(format!("status {}", reply.status)));
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (given, users) = (arguments.next(), arguments.next());
    let seconds: f64 = arguments.next().map_or(Ok(2.0), |text| text.parse())?;
    let server = match &given {
        Some(_) => None,
        None => Some(LoopbackServer::start(ServerOptions::default())?),
    };
    let url = given.unwrap_or_else(|| server.as_ref().map(LoopbackServer::url).unwrap_or_default());
    let result = Scenario::new("visit", visit)
        .base_url(&url)
        .pacing(Pacing::users(users.map_or(Ok(8), |text| text.parse())?))
        .duration(Duration::from_secs_f64(seconds))
        .plan(|plan| plan.processes = 1)
        .run()?;
    println!("{}", text(&result, &TextStyle::default()));
    println!(
        "{} requests, {} failed",
        result.totals.requests, result.totals.errors
    );
    Ok(())
}
