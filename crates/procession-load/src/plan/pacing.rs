use crate::seconds;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// When requests begin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Pacing {
    /// The closed model: so many users, each of which begins its next request when its last one is through. A server
    /// that becomes slow is asked less often, so the response times are those of a server with so many users waiting.
    Users {
        /// How many.
        users: u32,
        /// How long each waits between its requests.
        think: Think,
    },
    /// The open model: requests begin at a rate, whatever becomes of earlier ones. Response times count from the moment
    /// at which a request was due.
    Rate {
        /// Over all processes together.
        per_second: f64,
        /// How they are spread over time.
        arrivals: Arrivals,
        /// At most so many at the same time; what is due beyond waits, and its waiting counts.
        most_in_flight: u32,
    },
    /// The closed model with a number of users that changes.
    UserStages {
        /// How many there are at the beginning.
        start: u32,
        /// One after the other.
        stages: Vec<UserStage>,
        /// How long each waits between its requests.
        think: Think,
    },
    /// The open model with a rate that changes.
    RateStages {
        /// The rate at the beginning, per second.
        start: f64,
        /// One after the other.
        stages: Vec<RateStage>,
        /// How they are spread over time.
        arrivals: Arrivals,
        /// At most so many at the same time.
        most_in_flight: u32,
    },
}

/// How the requests of a rate are spread over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// At equal distances.
    Constant,
    /// As if many independent users sent them (a Poisson process): with the bursts and gaps of real traffic.
    Poisson,
}

/// How long a user waits between two requests: drawn evenly from this range, or not at all if both are zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Think {
    /// The shortest.
    #[serde(rename = "least_seconds", with = "seconds")]
    #[cfg_attr(test, schemars(with = "f64"))]
    pub least: Duration,
    /// The longest.
    #[serde(rename = "most_seconds", with = "seconds")]
    #[cfg_attr(test, schemars(with = "f64"))]
    pub most: Duration,
}

/// One stage of [`Pacing::UserStages`]: the number of users goes evenly to `users` within `duration`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UserStage {
    /// How long it takes.
    #[serde(rename = "duration_seconds", with = "seconds")]
    #[cfg_attr(test, schemars(with = "f64"))]
    pub duration: Duration,
    /// How many there are at its end.
    pub users: u32,
}

/// One stage of [`Pacing::RateStages`]: the rate goes evenly to `per_second` within `duration`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RateStage {
    /// How long it takes.
    #[serde(rename = "duration_seconds", with = "seconds")]
    #[cfg_attr(test, schemars(with = "f64"))]
    pub duration: Duration,
    /// What it is at its end.
    pub per_second: f64,
}

impl Pacing {
    /// So many requests in flight that nobody waits for one on a healthy server, if the tester says nothing.
    pub const DEFAULT_MOST_IN_FLIGHT: u32 = 1000;

    /// So many users without think time.
    pub fn users(users: u32) -> Pacing {
        let think = Think::default();
        Pacing::Users { users, think }
    }

    /// So many requests per second, at equal distances.
    pub fn constant_rate(per_second: f64) -> Pacing {
        Pacing::Rate {
            per_second,
            arrivals: Arrivals::Constant,
            most_in_flight: Pacing::DEFAULT_MOST_IN_FLIGHT,
        }
    }

    /// So many requests per second, as many independent users would send them.
    pub fn poisson(per_second: f64) -> Pacing {
        Pacing::Rate {
            per_second,
            arrivals: Arrivals::Poisson,
            most_in_flight: Pacing::DEFAULT_MOST_IN_FLIGHT,
        }
    }

    /// Whether requests are due at moments that do not depend on the server (the open model).
    pub fn has_rate(&self) -> bool {
        matches!(self, Pacing::Rate { .. } | Pacing::RateStages { .. })
    }

    /// Whether requests are due at random moments.
    pub fn is_random(&self) -> bool {
        matches!(
            self,
            Pacing::Rate {
                arrivals: Arrivals::Poisson,
                ..
            } | Pacing::RateStages {
                arrivals: Arrivals::Poisson,
                ..
            }
        )
    }

    /// The most users (or requests in flight) there will be.
    pub fn most_users(&self) -> u32 {
        match self {
            Pacing::Users { users, .. } => *users,
            Pacing::Rate { most_in_flight, .. } | Pacing::RateStages { most_in_flight, .. } => {
                *most_in_flight
            }
            Pacing::UserStages { start, stages, .. } => stages
                .iter()
                .map(|stage| stage.users)
                .max()
                .unwrap_or(0)
                .max(*start),
        }
    }

    /// The highest rate there will be, per second; `None` in the closed model.
    pub fn highest_rate(&self) -> Option<f64> {
        match self {
            Pacing::Rate { per_second, .. } => Some(*per_second),
            Pacing::RateStages { start, stages, .. } => {
                Some(stages.iter().map(|stage| stage.per_second).fold(*start, f64::max))
            }
            Pacing::Users { .. } | Pacing::UserStages { .. } => None,
        }
    }

    /// How long the stages take together; `None` if there are none.
    pub fn staged_duration(&self) -> Option<Duration> {
        match self {
            Pacing::UserStages { stages, .. } => Some(stages.iter().map(|stage| stage.duration).sum()),
            Pacing::RateStages { stages, .. } => Some(stages.iter().map(|stage| stage.duration).sum()),
            Pacing::Users { .. } | Pacing::Rate { .. } => None,
        }
    }

    /// The think time between the requests of a user; none in the open model.
    pub fn think(&self) -> Think {
        match self {
            Pacing::Users { think, .. } | Pacing::UserStages { think, .. } => *think,
            Pacing::Rate { .. } | Pacing::RateStages { .. } => Think::default(),
        }
    }
}
