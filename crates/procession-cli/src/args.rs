//! Every argument of the command, declared once: name, unit, default and help.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use procession::watch::PoolSnapshot;

pub mod load;

use crate::exit_codes;
use load::LoadArguments;

/// As many workers as one pool has room for; more processes than this are a slip of the finger anyway.
pub const MAX_PROCESSES: usize = 2040;
/// How many failures the summary of `map` lists.
pub const SHOW_FAILURES: usize = 10;
/// How often `bench` measures each number of processes.
pub const ROUNDS: usize = 3;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "procession",
    bin_name = "procession",
    version,
    about = "Runs your Python function in many processes: fast, and it cannot hang",
    long_about = "Runs your Python function in many processes: fast, and it cannot hang.\n\n\
        A task that kills its process, or runs too long, costs that one item; all others are done.",
    help_expected = true,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Example:\n  procession map count.py:words --glob 'texts/**/*.txt'"
)]
pub struct CommandLine {
    /// The interpreter that runs when neither --python nor the environment names one.
    ///
    /// The Python package's own command passes the interpreter it was started by.
    #[arg(long, hide = true, value_name = "PATH")]
    pub default_python: Option<OsString>,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a Python function over arguments, lines of standard input, or files
    ///
    /// Results go to standard output, one line each: a string as it is, anything else as JSON (or as Python's repr()
    /// where JSON cannot say it); None prints no line. Whatever the function itself prints goes to standard error,
    /// as do the progress bar and the summary. Values that a generator function yields are gathered into a list; an
    /// async function is run to its end.
    ///
    /// When all items are read, standard error gets a summary: how many were done, failed, died or timed out, how long
    /// it took, and how much faster that was than the sum of the task times.
    #[command(after_help = MAP_EXAMPLES, after_long_help = format!("{MAP_EXAMPLES}\n\n{}", exit_codes::TABLE))]
    Map(Box<MapArguments>),

    /// Measure one process against pools of 1…N for your function
    ///
    /// Each measurement runs all inputs in a fresh Python: once in a plain loop without a pool, then with pools of the
    /// numbers of processes asked for. Making the pool counts, importing your module does not. Standard output gets a
    /// table, a plot, and what follows from them. All inputs are read first and kept in memory.
    #[command(after_help = BENCH_EXAMPLES, after_long_help = format!("{BENCH_EXAMPLES}\n\n{}", exit_codes::TABLE))]
    Bench(Box<BenchArguments>),

    /// Watch every running pool of yours, live
    ///
    /// All pools of this user on this machine, in whatever program: what each worker does, for how long, how much it has
    /// done, failed and used. Keys sort, show where a worker is stuck, suspend and resume it, or kill it with its task; `?`
    /// lists them. The pools do not notice that they are watched. Where standard output is no terminal, one table is
    /// printed, as by `ps`.
    #[command(after_help = TOP_EXAMPLES)]
    Top(TopArguments),

    /// List every running pool of yours, once
    ///
    /// All pools of this user on this machine, in whatever program, as a table or as JSON. Rates and CPU shares are means
    /// since the pool or the worker began.
    #[command(after_help = PS_EXAMPLES)]
    Ps(PsArguments),

    /// Load a server or a function of yours, and say whether the figures can be trusted
    ///
    /// Standard output gets a summary that begins with the verdict: PASS, FAIL (an SLO was broken) or INVALID (the figures
    /// say more about this machine than about the target), with the reason and the cure. While it runs, there is a live
    /// view on a terminal, and a line each second on standard error elsewhere. Ctrl-C ends the run, and what was measured
    /// until then is reported; a second one quits at once.
    #[command(after_help = LOAD_EXAMPLES, after_long_help = format!("{LOAD_EXAMPLES}\n\n{}", exit_codes::LOAD_TABLE))]
    Load(Box<LoadArguments>),
}

const LOAD_EXAMPLES: &str = "\
Examples:
  procession load
  procession load http://127.0.0.1:8080/ -c 64 -z 30s
  procession load http://127.0.0.1:8080/cart -q 500/s --slo 'p99<200ms' 'errors<0.1%' -o report.html
  procession load shop.py:buy -u 100 -s 30s:100,2m:100";

