//! What `procession load` is told.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use procession_load::plan::Pacing;
use procession_load::quantity::{self, Stages};

/// How many connections there are, or how many users, when nobody says.
pub const CONNECTIONS: u32 = 10;

/// What `load` is told. Options that are left out are left to the plan's own defaults, or to what the scenario says.
#[derive(Debug, Args)]
pub struct LoadArguments {
    // The brackets are those of a usage line.
    #[allow(rustdoc::broken_intra_doc_links)]
    /// What to test: a URL, or FILE.py[:FUNCTION]
    ///
    /// `http://` and `https://` URLs, `tcp://HOST:PORT`, `udp://HOST:PORT`, or `@FILE` with one URL a line, each with its
    /// weight before it if it has one (`3 http://127.0.0.1/cart`). A Python function is a virtual user: it is called over
    /// and over. Without it, procession starts a small server on this machine and tests that.
    #[arg(value_name = "URL|FILE.py[:FUNCTION]")]
    pub target: Option<String>,

    /// How many connections
    ///
    /// Each sends its next request when it has its answer (the closed model). With --rate it is how many requests may be
    /// under way at the same time; what is due beyond that waits, and its waiting counts.
    #[arg(short, long, value_name = "N", value_parser = connections, conflicts_with = "users")]
    pub connections: Option<u32>,

    /// How many users
    ///
    /// The same for a Python function: `-u 100` are 100 virtual users, each of which begins anew when it is through.
    #[arg(short, long, value_name = "N", value_parser = connections, alias = "vus")]
    pub users: Option<u32>,

    /// End after this many requests
    ///
    /// Of a Python function: after so many calls of it. `-n 10k` are 10,000.
    #[arg(short = 'n', long, value_name = "N", value_parser = requests, alias = "iterations")]
    pub requests: Option<u64>,

    /// How long new requests begin
    ///
    /// Warm-up included. `-z 30s`, `-z 5m`, `-z 1h30m`. Without it, and without -n and -s, 10 seconds.
    #[arg(short = 'z', long, value_name = "TIME", value_parser = quantity::duration)]
    pub duration: Option<Duration>,

    /// Send at this rate, whatever the server does (the open model)
    ///
    /// Over all connections and processes together: `-q 200/s`, `-q 6k/m`. Response times count from the moment at which
    /// a request was due, so a server that stalls cannot hide it. Use it to learn how long users wait at a known load;
    /// leave it out to learn how much a server can do.
    #[arg(short = 'q', short_alias = 'R', long, value_name = "RATE", value_parser = quantity::rate)]
    pub rate: Option<f64>,

    /// How the requests of --rate are spread
    ///
    /// `constant`: at equal distances. `poisson`: as many independent users would send them, with the bursts and gaps of
    /// real traffic. Without it, constant.
    #[arg(long, value_name = "HOW")]
    pub arrivals: Option<ArrivalsArgument>,

    /// A load that changes, stage by stage
    ///
    /// `-s 30s:100,2m:500` goes within 30 s from 0 to 100 connections or users, then within 2 min to 500;
    /// `-s 30s:100/s,2m:500/s` is the same for a rate. `0s:` is a jump.
    #[arg(short, long, value_name = "TIME:N,…", value_parser = quantity::stages, conflicts_with_all = ["connections", "users", "rate"])]
    pub stages: Option<Stages>,

    /// How long each user waits between two requests
    ///
    /// `--think 1s`, or `--think 1s..3s` for times drawn evenly from that range. Not with --rate, which sets the pace.
    #[arg(long, value_name = "TIME[..TIME]", value_parser = think, conflicts_with = "rate")]
    pub think: Option<(Duration, Duration)>,

    /// How many processes make the load
    ///
    /// They share it exactly. Without it, one for each core, or for every second one if the server is on this machine,
    /// too. More processes are the cure when the run is INVALID because a worker used its core up and there are cores left.
    #[arg(short = 'P', long, value_name = "N", value_parser = super::processes)]
    pub processes: Option<usize>,

