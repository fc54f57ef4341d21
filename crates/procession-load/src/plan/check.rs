//! What a plan must be like to be run.

use super::{Guards, HttpRequest, HttpTarget, HttpVersion, Pacing, Plan, Target};
use crate::http::url::Url;
use crate::{Error, Result};
use std::time::Duration;

/// So that counts and moments in nanoseconds stay far from the limits of their types.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
const HIGHEST_RATE: f64 = 100_000_000.0;
const MOST_USERS: u32 = 1_000_000;
const MOST_PROCESSES: u32 = 4096;
/// The most kinds of requests that one run tells apart.
pub(crate) const MOST_REQUESTS: usize = 64;

impl Plan {
    /// Says what is wrong with it, if anything.
    ///
    /// # Errors
    ///
    /// One text with the first problem: what, where, and what to do.
    pub fn check(&self) -> Result<()> {
        check_number("processes", self.processes, MOST_PROCESSES)?;
        self.check_times()?;
        check_pacing(&self.pacing)?;
        if self.iterations == Some(0) {
            return fail("the number of requests is 0: ask for at least one");
        }
        match &self.target {
            Target::Http(target) => check_http(target)?,
            Target::Tcp(target) => check_address(&target.address)?,
            Target::Udp(target) => check_address(&target.address)?,
            Target::Custom { .. } => {}
        }
        self.check_guards()
    }

    fn check_times(&self) -> Result<()> {
        for (name, duration) in [
            ("the duration", self.load_duration()),
            ("the warm-up", Some(self.warmup)),
            ("the timeout", Some(self.timeout)),
            ("the time to wait at the end", Some(self.drain)),
        ] {
            if duration.is_some_and(|duration| duration > LONGEST) {
                return fail(format!("{name} is longer than 30 days"));
            }
        }
        if self.timeout.is_zero() {
            return fail("the timeout is 0: without time to answer every request fails");
        }
        match self.load_duration() {
            Some(duration) if duration.is_zero() => fail("the duration is 0: nothing would be sent"),
            Some(duration) if duration <= self.warmup => fail(format!(
                "the warm-up ({:?}) leaves nothing of the duration ({duration:?}) to measure",
                self.warmup
            )),
            None if self.iterations.is_none() => {
                fail("the test would never end: give a duration or a number of requests")
            }
            _ => Ok(()),
        }
    }

    fn check_guards(&self) -> Result<()> {
        match (self.stranger(), self.immodest()) {
            (Some(host), Some(asked)) => fail(refusal(&host, &asked)),
            _ => Ok(()),
        }
    }

    /// What is asked for, if that is more than machines of others should get without their consent.
    pub(crate) fn immodest(&self) -> Option<String> {
        let Guards {
            owns_target,
            stranger_rate,
            stranger_users,
        } = self.guards;
        let (users, rate) = (self.pacing.most_users(), self.pacing.highest_rate());
        let modest = match rate {
            Some(rate) => rate <= stranger_rate,
            None => users <= stranger_users,
        };
        (!modest && !owns_target).then(|| match rate {
            Some(rate) => format!("{rate} requests per second (without consent at most {stranger_rate})"),
            None => format!("{users} connections (without consent at most {stranger_users})"),
        })
    }

    /// The first host of the target that is not this machine.
    fn stranger(&self) -> Option<String> {
        self.target.hosts().into_iter().find(|host| !is_loopback(host))
    }
}

impl Target {
    /// Whether the server is on this machine, as far as its address tells. Nobody knows where a function's requests go.
    pub fn is_here(&self) -> bool {
        !matches!(self, Target::Custom { .. }) && self.hosts().iter().all(|host| is_loopback(host))
    }

    fn hosts(&self) -> Vec<String> {
        match self {
            Target::Http(target) if target.unix_socket.is_some() => Vec::new(),
            Target::Http(HttpTarget {
                connect_to: Some(address),
                ..
            }) => vec![host_of(address)],
            Target::Http(target) => target
                .requests
                .iter()
                .filter_map(|request| Url::parse(&request.url).ok())
                .map(|url| url.host)
                .collect(),
            Target::Tcp(target) => vec![host_of(&target.address)],
            Target::Udp(target) => vec![host_of(&target.address)],
            Target::Custom { .. } => Vec::new(),
        }
    }
}

