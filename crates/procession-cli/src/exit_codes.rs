//! The numbers the command ends with. They are promised: scripts may rely on them.

/// Every item was done.
pub const DONE: i32 = 0;
/// The run went to its end, but some items failed, died, timed out or could not be read.
pub const SOME_ITEMS_FAILED: i32 = 1;
/// The command line was not understood.
pub const USAGE: i32 = 2;
/// The run could not start: no such file or function, the module raised on import, no usable Python, the output file
/// cannot be written, the pool could not be made.
pub const COULD_NOT_START: i32 = 3;
/// The run broke off half-way: the Python host process ended, or results could not be written any more.
pub const BROKE_OFF: i32 = 4;
/// Standard output was closed by its reader (`| head`): 128 + SIGPIPE, as the shell reports it.
pub const OUTPUT_CLOSED: i32 = 141;

/// A load test could not start or broke off: the system refused something, or a worker could not go on.
pub const LOAD_BROKE: i32 = 1;
/// A load test's figures may be believed, and an SLO was broken.
pub const SLO_BROKEN: i32 = 99;
/// A load test's figures may not be believed.
pub const LOAD_INVALID: i32 = 98;

/// The code for a run that a signal ended: 128 + its number, so 130 for Ctrl-C.
pub const fn interrupted_by(signal_number: i32) -> i32 {
    128 + signal_number
}

/// The table printed at the end of `procession help map` and `procession help bench`.
pub const TABLE: &str = "\
Exit codes:
  0    every item was done
  1    some items failed, died, timed out or could not be read
  2    the command line was not understood
  3    could not start: missing file or function, import error, no usable Python, unwritable output
  4    broke off half-way: the Python host process ended, or results could not be written any more
  130  interrupted by Ctrl-C (128 + signal number for other signals)
  141  standard output was closed by its reader, as in `| head`";

/// The table printed at the end of `procession help load`.
pub const LOAD_TABLE: &str = "\
Exit codes:
  0    PASS: the figures can be trusted, and all SLOs were kept
  99   FAIL: the figures can be trusted, and an SLO was broken
  98   INVALID: the figures say more about this machine than about the target
  2    the command line was not understood, or asks for what is refused
  1    could not start, or broke off half-way
  130  interrupted by Ctrl-C (128 + signal number for other signals), after the summary
  141  standard output was closed by its reader, as in `| head`";
