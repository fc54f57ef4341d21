//! From arguments to a plan, with the mistakes that fingers make when they come from another tool.

use std::path::Path;
use std::time::Duration;

use procession_load::plan::{
    Arrivals, Header, HttpRequest, HttpTarget, HttpVersion, Pacing, Payload, Plan, Target, TcpTarget, Think,
    TlsOptions, UdpTarget, Until,
};
use procession_load::quantity::{self, Stages};
use procession_load::Slo;

use super::curl;
use crate::args::load::{ArrivalsArgument, LoadArguments, CONNECTIONS, MOST_IN_FLIGHT};
use crate::args::Place;
use crate::error::CommandError;
use crate::exit_codes;

/// The rate at which the server that is part of this program is tested, when nobody says: enough to see something, and
/// little enough for any machine.
const OWN_SERVER_RATE: f64 = 1000.0;

/// What is to be run.
#[derive(Debug)]
pub enum Intent {
    /// This plan.
    Plan(Box<Plan>),
    /// This plan, whose URL is the server's that is to be started first; its port in the URL is not yet known.
    OwnServer(Box<Plan>),
    /// A Python function as a virtual user.
    Scenario(Box<Scenario>),
}

/// A Python function, and what the command says about it.
#[derive(Debug)]
pub struct Scenario {
    /// Where it is.
    pub place: Place,
    /// Its name there; without one the file's only scenario.
    pub function: Option<String>,
    /// What must hold.
    pub slos: Vec<Slo>,
    /// What random choices begin with.
    pub seed: u64,
}

fn usage(message: impl Into<String>) -> CommandError {
    CommandError::new(exit_codes::USAGE, message)
}

/// What the arguments ask for.
///
/// # Errors
///
/// What is wrong with them, and what was probably meant.
pub fn read(arguments: &LoadArguments) -> Result<Intent, CommandError> {
    let (slos, target) = slos_and_target(arguments)?;
    mistakes(arguments)?;
    let intent = match (&arguments.curl, &target) {
        (Some(command), _) => Intent::Plan(Box::new(plan(arguments, from_curl(arguments, command)?)?)),
        (None, None) => {
            let target = HttpTarget::get("http://127.0.0.1/").map_err(|error| usage(error.to_string()))?;
            let target = Target::Http(with_http_options(arguments, target)?);
            let mut plan = plan(arguments, target)?;
            if !says_pacing(arguments) {
                plan.pacing = Pacing::constant_rate(OWN_SERVER_RATE);
            }
            Intent::OwnServer(Box::new(plan))
        }
        (None, Some(text)) => match scenario_name(text) {
            Some((place, function)) => {
                refuse_options_of_urls(arguments)?;
                let seed = arguments.seed.unwrap_or_else(chance);
                let slos = Vec::new();
                Intent::Scenario(Box::new(Scenario {
                    place,
                    function,
                    slos,
                    seed,
                }))
            }
            None => Intent::Plan(Box::new(plan(arguments, server(arguments, text)?)?)),
        },
    };
    Ok(match intent {
        Intent::Plan(mut plan) => {
            plan.slos = slos;
            plan.check().map_err(|error| plan_error(&error))?;
            Intent::Plan(plan)
        }
        Intent::OwnServer(mut plan) => {
            plan.slos = slos;
            plan.check().map_err(|error| plan_error(&error))?;
            Intent::OwnServer(plan)
        }
        Intent::Scenario(mut scenario) => {
            scenario.slos = slos;
            Intent::Scenario(scenario)
        }
    })
}

/// An error of the load tester's in the words of the command's options.
pub fn plan_error(error: &procession_load::Error) -> CommandError {
    let text = error.to_string();
    if !error.is_plan() {
        return CommandError::new(exit_codes::LOAD_BROKE, text);
    }
    let help = if text.contains("is not this machine") {
        Some("if it is yours, or its owner agrees: --yes-i-own-this-target")
    } else if text.contains("would never end") {
        Some("-z 30s or -n 1000")
    } else {
        None
    };
    let error = usage(text);
    match help {
        Some(help) => error.with_help(help),
        None => error,
    }
}

fn says_pacing(arguments: &LoadArguments) -> bool {
    arguments.connections.is_some()
        || arguments.users.is_some()
        || arguments.rate.is_some()
        || arguments.stages.is_some()
        || arguments.think.is_some()
}

