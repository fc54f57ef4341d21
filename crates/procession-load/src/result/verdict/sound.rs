//! Evidence without fault for the tests of the rules, and what they say of a verdict.

use super::evidence::{CoreWait, Evidence};
use super::{judge, Check, Outcome, Verdict};
use crate::result::RunState;

/// Nothing to complain of, at a constant rate of a thousand a second for ten seconds.
pub(super) fn sound() -> Evidence {
    Evidence {
        state: RunState::Finished,
        requests: 10_000,
        iterations: 0,
        unfinished: 0,
        processes: 2,
        cores: 4,
        generator_delay_p99: Some(0.000_02),
        service_p50: 0.002,
        service_p99: 0.009,
        service_mean: 0.003,
        cpu_share: 0.2,
        cpu_wait_share: 0.001,
        core_wait: Some(CoreWait {
            mean: 0.000_004,
            p50: 0.0,
            p99: 0.000_05,
        }),
        taken_share: Some(0.0),
        starved: None,
        due: Some((10_000.0, false)),
        most_in_flight: 64,
        mean_in_flight: 4.0,
        little_in_flight: 4.0,
        restarts: 0,
        last_death: None,
        slos_kept: true,
    }
}

pub(super) fn with(change: impl FnOnce(&mut Evidence)) -> Verdict {
    let mut evidence = sound();
    change(&mut evidence);
    judge(&evidence)
}

#[track_caller]
pub(super) fn passes(verdict: &Verdict) {
    assert_eq!((verdict.outcome, &verdict.reasons[..]), (Outcome::Pass, &[][..]));
    assert!(verdict.checks.iter().all(|check| check.sound));
}

/// That these figures are invalid for this reason alone, and that it is told with these words.
#[track_caller]
pub(super) fn is_invalid(verdict: &Verdict, what: &str, figure: &str, limit: &str, cure: &str) {
    assert_eq!(verdict.outcome, Outcome::Invalid);
    let [reason] = &verdict.reasons[..] else {
        panic!("{:?}", verdict.reasons)
    };
    assert!(reason.what.contains(what), "{reason:?}");
    assert_eq!((&reason.figure[..], &reason.limit[..]), (figure, limit));
    assert!(reason.cure.contains(cure), "{reason:?}");
    let unsound: Vec<&Check> = verdict.checks.iter().filter(|check| !check.sound).collect();
    assert_eq!(unsound.len(), 1);
    assert_eq!(
        (&unsound[0].what, &unsound[0].figure, &unsound[0].limit),
        (&reason.what, &reason.figure, &reason.limit)
    );
}