const MAP_EXAMPLES: &str = "\
Examples:
  procession map count.py:words a.txt b.txt
  procession map count.py:words --glob 'texts/**/*.txt' --output counts.txt
  zcat urls.gz | procession map check.py:status - --processes 32 --timeout 10 --jsonl > report.jsonl";

const BENCH_EXAMPLES: &str = "\
Examples:
  procession bench prime.py:is_prime --range 100000
  procession bench resize.py:thumbnail --glob 'photos/*.jpg' --processes 1,2,4 --export-svg speed.svg";

const TOP_EXAMPLES: &str = "\
Examples:
  procession top
  procession top --interval 0.2 --sort age";

const PS_EXAMPLES: &str = "\
Examples:
  procession ps
  procession ps --json | jq '.pools[].workers[] | select(.task.age_seconds > 60) | .pid'";

/// What `top` is told.
#[derive(Debug, Args)]
pub struct TopArguments {
    /// How often the screen is drawn anew
    ///
    /// In seconds, at least 0.05. Use a short one to see short tasks come and go: `--interval 0.2`.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
    pub interval: f64,

    /// What workers are sorted by at first
    ///
    /// The key `s` goes on to the next. Use it to have the longest tasks, or the largest workers, on top: `--sort age`.
    #[arg(short, long, value_name = "COLUMN", default_value_t = SortBy::Name)]
    pub sort: SortBy,

    /// Whose pools are shown
    #[command(flatten)]
    pub whose: WhoseArguments,
}

/// Which of the user's pools are meant.
#[derive(Debug, Args)]
pub struct WhoseArguments {
    /// Show only pools that this process has made
    ///
    /// May be given several times. Without it every running pool of yours is shown. Use it where many programs with pools run:
    /// `--pid 4711`.
    #[arg(short, long = "pid", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub pids: Vec<u32>,
}

impl WhoseArguments {
    /// Those of these pools that are meant.
    pub fn choose(&self, mut pools: Vec<PoolSnapshot>) -> Vec<PoolSnapshot> {
        pools.retain(|pool| self.pids.is_empty() || self.pids.contains(&pool.pid));
        pools
    }
}

/// What `ps` is told.
#[derive(Debug, Args)]
pub struct PsArguments {
    /// Write one JSON object instead of a table
    ///
    /// Its `pools` are a list. Use it when another program reads it. Fields may be added in later versions; those that are
    /// there stay.
    #[arg(long)]
    pub json: bool,

    /// Whose pools are listed
    #[command(flatten)]
    pub whose: WhoseArguments,
}

/// What workers may be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SortBy {
    /// The number in their name
    Name,
    /// How long they have had their task
    Age,
    /// How much of a CPU they use
    Cpu,
    /// How much memory they have
    Memory,
    /// How much they have done
    Done,
    /// How much has failed
    Failed,
}

impl SortBy {
    /// All of them, in the order in which a key goes through them.
    pub const ALL: [SortBy; 6] = [
        Self::Name,
        Self::Age,
        Self::Cpu,
        Self::Memory,
        Self::Done,
        Self::Failed,
    ];

    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Age => "age",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

impl std::fmt::Display for SortBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What becomes of what the function prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TaskOutput {
    /// It goes to standard error, as it comes
    Inherit,
    /// To standard error in whole lines, each labelled with its process
    Lines,
    /// Kept for the item's JSON line
    Capture,
}

impl TaskOutput {
    /// As it is typed, and as the host is told.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inherit => "inherit",
            Self::Lines => "lines",
            Self::Capture => "capture",
        }
    }
}

impl std::fmt::Display for TaskOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What `map` is told.
#[derive(Debug, Args)]
pub struct MapArguments {
    /// What to run, on what.
    #[command(flatten)]
    pub work: WorkArguments,

    /// How many processes run the function
    ///
    /// Without it, as many as this process may use cores. Give more when the function waits (for the network, a disk, a server) more than it computes:
    /// `--processes 32` keeps 32 requests under way.
    #[arg(short, long, value_name = "N", value_parser = processes)]
    pub processes: Option<usize>,

    /// Kill a task that runs longer than this
    ///
    /// In seconds; fractions are allowed. Use it when an input may send the function into an endless loop or to a dead
    /// server: the process of that one task is killed and replaced, the item is reported as timed out, and all others
    /// go on. `--timeout 2.5` allows two and a half seconds for each item. Without it a task may run as long as it
    /// likes.
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<f64>,