/// The conditions, and the target: `--slo` takes what follows it, the URL behind it included.
fn slos_and_target(arguments: &LoadArguments) -> Result<(Vec<Slo>, Option<String>), CommandError> {
    let mut target = arguments.target.clone();
    let mut slos = Vec::new();
    for text in &arguments.slo {
        if target.is_none()
            && arguments.curl.is_none()
            && (text.contains("://") || scenario_name(text).is_some())
        {
            target = Some(text.clone());
            continue;
        }
        slos.push(text.parse::<Slo>().map_err(|error| {
            let shown = usage(format!("invalid --slo: {error}")).with_details(error.pointer());
            match error.help() {
                Some(help) => shown.with_help(help),
                None => shown,
            }
        })?);
    }
    Ok((slos, target))
}

/// What requests look like is for the function to say; options about it would mislead, as nothing would heed them.
fn refuse_options_of_urls(arguments: &LoadArguments) -> Result<(), CommandError> {
    let said = [
        ("--method", arguments.method.is_some()),
        ("--header", !arguments.header.is_empty()),
        ("--body", arguments.body.is_some()),
        ("--connect-to", arguments.connect_to.is_some()),
        ("--unix-socket", arguments.unix_socket.is_some()),
        ("--streams", arguments.streams.is_some()),
        ("--disable-keepalive", arguments.disable_keepalive),
        ("--cookies", arguments.cookies),
        ("--send", arguments.send.is_some()),
        ("--until", arguments.until.is_some()),
    ];
    match said.into_iter().find(|(_, given)| *given) {
        Some((option, _)) => Err(usage(format!(
            "{option} is for URLs, and the target is a Python function"
        ))
        .with_help("what is sent, the function says itself, as in http.post(url, headers={…}, data=…)")),
        None => Ok(()),
    }
}

/// The file and the function, if this is how a virtual user is named.
fn scenario_name(text: &str) -> Option<(Place, Option<String>)> {
    if text.contains("://") || text.starts_with('@') {
        return None;
    }
    if text.ends_with(".py") {
        return Some((Place::File(text.to_owned()), None));
    }
    let (place, function) = text.rsplit_once(':')?;
    let is_name = |name: &str| {
        !name.is_empty()
            && name.split('.').all(|part| {
                part.starts_with(|c: char| c.is_alphabetic() || c == '_')
                    && part.chars().all(|c| c.is_alphanumeric() || c == '_')
            })
    };
    if place.ends_with(".py") {
        return Some((Place::File(place.to_owned()), Some(function.to_owned())));
    }
    // `shop:buy` could also be a host without its port's digits; hosts have no function behind the colon.
    (is_name(place) && is_name(function))
        .then(|| (Place::Module(place.to_owned()), Some(function.to_owned())))
}

/// What is allowed by each option and yet most likely not meant.
fn mistakes(arguments: &LoadArguments) -> Result<(), CommandError> {
    if let (Some(_), Some(_)) = (arguments.requests, arguments.duration) {
        return Err(
            usage("a run ends by a number of requests (-n) or by time (-z), not by both")
                .with_help("-z 30s alone for half a minute, -n 10k alone for ten thousand requests"),
        );
    }
    if arguments.stages.is_some() && (arguments.duration.is_some() || arguments.requests.is_some()) {
        return Err(usage("stages say themselves how long the run is")
            .with_help("leave out -z and -n; for a steady load at the end add a stage: -s 30s:100,5m:100"));
    }
    if let Some(body) = &arguments.body {
        let looks_like_time = body.ends_with(['s', 'm', 'h']) && quantity::duration(body).is_ok();
        if looks_like_time && arguments.method.is_none() {
            return Err(usage(format!(
                "-d sends {body:?} as the body of each request, and it looks like a duration"
            ))
            .with_help(format!(
                "for the duration, which is -d for wrk and others: -z {body}; to send it: -m POST -d {body}"
            )));
        }
    }
    if arguments.arrivals.is_some()
        && arguments.rate.is_none()
        && !matches!(arguments.stages, Some(Stages::Rate(_)))
    {
        return Err(
            usage("--arrivals says how the requests of a rate are spread, and there is no rate")
                .with_help("add one: --rate 200/s"),
        );
    }
    if let (Some(connections), Some(requests)) =
        (arguments.connections.or(arguments.users), arguments.requests)
    {
        if arguments.rate.is_none() && u64::from(connections) > requests {
            return Err(usage(format!(
                "{connections} connections are more than {requests} requests can use"
            ))
            .with_help(format!("-c {requests}, or a larger -n")));
        }
    }
    Ok(())
}