    /// How the users of a Python function are kept apart
    ///
    /// `async`: many to a process, for `async` functions and the fastest. `thread`: a thread each, for functions that
    /// wait. `process`: a process each, for libraries that block, use the GIL, or crash: a crash costs one user. Without
    /// it, `async` for async functions and `thread` for others.
    #[arg(long, value_name = "HOW")]
    pub vuser: Option<VuserArgument>,

    /// A request that takes longer fails
    ///
    /// With its unit: `-t 2s`, `-t 500ms`. It counts in the percentiles with the time that had passed. Without it, 10 s.
    #[arg(short, long, value_name = "TIME", value_parser = timeout)]
    pub timeout: Option<Duration>,

    /// Method of the request
    ///
    /// Without it GET, or POST where there is a body.
    #[arg(short, long, value_name = "METHOD", short_alias = 'X')]
    pub method: Option<String>,

    /// Header of the request; may be repeated
    ///
    /// `-H 'Accept: text/html'`.
    #[arg(short = 'H', long, value_name = "NAME: VALUE")]
    pub header: Vec<String>,

    /// Body of the request
    ///
    /// `-d 'a=1'` sends this text, `-d @order.json` what is in the file.
    #[arg(short = 'd', long, value_name = "TEXT|@FILE", alias = "data")]
    pub body: Option<String>,

    /// Take URL, method, headers and body from a curl command
    ///
    /// As browsers copy it: `--curl "curl 'http://127.0.0.1/cart' -H 'X-A: 1'"`. Other options change what it says.
    #[arg(long, value_name = "COMMAND", conflicts_with = "target")]
    pub curl: Option<String>,

    /// What must hold for the run to pass
    ///
    /// `--slo 'p99<500ms' 'errors<1%' 'rate>900/s' 'p99<2s for GET /cart'`. Figures: p50 to p99.99, median, mean, max
    /// (response times; `service p99` counts from the sending), errors (a share or a number), rate (of good requests).
    /// If one is broken, the verdict is FAIL and the exit code 99.
    #[arg(long, value_name = "CONDITION", num_args = 1..)]
    pub slo: Vec<String>,

    /// Leave out what is sent in this time at the beginning
    ///
    /// Caches and connections that warm up would be in the figures otherwise: `--warmup 5s`.
    #[arg(long, value_name = "TIME", value_parser = quantity::duration)]
    pub warmup: Option<Duration>,

    /// Write the result to this file; may be repeated
    ///
    /// Its suffix says how: .json (everything), .html (a report that works offline), .csv (a row a second), .xml
    /// (JUnit, for build servers), .prom (Prometheus metrics). The files are made before the run, so that a mistake in a name
    /// shows at once.
    #[arg(short, long, value_name = "FILE")]
    pub output: Vec<PathBuf>,

    /// Show a line each second instead of the live view
    ///
    /// That is also what there is where standard error is not a terminal.
    #[arg(long)]
    pub no_tui: bool,

    /// Show neither the live view nor lines, only the summary
    #[arg(long)]
    pub quiet: bool,

    /// What random choices begin with
    ///
    /// The same seed gives the same Poisson arrivals, weights and think times, to repeat a run. Without it, another one
    /// each time; the result says which.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Take any TLS certificate
    #[arg(short = 'k', long)]
    pub insecure: bool,

    /// Trust the certificates in this file (PEM) instead of the system's
    #[arg(long, value_name = "FILE")]
    pub cacert: Option<PathBuf>,

    /// Our own certificate (PEM), for servers that ask for one
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,

    /// The key of --cert (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,

    /// Connect here, whatever the URL says
    ///
    /// Use it to test one server behind a load balancer: `--connect-to 127.0.0.1:8443`.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "unix_socket")]
    pub connect_to: Option<String>,

    /// Connect to this Unix socket, whatever the URL says
    #[arg(long, value_name = "PATH")]
    pub unix_socket: Option<PathBuf>,

    /// Speak HTTP/2
    ///
    /// Over TLS it is agreed upon, else taken for granted. With a Python function each user has a connection of its own to
    /// each server, which all its requests there share.
    #[arg(long)]
    pub http2: bool,