    /// Kill a task that takes more memory than this
    ///
    /// In bytes, or with K, M or G: `--memory-limit 500M`. Use it when an input may need more memory than the machine has: the process
    /// of that one task is killed and replaced, the item is reported as died, and all others go on. What counts is
    /// memory that the process has taken itself.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub memory_limit: Option<u64>,

    /// What becomes of what the function prints
    ///
    /// `inherit`: it goes to standard error, as it comes. `lines`: the same in whole lines, each labelled with its process.
    /// `capture`: each item's own is kept, also what C code and started programs write, and stands in its JSON line as
    /// `output`: `--task-output capture --jsonl`. Use `lines` to follow several processes, `capture` to find out
    /// later what a failed item had said.
    #[arg(long, value_name = "WHERE", default_value_t = TaskOutput::Inherit)]
    pub task_output: TaskOutput,

    /// Try an item again when it failed, died or timed out
    ///
    /// Up to this many times, at once or after `--retry-delay`. Use it for work that fails by chance, such as requests: `--retries 2` gives each
    /// item three attempts.
    #[arg(short, long, value_name = "N", default_value_t = 0, value_parser = retries)]
    pub retries: u32,

    /// Wait so long before an item is tried again
    ///
    /// In seconds; twice as long before each further attempt, up to a minute. Use it when what failed needs time to recover:
    /// `--retries 5 --retry-delay 0.5`. Other items are worked on meanwhile.
    #[arg(long, value_name = "SECONDS", value_parser = retry_delay)]
    pub retry_delay: Option<f64>,

    /// Write results in the order of the inputs
    ///
    /// Without it they are written as they come. Use it when line N of the output must belong
    /// to line N of the input, or two runs are to be compared. Results that come early are held back, within bounds.
    #[arg(long)]
    pub ordered: bool,

    /// Write one JSON object per item, failures too
    ///
    /// One per line (JSON Lines). Use it when another program reads the results. Fields: index (from 0), input, status (ok, error, died, timed_out, bad_input), result or
    /// error {type, message, traceback…}, seconds, pid, attempts. `output` is there with `--task-output capture` where anything was printed, `result_is_repr` is there and true when the result
    /// is Python's repr(), because JSON cannot say it.
    #[arg(long)]
    pub jsonl: bool,

    /// Write results to this file
    ///
    /// Instead of standard output. The file is opened before the run starts, so that a
    /// mistake in its name shows at once, and emptied when the function is loaded: `--output counts.txt`.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Go on with an interrupted run, whose results are in this file
    ///
    /// Give the same inputs as then. Items that the file says were done are not run again; all others are, and
    /// their results are added to it, one JSON object per item as with `--jsonl`. Without the file everything is run, so the same command can be
    /// repeated until all is done: `--resume report.jsonl`.
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    pub resume: Option<PathBuf>,

    /// How many failures the summary lists
    ///
    /// Each with its input and error; `--show-failures 0` lists none. `--jsonl` writes every one with its traceback.
    #[arg(long, value_name = "N", default_value_t = SHOW_FAILURES, value_parser = whole_number::<usize>)]
    pub show_failures: usize,

    /// Show no progress bar
    ///
    /// It is shown only where standard error is a terminal anyway; the environment variable NO_COLOR takes the colours
    /// away. Use it when a terminal is being recorded, for example.
    #[arg(long)]
    pub no_progress: bool,

    /// Show neither progress bar nor summary
    ///
    /// Only errors that end the run are shown. Use it in scripts, which have the exit code.
    #[arg(short, long)]
    pub quiet: bool,
}

