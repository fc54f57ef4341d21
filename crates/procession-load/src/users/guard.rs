//! What keeps the slip of a finger in a function from becoming the outage of others: requests to machines that are not ours
//! are counted, over all processes of a run, and too many of them end it.

use crate::plan::{stranger_refusal, Plan};
use std::sync::atomic::{AtomicU64, Ordering};

/// Random arrivals of just the rate that is allowed come now and then in greater numbers.
const TOLERANCE: f64 = 1.25;
/// And so do those that a late process makes up for.
const BURST_SECONDS: f64 = 1.0;
/// What is there once it was too much: nobody else may go on, either.
const TOO_MUCH: u64 = u64::MAX;

/// Who is asked, and how that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stranger {
    pub(super) host: Box<str>,
    /// Only redirects have led there: that a target is the tester's own says nothing about it.
    pub(super) is_led_to: bool,
}

/// Counts a request to a machine that is not ours. Why it must not be sent, and the run must end, if it is too much.
pub(super) fn ask(stranger: &Stranger, plan: &Plan, taken_ns: &AtomicU64, now_ns: u64) -> Result<(), String> {
    let guards = &plan.guards;
    if guards.owns_target && !stranger.is_led_to {
        return Ok(());
    }
    let refuse = |asked: &str| {
        if guards.owns_target {
            return Err(format!(
                "{}, where a redirect leads, is not this machine, and {asked} may do harm: if it is yours as well, have the \
                 function ask for its own URL, or else follow no redirects",
                stranger.host
            ));
        }
        Err(stranger_refusal(&stranger.host, asked))
    };
    let (users, most) = (plan.pacing.most_users(), guards.stranger_users);
    if !plan.pacing.has_rate() && users > most {
        return refuse(&format!("{users} users (without consent at most {most})"));
    }
    if take(guards.stranger_rate, taken_ns, now_ns) {
        return Ok(());
    }
    refuse(&format!("more than {} requests per second", guards.stranger_rate))
}

/// Takes the place of one request in a bucket that empties at the rate that is allowed; false if it is full.
fn take(per_second: f64, taken_ns: &AtomicU64, now_ns: u64) -> bool {
    let each_ns = (1e9 / (per_second * TOLERANCE)).min(1e18) as u64;
    let burst_ns = (BURST_SECONDS * 1e9) as u64;
    let after = |taken_ns: u64| match taken_ns {
        TOO_MUCH => TOO_MUCH,
        _ => {
            let then_ns = taken_ns.max(now_ns).saturating_add(each_ns);
            if then_ns - now_ns > burst_ns.max(each_ns) {
                TOO_MUCH
            } else {
                then_ns
            }
        }
    };
    let mut taken = taken_ns.load(Ordering::Relaxed);
    loop {
        let then = after(taken);
        // Nothing else is published by it, so no order is needed.
        match taken_ns.compare_exchange_weak(taken, then, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return then != TOO_MUCH,
            Err(other) => taken = other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Arrivals, Pacing, Target};
    use crate::schedule::Random;

    const SECOND: f64 = 1e9;

    /// How many of the requests at these seconds are let through, until one is not.
    fn let_through(seconds: impl IntoIterator<Item = f64>) -> usize {
        let taken = AtomicU64::new(0);
        let goes = |at: &f64| take(50.0, &taken, (at * SECOND) as u64 + 1);
        seconds.into_iter().take_while(goes).count()
    }

    #[test]
    fn the_rate_that_is_allowed_goes_on_for_ever_and_twice_of_it_does_not() {
        assert_eq!(let_through((0..10_000).map(|n| f64::from(n) / 50.0)), 10_000);
        let twice = let_through((0..10_000).map(|n| f64::from(n) / 100.0));
        assert!((100..400).contains(&twice), "{twice}");
        let at_once = let_through((0..1000).map(|_| 5.0));
        assert!((50..100).contains(&at_once), "{at_once}");
    }

    #[test]
    fn random_arrivals_of_the_rate_that_is_allowed_are_let_through() {
        let mut random = Random::new(7, 0);
        let mut at = 0.0;
        let arrivals = (0..50_000).map(move |_| {
            at -= random.unit().max(1e-12).ln() / 50.0;
            at
        });
        assert_eq!(let_through(arrivals), 50_000);
    }

    #[test]
    fn once_it_was_too_much_nothing_more_is_let_through() {
        let taken = AtomicU64::new(0);
        while take(50.0, &taken, 1) {}
        assert!(!take(50.0, &taken, (100.0 * SECOND) as u64));
    }

    fn plan(pacing: Pacing) -> Plan {
        Plan::new(
            Target::Custom {
                name: "buy".to_owned(),
            },
            pacing,
        )
    }

    fn stranger(is_led_to: bool) -> Stranger {
        Stranger {
            host: "shop.example".into(),
            is_led_to,
        }
    }

    #[test]
    fn it_is_requests_that_count_and_not_iterations() {
        let plan = plan(Pacing::Rate {
            per_second: 1000.0,
            arrivals: Arrivals::Constant,
            most_in_flight: 10,
        });
        let taken = AtomicU64::new(0);
        for now_ns in (1..100).map(|n| n * 100_000_000) {
            ask(&stranger(false), &plan, &taken, now_ns).unwrap();
        }
        let why = (0..1000)
            .find_map(|_| ask(&stranger(false), &plan, &taken, 1).err())
            .unwrap();
        assert!(why.contains("shop.example is not this machine"), "{why}");
        assert!(
            why.contains("own_target=True") && why.contains("--yes-i-own-this-target"),
            "{why}"
        );
    }

    #[test]
    fn whose_owner_agrees_is_asked_as_often_as_anybody_likes_unless_a_redirect_leads_there() {
        let mut plan = plan(Pacing::users(64));
        let taken = AtomicU64::new(0);
        let why = ask(&stranger(false), &plan, &taken, 1).unwrap_err();
        assert!(why.contains("64 users"), "{why}");
        plan.guards.owns_target = true;
        assert!((0..1000).all(|_| ask(&stranger(false), &plan, &taken, 1).is_ok()));
        let why = ask(&stranger(true), &plan, &taken, 1).unwrap_err();
        assert!(why.contains("where a redirect leads"), "{why}");
    }
}