    /// With --http2: how many requests at once on each connection
    #[arg(long, value_name = "N", value_parser = connections, requires = "http2")]
    pub streams: Option<u32>,

    /// Make a new connection for each request
    #[arg(long)]
    pub disable_keepalive: bool,

    /// Follow up to this many redirects
    ///
    /// Without it none: what is timed is the answer of the URL itself. With it, it is the last answer, timed from the first
    /// request. The requests of a Python function that do not say redirects= themselves keep to it, too.
    #[arg(long, value_name = "N")]
    pub redirects: Option<u32>,

    /// Each connection keeps the cookies it is given
    #[arg(long)]
    pub cookies: bool,

    /// What to send to tcp:// and udp:// targets
    ///
    /// `\n`, `\r`, `\t`, `\0`, `\\` and `\xHH` mean what they mean in C; `@FILE` sends what is in the file. Without it tcp
    /// targets are only connected to.
    #[arg(long, value_name = "BYTES|@FILE")]
    pub send: Option<String>,

    /// When the answer to --send is complete
    ///
    /// `--until '\n'`: after these bytes; `--until 128B`: after so many; `--until close`: when the server closes;
    /// `--until none`: there is no answer. Without it tcp:// targets are not waited for, and of udp:// targets one
    /// datagram is.
    #[arg(long, value_name = "BYTES|NB|close|none", requires = "send")]
    pub until: Option<String>,

    /// The target is yours, or its owner agrees
    ///
    /// Needed for targets that are not this machine, above 50 requests per second or 10 connections: a slip of the finger
    /// could be somebody's outage.
    #[arg(long)]
    pub yes_i_own_this_target: bool,

    /// Show the result of an earlier run (its .json file) instead of making one
    ///
    /// With -o it is written in other forms: `--show run.json -o run.html`.
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["target", "curl"])]
    pub show: Option<PathBuf>,

    /// The Python that runs the function
    ///
    /// As for `procession map`.
    #[arg(long, value_name = "PATH")]
    pub python: Option<OsString>,
}

/// How the requests of a rate are spread over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ArrivalsArgument {
    /// At equal distances
    Constant,
    /// As independent users send them
    Poisson,
}

/// How the users of a Python function are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VuserArgument {
    /// Many to a process
    Async,
    /// A thread each
    Thread,
    /// A process each
    Process,
}

impl ArrivalsArgument {
    /// As Python calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Poisson => "poisson",
        }
    }
}

impl VuserArgument {
    /// As Python calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Async => "async",
            Self::Thread => "thread",
            Self::Process => "process",
        }
    }
}

/// The most requests under way at a rate, when nobody says.
pub const MOST_IN_FLIGHT: u32 = Pacing::DEFAULT_MOST_IN_FLIGHT;

fn connections(text: &str) -> Result<u32, String> {
    if text.contains("://") {
        return Err("expected a number before the URL, such as 50".to_owned());
    }
    match quantity::count(text).map(u32::try_from) {
        Ok(Ok(count)) if count > 0 => Ok(count),
        Ok(_) => Err("expected a whole number from 1 to 1,000,000".to_owned()),
        Err(_) => Err("expected a whole number, such as 50".to_owned()),
    }
}

fn requests(text: &str) -> Result<u64, String> {
    match quantity::count(text)? {
        0 => Err("expected at least 1".to_owned()),
        count => Ok(count),
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    if text.parse::<f64>().is_ok() {
        // `-t 12` are threads for wrk, seconds for ab and others: whatever is taken, somebody is surprised.
        return Err(format!(
            "a timeout needs its unit: -t {text}s. If {text} threads were meant, as for wrk: -P {text} are processes, \
             which do that here"
        ));
    }
    let timeout = quantity::duration(text)?;
    if timeout.is_zero() {
        return Err("expected a time above 0".to_owned());
    }
    Ok(timeout)
}

fn think(text: &str) -> Result<(Duration, Duration), String> {
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    let (least, most) = (quantity::duration(least)?, quantity::duration(most)?);
    if least > most {
        return Err("expected the shorter time first, such as 1s..3s".to_owned());
    }
    Ok((least, most))
}