/// What `bench` is told.
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// What to run, on what.
    #[command(flatten)]
    pub work: WorkArguments,

    /// Give the function the numbers 0…N-1
    ///
    /// As `for i in range(N)` would. Use it for functions that take a number, or to have many equal items:
    /// `--range 1000`.
    #[arg(long, value_name = "N", conflicts_with_all = ["inputs", "glob", "json", "star"], value_parser = whole_number::<u64>)]
    pub range: Option<u64>,

    /// The numbers of processes to measure
    ///
    /// With commas: `--processes 1,2,4`. Without it 1…N for the N cores this process may use; from 8 on only doublings,
    /// and N itself.
    #[arg(short, long, value_name = "N,N…", value_delimiter = ',', value_parser = processes)]
    pub processes: Vec<usize>,

    /// How often each is measured
    ///
    /// The table shows the median. More rounds make the figures steadier on a busy machine, `--rounds 1` is quick.
    #[arg(long, value_name = "N", default_value_t = ROUNDS, value_parser = rounds)]
    pub rounds: usize,

    /// Also write the figures as JSON
    ///
    /// Every figure of every round. Use it to keep them, or to compare two versions of your function:
    /// `--export-json before.json`.
    #[arg(long, value_name = "FILE")]
    pub export_json: Option<PathBuf>,

    /// Also draw a chart as SVG
    ///
    /// It shows the speed-up over the number of processes, for a report or a web page: `--export-svg speed.svg`.
    #[arg(long, value_name = "FILE")]
    pub export_svg: Option<PathBuf>,

    /// Show no progress on standard error
    ///
    /// It is shown only while measuring, and only where standard error is a terminal. Use it in scripts.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Which function runs, on which inputs, in which Python: common to `map` and `bench`.
#[derive(Debug, Args)]
pub struct WorkArguments {
    /// The function: FILE.py:FUNCTION or module:function
    ///
    /// A module is one that Python can import from here. `count.py:words` is the function words in the file count.py; `shop.orders:Order.total` a method of a class in a
    /// package.
    #[arg(value_name = "FILE.py:FUNCTION")]
    pub function: FunctionPath,

    /// The inputs; - reads lines of standard input
    ///
    /// Each is given to the function as one string. A single - reads them from standard input, one a line, no faster
    /// than they are worked on, so that it may be endless. Put -- before inputs that start with a dash.
    #[arg(value_name = "INPUTS", allow_negative_numbers = true)]
    pub inputs: Vec<OsString>,

    /// Give the function the files that match
    ///
    /// It gets the path of each, in alphabetical order; may be repeated. `*` and `?` match within a name, `**` any number of folders, `[a-z]` one of these characters; hidden files only
    /// when the pattern starts a name with a dot. Quote it, so that the shell leaves it alone: `--glob 'src/**/*.py'`.
    #[arg(short, long, value_name = "PATTERN")]
    pub glob: Vec<String>,

    /// Parse each input as JSON
    ///
    /// Use it when the function needs numbers, lists or objects instead of strings: `procession map f.py:square --json 1 2 3`. Blank lines of standard input are skipped.
    #[arg(long)]
    pub json: bool,

    /// With --json: each input is a list of arguments
    ///
    /// Use it when the function takes several arguments: `procession map f.py:power --json --star '[2, 10]'`
    /// calls power(2, 10).
    #[arg(long, requires = "json")]
    pub star: bool,

    /// How the processes are started
    ///
    /// `fork` is quick and shares what your module loaded on import; `spawn` starts a
    /// clean Python for each process, which libraries with threads may need; `forkserver` forks them from one clean
    /// server. Without it, what your Python's multiprocessing uses.
    #[arg(long, value_name = "METHOD")]
    pub start_method: Option<StartMethod>,

    /// The Python to run
    ///
    /// procession must be installed there. Without it: the one this command was installed into by pip; else
    /// $VIRTUAL_ENV/bin/python; else python3. Use it for a function that needs packages which another Python has:
    /// `--python .venv/bin/python`.
    #[arg(long, value_name = "PATH")]
    pub python: Option<OsString>,
}

/// How worker processes come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StartMethod {
    /// Copy the running process
    Fork,
    /// Start a clean interpreter for each process
    Spawn,
    /// Fork from one clean server
    Forkserver,
}

impl StartMethod {
    /// Python's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::Spawn => "spawn",
            Self::Forkserver => "forkserver",
        }
    }
}

/// Where the function is defined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A source file.
    File(String),
    /// A module that Python can import.
    Module(String),
}

/// A function named as FILE.py:FUNCTION or module:function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionPath {
    /// Where it is defined.
    pub place: Place,
    /// Its name there, dotted for attributes of a class or an object.
    pub function: String,
}

