//! Virtual users: a function for each, called again and again, whose requests are timed and counted.
//!
//! This is what Rust and Python users have in common. A [`Crew`] holds the users of one thread and an event loop of their
//! own; the crews of a worker process share a [`Desk`], where they get their iterations from and where they count.

mod client;
mod crew;
mod desk;
mod engine;
mod guard;
mod reply;
mod scenario;
mod timers;

pub use crate::net::Failure;
pub use client::{Ask, ClientOptions};
pub use crew::{Begin, Crew, Expected, Outcome, UserIndex};
pub use desk::{Desk, Opened};
pub use engine::{Engine, Found, Receive, Socket, Ticket};
pub use reply::Reply;
pub use scenario::{Request, Scenario, Stop, User, VirtualUser};