fn pacing(arguments: &LoadArguments) -> Pacing {
    let many = arguments.connections.or(arguments.users);
    let arrivals = match arguments.arrivals {
        Some(ArrivalsArgument::Poisson) => Arrivals::Poisson,
        Some(ArrivalsArgument::Constant) | None => Arrivals::Constant,
    };
    let think = arguments
        .think
        .map_or_else(Think::default, |(least, most)| Think { least, most });
    let most_in_flight = many.unwrap_or(MOST_IN_FLIGHT);
    match (&arguments.stages, arguments.rate) {
        (Some(Stages::Users(stages)), _) => Pacing::UserStages {
            start: 0,
            stages: stages.clone(),
            think,
        },
        (Some(Stages::Rate(stages)), _) => Pacing::RateStages {
            start: 0.0,
            stages: stages.clone(),
            arrivals,
            most_in_flight,
        },
        (None, Some(per_second)) => Pacing::Rate {
            per_second,
            arrivals,
            most_in_flight,
        },
        (None, None) => {
            let few = arguments.requests.map_or(CONNECTIONS, |requests| {
                CONNECTIONS.min(u32::try_from(requests).unwrap_or(u32::MAX))
            });
            Pacing::Users {
                users: many.unwrap_or(few),
                think,
            }
        }
    }
}

fn plan(arguments: &LoadArguments, target: Target) -> Result<Plan, CommandError> {
    let mut plan = Plan::new(target, pacing(arguments));
    if let Some(processes) = arguments.processes {
        plan.processes = processes as u32;
    }
    plan.iterations = arguments.requests;
    if arguments.requests.is_some() {
        plan.duration = None;
    }
    if arguments.duration.is_some() {
        plan.duration = arguments.duration;
    }
    if let Some(timeout) = arguments.timeout {
        plan.timeout = timeout;
        // Nothing takes longer than its timeout, so waiting longer at the end would be for nothing.
        plan.drain = timeout;
    }
    plan.warmup = arguments.warmup.unwrap_or(Duration::ZERO);
    plan.seed = arguments.seed.unwrap_or_else(chance);
    plan.guards.owns_target = arguments.yes_i_own_this_target;
    Ok(plan)
}

/// A number that is another one each time.
fn chance() -> u64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    // Short enough to be typed again.
    (u64::from(now.subsec_nanos()) ^ now.as_secs() ^ u64::from(std::process::id()) << 8) % 1_000_000
}

fn server(arguments: &LoadArguments, text: &str) -> Result<Target, CommandError> {
    if let Some(path) = text.strip_prefix('@') {
        let requests = url_file(arguments, path)?;
        return Ok(Target::Http(with_http_options(
            arguments,
            HttpTarget::new(requests),
        )?));
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        None => {
            let message = format!("{text:?} has no scheme, so that it is not clear what to speak");
            let help = if Path::new(text).exists() {
                format!("for a Python function: FILE.py:FUNCTION; for a file of URLs: @{text}")
            } else if text.contains('/') || !text.contains(':') {
                format!("http://{text} or https://{text}; for a Python function: FILE.py:FUNCTION")
            } else {
                format!("http://{text}, https://{text}, tcp://{text} or udp://{text}")
            };
            return Err(usage(message).with_help(help));
        }
    };
    match scheme.as_str() {
        "http" | "https" => {
            let request = request(arguments, text)?;
            Ok(Target::Http(with_http_options(
                arguments,
                HttpTarget::new(vec![request]),
            )?))
        }
        "tcp" => Ok(Target::Tcp(TcpTarget {
            address: address(text, rest)?,
            send: payload(arguments.send.as_deref())?,
            until: until(arguments)?.unwrap_or(Until::Sent),
            keep_alive: !arguments.disable_keepalive,
        })),
        "udp" => {
            // What we make up ourselves, an echo server is expected to send back.
            let numbered = arguments.send.is_none();
            let reply = match until(arguments)? {
                None => true,
                Some(Until::Sent) => false,
                Some(_) => {
                    return Err(usage(
                        "a datagram is an answer as it is, so there is nothing that --until could find",
                    )
                    .with_help("leave it out, or write --until none if no answers come"))
                }
            };
            Ok(Target::Udp(UdpTarget {
                address: address(text, rest)?,
                send: payload(arguments.send.as_deref())?,
                reply,
                numbered: numbered && reply,
            }))
        }
        "ws" | "wss" | "grpc" => Err(usage(format!("{scheme} is not spoken yet"))
            .with_help("a Python function with its own client can be the virtual user: FILE.py:FUNCTION")),
        _ => Err(usage(format!("{scheme:?} is not a scheme that is known"))
            .with_help("http, https, tcp and udp are")),
    }
}