impl FromStr for FunctionPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected FILE.py:FUNCTION or module:function, for example count.py:words";
        let (place, function) = text
            .rsplit_once(':')
            .ok_or_else(|| format!("no function named; {EXPECTED}"))?;
        if place.is_empty() {
            return Err(format!("no file or module before the colon; {EXPECTED}"));
        }
        if function.is_empty() || function.ends_with(".py") || function.contains('/') {
            return Err(format!("no function after the colon; {EXPECTED}"));
        }
        let place = if place.ends_with(".py") || place.contains('/') {
            Place::File(place.to_owned())
        } else {
            Place::Module(place.to_owned())
        };
        Ok(Self {
            place,
            function: function.to_owned(),
        })
    }
}

impl std::fmt::Display for FunctionPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Place::File(place) | Place::Module(place)) = &self.place;
        write!(f, "{place}:{}", self.function)
    }
}

fn processes(text: &str) -> Result<usize, String> {
    match text.trim().parse::<i128>() {
        Ok(count) if (1..=MAX_PROCESSES as i128).contains(&count) => Ok(count as usize),
        Ok(0) => Err("at least 1 process is needed to do the work".to_owned()),
        Ok(_) => Err(format!("expected a whole number from 1 to {MAX_PROCESSES}")),
        Err(_) => Err(format!(
            "expected a whole number from 1 to {MAX_PROCESSES}, such as 4"
        )),
    }
}

fn whole_number<N: FromStr>(text: &str) -> Result<N, String> {
    text.parse()
        .map_err(|_| "expected a whole number of at least 0, such as 1000".to_owned())
}

fn retries(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| format!("expected a whole number from 0 to {}", u32::MAX))
}

fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || "expected a number of bytes, such as 500M or 2G".to_owned();
    let text = text.trim().trim_end_matches(['b', 'B']).trim_end_matches('i');
    let (number, shift) = match text.char_indices().last() {
        Some((at, unit)) if unit.is_ascii_alphabetic() => {
            let shift = "KMGT".find(unit.to_ascii_uppercase()).ok_or_else(wrong)?;
            (&text[..at], 10 * (shift + 1))
        }
        _ => (text, 0),
    };
    let amount = number.trim().parse::<f64>().map_err(|_| wrong())? * (1_u64 << shift) as f64;
    if (1.0..9e18).contains(&amount) {
        Ok(amount as u64)
    } else {
        Err(wrong())
    }
}

fn rounds(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(count) if count >= 1 => Ok(count),
        _ => Err("expected a whole number of at least 1".to_owned()),
    }
}

fn interval(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.05..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected a number of seconds from 0.05 to 3600, without a unit".to_owned()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds > 0.0 => Ok(seconds),
        Ok(_) => Err("expected a number of seconds above 0; leave the option out for no limit".to_owned()),
        Err(_) => Err("expected a number of seconds without a unit, such as 2.5".to_owned()),
    }
}