fn host_of(address: &str) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_matches(['[', ']']).to_owned()
}

/// Why this host is not tested so hard.
pub(crate) fn refusal(host: &str, asked: &str) -> String {
    format!(
        "{host} is not this machine, and {asked} may do harm: say that it is yours to test, or ask for less"
    )
}

/// The same for the functions of virtual users.
pub(crate) fn stranger_refusal(host: &str, asked: &str) -> String {
    format!(
        "{host} is not this machine, and {asked} may do harm: if it is yours, or its owner agrees, say so with \
         own_target=True (--yes-i-own-this-target), or else ask for less"
    )
}

/// Whether a host is this machine's own.
pub(crate) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
}

fn fail<T>(problem: impl Into<String>) -> Result<T> {
    Err(Error::plan(problem))
}

fn check_number(name: &str, number: u32, most: u32) -> Result<()> {
    match number {
        0 => fail(format!("the number of {name} is 0: ask for at least one")),
        number if number > most => fail(format!("{number} {name} are too many: ask for at most {most}")),
        _ => Ok(()),
    }
}

fn check_rate(rate: f64, may_be_zero: bool) -> Result<()> {
    if rate.is_finite() && rate <= HIGHEST_RATE && (rate > 0.0 || (may_be_zero && rate == 0.0)) {
        return Ok(());
    }
    fail(format!(
        "a rate of {rate} per second is not possible: ask for a number above 0 and up to {HIGHEST_RATE}"
    ))
}

fn check_pacing(pacing: &Pacing) -> Result<()> {
    let think = pacing.think();
    if think.least > think.most || think.most > LONGEST {
        return fail(format!(
            "a think time from {:?} to {:?} is not possible: give the shorter one first",
            think.least, think.most
        ));
    }
    match pacing {
        Pacing::Users { users, .. } => check_number("users", *users, MOST_USERS),
        Pacing::Rate {
            per_second,
            most_in_flight,
            ..
        } => {
            check_rate(*per_second, false)?;
            check_number("requests in flight", *most_in_flight, MOST_USERS)
        }
        Pacing::UserStages { stages, .. } => {
            if stages.is_empty() {
                return fail("there are no stages: give at least one");
            }
            check_number("users", pacing.most_users(), MOST_USERS)
        }
        Pacing::RateStages {
            start,
            stages,
            most_in_flight,
            ..
        } => {
            if stages.is_empty() {
                return fail("there are no stages: give at least one");
            }
            check_rate(*start, true)?;
            for stage in stages {
                check_rate(stage.per_second, true)?;
            }
            check_rate(pacing.highest_rate().unwrap_or(0.0), false)?;
            check_number("requests in flight", *most_in_flight, MOST_USERS)
        }
    }
}

fn check_http(target: &HttpTarget) -> Result<()> {
    if target.requests.is_empty() {
        return fail("there is no request: give a URL");
    }
    if target.requests.len() > MOST_REQUESTS {
        return fail(format!(
            "{} different requests are too many to tell apart: give at most {MOST_REQUESTS}",
            target.requests.len()
        ));
    }
    for request in &target.requests {
        check_request(request)?;
    }
    if let Some(address) = &target.connect_to {
        check_address(address)?;
    }
    if target.streams == 0 {
        return fail("the number of streams is 0: ask for at least one");
    }
    if target.streams > 1 && target.version == HttpVersion::Http1 {
        return fail("several requests at once on one connection need HTTP/2");
    }
    if target.version == HttpVersion::Http2 && (target.redirects > 0 || target.cookies) {
        return fail("redirects and cookies are for HTTP/1: over HTTP/2 write a virtual user");
    }
    if target.tls.certificate_file.is_some() != target.tls.key_file.is_some() {
        return fail("a client certificate and its key come together: give both or none");
    }
    Ok(())
}