fn address(whole: &str, rest: &str) -> Result<String, CommandError> {
    let address = rest.trim_end_matches('/');
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => {
            Ok(address.to_owned())
        }
        _ => Err(usage(format!("{whole:?} has no port")).with_help("write it as tcp://127.0.0.1:9000")),
    }
}

fn headers(arguments: &LoadArguments) -> Result<Vec<Header>, CommandError> {
    arguments.header.iter().map(|text| header(text)).collect()
}

fn header(text: &str) -> Result<Header, CommandError> {
    let (name, value) = text.split_once(':').ok_or_else(|| {
        usage(format!("{text:?} is not a header: there is no colon")).with_help("-H 'Accept: text/html'")
    })?;
    Ok(Header {
        name: name.trim().to_owned(),
        value: value.trim().to_owned(),
    })
}

/// A body as it was given: text, or `@FILE`.
fn body(text: &str) -> Result<Payload, CommandError> {
    match text.strip_prefix('@') {
        Some(path) => std::fs::read(path)
            .map(Payload)
            .map_err(|error| usage(format!("cannot read the body from {path:?}: {error}"))),
        None => Ok(Payload(text.as_bytes().to_vec())),
    }
}

fn request(arguments: &LoadArguments, url: &str) -> Result<HttpRequest, CommandError> {
    let method = match (&arguments.method, &arguments.body) {
        (Some(method), _) => method.as_str(),
        (None, Some(_)) => "POST",
        (None, None) => "GET",
    };
    let mut request = HttpRequest::new(method, url).map_err(|error| usage(error.to_string()))?;
    request.headers = headers(arguments)?;
    if let Some(text) = &arguments.body {
        request.body = body(text)?;
    }
    Ok(request)
}

fn with_http_options(arguments: &LoadArguments, mut target: HttpTarget) -> Result<HttpTarget, CommandError> {
    if let Some(option) = [
        ("--send", arguments.send.is_some()),
        ("--until", arguments.until.is_some()),
    ]
    .iter()
    .find_map(|&(name, given)| given.then_some(name))
    {
        return Err(usage(format!("{option} is for tcp:// and udp:// targets")).with_help("for a body: -d"));
    }
    if arguments.http2 {
        target.version = HttpVersion::Http2;
        target.streams = arguments.streams.unwrap_or(1);
    }
    target.keep_alive = target.keep_alive && !arguments.disable_keepalive;
    target.tls = TlsOptions {
        insecure: arguments.insecure || target.tls.insecure,
        ca_file: arguments.cacert.clone().or(target.tls.ca_file),
        certificate_file: arguments.cert.clone(),
        key_file: arguments.key.clone(),
        server_name: None,
    };
    target.connect_to = arguments.connect_to.clone();
    target.unix_socket = arguments.unix_socket.clone().or(target.unix_socket);
    target.redirects = arguments.redirects.unwrap_or(target.redirects);
    target.cookies = arguments.cookies;
    Ok(target)
}

/// The bytes of a piece of a curl command's body.
fn curl_body(piece: &curl::Data) -> Result<Vec<u8>, CommandError> {
    match piece {
        curl::Data::Text(text) => Ok(text.clone().into_bytes()),
        curl::Data::File { path, is_one_line } => {
            let mut bytes = body(&format!("@{path}"))?.0;
            bytes.retain(|byte| !(*is_one_line && matches!(byte, b'\r' | b'\n' | 0)));
            Ok(bytes)
        }
    }
}