/// A point in time must be left at which the item is tried again.
fn retry_delay(text: &str) -> Result<f64, String> {
    const MOST_SECONDS: f64 = 1e9;
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= MOST_SECONDS => Ok(seconds),
        Ok(_) => Err(format!(
            "expected a number of seconds above 0 and up to {MOST_SECONDS}; leave the option out for no delay"
        )),
        Err(_) => seconds(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(arguments: &[&str]) -> Result<CommandLine, clap::Error> {
        CommandLine::try_parse_from(std::iter::once("procession").chain(arguments.iter().copied()))
    }

    fn map(arguments: &[&str]) -> MapArguments {
        match parse(&[&["map"], arguments].concat()).unwrap().command {
            Command::Map(arguments) => *arguments,
            _ => unreachable!(),
        }
    }

    #[test]
    fn every_option_has_help_and_the_declarations_agree() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn a_path_or_a_py_ending_names_a_file_and_anything_else_a_module() {
        let path = |text: &str| text.parse::<FunctionPath>().unwrap();
        assert_eq!(path("count.py:words").place, Place::File("count.py".into()));
        assert_eq!(path("./count:words").place, Place::File("./count".into()));
        assert_eq!(path("a:b.py:words").place, Place::File("a:b.py".into()));
        assert_eq!(
            path("shop.orders:Order.total").place,
            Place::Module("shop.orders".into())
        );
        assert_eq!(path("shop.orders:Order.total").function, "Order.total");
    }

    #[test]
    fn a_function_path_without_a_function_is_refused() {
        for text in ["count.py", ":words", "count.py:", "words:count.py", "a:b/c"] {
            let error = text.parse::<FunctionPath>().unwrap_err();
            assert!(error.contains("expected FILE.py:FUNCTION"), "{text}: {error}");
        }
    }

    #[test]
    fn zero_negative_and_absurd_process_counts_are_refused() {
        for count in ["0", "-1", "2041", "99999999999999999999999", "many", "1.5", ""] {
            assert!(
                parse(&["map", "f.py:f", "x", &format!("--processes={count}")]).is_err(),
                "{count}"
            );
        }
        assert_eq!(map(&["f.py:f", "-p", "2040", "x"]).processes, Some(MAX_PROCESSES));
    }

    #[test]
    fn memory_is_told_in_bytes_or_with_a_unit() {
        for (text, expected) in [
            ("1", 1),
            ("4096", 4096),
            ("500M", 500 << 20),
            ("1.5GiB", 3 << 29),
            ("2k", 2048),
            ("7 kB", 7168),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "-1", "M", "1X", "nan", "1e30G", "B"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_timeout_must_be_a_finite_positive_number() {
        for timeout in ["0", "-1", "nan", "inf", "2s", ""] {
            assert!(
                parse(&["map", "f.py:f", "x", &format!("--timeout={timeout}")]).is_err(),
                "{timeout}"
            );
        }
        assert_eq!(map(&["f.py:f", "-t", "0.5", "x"]).timeout, Some(0.5));
    }

    #[test]
    fn a_retry_delay_must_end_some_day() {
        for delay in ["0", "-1", "nan", "inf", "2s", "", "1e10", "1e300"] {
            let error = parse(&["map", "f.py:f", "x", &format!("--retry-delay={delay}")]).unwrap_err();
            assert!(
                error.to_string().contains("expected a number of seconds"),
                "{error}"
            );
        }
        assert_eq!(
            map(&["f.py:f", "--retry-delay", "0.5", "x"]).retry_delay,
            Some(0.5)
        );
    }

    #[test]
    fn numbers_that_are_none_are_told_what_was_expected() {
        for wrong in [
            "--retries=-1",
            "--retries=4294967296",
            "--show-failures=-1",
            "--show-failures=all",
        ] {
            let error = parse(&["map", "f.py:f", "x", wrong]).unwrap_err().to_string();
            assert!(error.contains("expected a whole number"), "{wrong}: {error}");
        }
        for wrong in ["--range=1e6", "--range=-1", "--rounds=0", "--rounds=many"] {
            let error = parse(&["bench", "f.py:f", wrong]).unwrap_err().to_string();
            assert!(error.contains("expected a whole number"), "{wrong}: {error}");
        }
    }

    #[test]
    fn options_may_follow_inputs_and_negative_numbers_are_inputs() {
        let arguments = map(&["f.py:f", "-1", "a", "--ordered", "b"]);
        assert_eq!(arguments.work.inputs, ["-1", "a", "b"]);
        assert!(arguments.ordered);
        assert_eq!(map(&["f.py:f", "-"]).work.inputs, ["-"]);
        assert_eq!(map(&["f.py:f", "--", "--ordered"]).work.inputs, ["--ordered"]);
    }

    #[test]
    fn star_needs_json() {
        assert!(parse(&["map", "f.py:f", "x", "--star"]).is_err());
        assert!(map(&["f.py:f", "[1]", "--json", "--star"]).work.star);
    }

    #[test]
    fn bench_takes_a_list_of_process_counts() {
        let Command::Bench(arguments) = parse(&["bench", "f.py:f", "--range", "9", "-p", "1,2,4"])
            .unwrap()
            .command
        else {
            unreachable!()
        };
        assert_eq!(arguments.processes, [1, 2, 4]);
        assert_eq!(arguments.range, Some(9));
        assert!(parse(&["bench", "f.py:f", "--range", "9", "-p", "1,0"]).is_err());
        assert!(parse(&["bench", "f.py:f", "--range", "9", "x"]).is_err());
    }
}
