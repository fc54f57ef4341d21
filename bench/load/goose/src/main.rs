//! Goose's users, each of which gets one URL over and over: `goose-get --host URL --users 64 --run-time 4s …`

use goose::prelude::*;

async fn get(user: &mut GooseUser) -> TransactionResult {
    let reply = user.get("/").await?;
    // Without it the connection would be of no use for the next request.
    reply.response?.bytes().await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), GooseError> {
    let scenario = scenario!("Get").register_transaction(transaction!(get));
    let metrics = GooseAttack::initialize()?
        .register_scenario(scenario)
        .execute()
        .await?;
    let requests: usize = metrics.requests.values().map(|request| request.success_count).sum();
    println!("requests {requests}");
    Ok(())
}