fn from_curl(arguments: &LoadArguments, command: &str) -> Result<Target, CommandError> {
    let found = curl::read(command)
        .map_err(|why| usage(format!("cannot understand the command of --curl: {why}")))?;
    let has_body = arguments.body.is_some() || !found.body.is_empty();
    let method = arguments.method.as_deref().or(found.method.as_deref());
    let method = method.unwrap_or(if has_body { "POST" } else { "GET" });
    let mut request = HttpRequest::new(method, &found.url).map_err(|error| usage(error.to_string()))?;
    for text in &found.headers {
        request.headers.push(header(text)?);
    }
    let own = headers(arguments)?;
    let is_own = |name: &str| own.iter().any(|header| header.name.eq_ignore_ascii_case(name));
    request.headers.retain(|header| !is_own(&header.name));
    request.headers.extend(own);
    match &arguments.body {
        Some(text) => request.body = body(text)?,
        None => {
            for piece in &found.body {
                request.body.0.extend(curl_body(piece)?);
            }
        }
    }
    let mut target = HttpTarget::new(vec![request]);
    target.tls.insecure = found.insecure;
    target.tls.ca_file = found.cacert.map(Into::into);
    target.unix_socket = found.unix_socket.map(Into::into);
    // As many as curl follows.
    target.redirects = if found.follows_redirects { 50 } else { 0 };
    if found.http2 {
        target.version = HttpVersion::Http2;
    }
    with_http_options(arguments, target).map(Target::Http)
}

/// `[WEIGHT] [METHOD] URL`, one a line; `#` begins a comment.
fn url_file(arguments: &LoadArguments, path: &str) -> Result<Vec<HttpRequest>, CommandError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| usage(format!("cannot read {path:?}: {error}")))?;
    let mut requests = Vec::new();
    // Some programs put a mark in front of their text.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why: String| {
            usage(format!("{path}:{}: {why}", number + 1)).with_help("write lines as `[WEIGHT] [METHOD] URL`")
        };
        let mut words: Vec<&str> = line.split_whitespace().collect();
        let mut weight = 1.0;
        if words.len() > 1 {
            if let Ok(number) = words[0].parse::<f64>() {
                weight = number;
                words.remove(0);
            }
        }
        let (method, url) = match words.as_slice() {
            [url] => (None, *url),
            [method, url] => (Some(*method), *url),
            _ => return Err(wrong(format!("{line:?} is not a line of it"))),
        };
        let mut request =
            request(arguments, url).map_err(|error| wrong(error.to_string().replace("error: ", "")))?;
        if let Some(method) = method {
            let named = HttpRequest::new(method, url).map_err(|error| wrong(error.to_string()))?;
            (request.name, request.method) = (named.name, named.method);
        }
        request.weight = weight;
        requests.push(request);
    }
    if requests.is_empty() {
        return Err(usage(format!("{path:?} has no URL")).with_help("write lines as `[WEIGHT] [METHOD] URL`"));
    }
    Ok(requests)
}

fn payload(text: Option<&str>) -> Result<Payload, CommandError> {
    match text {
        None => Ok(Payload::default()),
        Some(text) if text.starts_with('@') => body(text),
        Some(text) => unescaped(text).map(Payload),
    }
}

fn until(arguments: &LoadArguments) -> Result<Option<Until>, CommandError> {
    let Some(text) = &arguments.until else {
        return Ok(None);
    };
    if text == "none" {
        return Ok(Some(Until::Sent));
    }
    if text == "close" {
        return Ok(Some(Until::Close));
    }
    if let Some(count) = text
        .strip_suffix('B')
        .and_then(|digits| digits.parse::<u64>().ok())
    {
        return Ok(Some(Until::Bytes(count)));
    }
    let bytes = unescaped(text)?;
    if bytes.is_empty() {
        return Err(usage("--until has no bytes to wait for")
            .with_help(r"--until '\n', --until 128B or --until close"));
    }
    Ok(Some(Until::Delimiter(Payload(bytes))))
}

/// Bytes as C writes them.
fn unescaped(text: &str) -> Result<Vec<u8>, CommandError> {
    let mut bytes = Vec::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let wrong = |what: &str| {
            usage(format!("{text:?}: {what}"))
                .with_help(r"\n, \r, \t, \0, \\ and \xHH are known, such as \x0a")
        };
        bytes.push(match letters.next() {
            Some('n') => b'\n',
            Some('r') => b'\r',
            Some('t') => b'\t',
            Some('0') => 0,
            Some('\\') => b'\\',
            Some('x') => {
                let digits: String = letters.by_ref().take(2).collect();
                match u8::from_str_radix(&digits, 16) {
                    Ok(byte) if digits.len() == 2 => byte,
                    _ => return Err(wrong(r"\x is not followed by two hexadecimal digits")),
                }
            }
            Some(other) => return Err(wrong(&format!("\\{other} is not known"))),
            None => return Err(wrong("the last backslash has nothing behind it")),
        });
    }
    Ok(bytes)
}