fn check_request(request: &HttpRequest) -> Result<()> {
    Url::parse(&request.url).map_err(Error::plan)?;
    let is_token = |text: &str| !text.is_empty() && text.bytes().all(is_token_byte);
    if !is_token(&request.method) {
        return fail(format!("{:?} is not an HTTP method", request.method));
    }
    for header in &request.headers {
        let value_is_clean = !header.value.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
        if !is_token(&header.name) || !value_is_clean {
            return fail(format!(
                "{:?}: {:?} is not an HTTP header",
                header.name, header.value
            ));
        }
    }
    if !(request.weight.is_finite() && request.weight > 0.0) {
        return fail(format!(
            "the weight of {} is {}: give a number above 0",
            request.name, request.weight
        ));
    }
    Ok(())
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn check_address(address: &str) -> Result<()> {
    let port = address
        .rsplit_once(':')
        .map(|(host, port)| (host, port.parse::<u16>()));
    match port {
        Some((host, Ok(port))) if !host.is_empty() && port > 0 => Ok(()),
        _ => fail(format!("{address:?} is not an address: write it as HOST:PORT")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Arrivals, RateStage, Think};
    use super::*;

    fn plan(url: &str, pacing: Pacing) -> Plan {
        Plan::new(Target::Http(HttpTarget::get(url).unwrap()), pacing)
    }

    fn problem(plan: &Plan) -> String {
        let error = plan.check().unwrap_err();
        assert!(error.is_plan());
        error.to_string()
    }

    #[test]
    fn a_sound_plan_is_accepted() {
        plan("http://localhost:1/", Pacing::users(64)).check().unwrap();
        plan("http://[::1]:1/", Pacing::poisson(20_000.0))
            .check()
            .unwrap();
    }

    #[test]
    fn another_machine_is_spared_until_the_tester_says_that_it_is_theirs() {
        let mut strangers = plan("http://192.0.2.1/", Pacing::constant_rate(1000.0));
        assert!(
            problem(&strangers).starts_with("192.0.2.1 is not this machine, and 1000 requests per second")
        );
        strangers.guards.owns_target = true;
        strangers.check().unwrap();
        plan("http://192.0.2.1/", Pacing::constant_rate(10.0))
            .check()
            .unwrap();
        assert!(problem(&plan("http://192.0.2.1/", Pacing::users(64))).contains("64 connections"));
    }

    #[test]
    fn numbers_that_make_no_sense_are_named() {
        assert!(problem(&plan("http://localhost/", Pacing::users(0))).contains("users is 0"));
        assert!(problem(&plan("http://localhost/", Pacing::constant_rate(-1.0))).contains("-1 per second"));
        assert!(problem(&plan("http://localhost/", Pacing::constant_rate(f64::NAN))).contains("NaN"));
        let mut endless = plan("http://localhost/", Pacing::users(1));
        endless.duration = None;
        assert!(problem(&endless).contains("never end"));
        let mut all_warmup = plan("http://localhost/", Pacing::users(1));
        all_warmup.warmup = Duration::from_secs(10);
        assert!(problem(&all_warmup).contains("leaves nothing"));
        let stages = Pacing::RateStages {
            start: 0.0,
            stages: vec![RateStage {
                duration: Duration::from_secs(1),
                per_second: 0.0,
            }],
            arrivals: Arrivals::Constant,
            most_in_flight: 1,
        };
        assert!(problem(&plan("http://localhost/", stages)).contains("rate of 0"));
        let think = Think {
            least: Duration::from_secs(2),
            most: Duration::from_secs(1),
        };
        assert!(
            problem(&plan("http://localhost/", Pacing::Users { users: 1, think })).contains("think time")
        );
    }

    #[test]
    fn a_header_cannot_smuggle_another_request() {
        let mut request = HttpRequest::new("GET", "http://localhost/").unwrap();
        request.headers.push(super::super::Header {
            name: "X".into(),
            value: "1\r\nHost: elsewhere".into(),
        });
        let target = Target::Http(HttpTarget::new(vec![request]));
        assert!(problem(&Plan::new(target, Pacing::users(1))).contains("not an HTTP header"));
    }
}
