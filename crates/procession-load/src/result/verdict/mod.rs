//! Whether a result may be believed.

mod core_wait;
mod evidence;
mod judge;
#[cfg(test)]
mod sound;

use serde::{Deserialize, Serialize};

pub(crate) use evidence::Evidence;
pub(crate) use judge::judge;

/// What a run ends with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Verdict {
    /// In a word.
    pub outcome: Outcome,
    /// Why it is not a pass.
    pub reasons: Vec<Reason>,
    /// All that was looked at, with its figure.
    pub checks: Vec<Check>,
}

/// A run's verdict in a word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The figures may be believed, and are what was asked for.
    #[default]
    Pass,
    /// The figures may be believed, and are not what was asked for.
    Fail,
    /// The figures say more about the machine that made the load than about the one that was tested.
    Invalid,
}

/// One reason of a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Reason {
    /// What was found, such as "workers were short of CPU".
    pub what: String,
    /// How much, with its unit.
    pub figure: String,
    /// How much it may be.
    pub limit: String,
    /// What to do about it.
    pub cure: String,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Check {
    /// What.
    pub what: String,
    /// How much, with its unit.
    pub figure: String,
    /// How much it may be.
    pub limit: String,
    /// Whether it is within the limit.
    pub sound: bool,
}
