//! Everything about a pool that can be chosen: each knob declared once, with its unit and its default.

use std::time::Duration;

use crate::os::process::{available_cpus, cgroup_cpus};

/// How many CPUs this process can use: those it may run on, or fewer if its control groups grant it less time than that.
/// At least 1. A [`Pool`](crate::Pool) has as many workers, unless told otherwise.
///
/// ```
/// assert!(procession::cpu_count() >= 1);
/// ```
pub fn cpu_count() -> usize {
    let granted = cgroup_cpus().map_or(usize::MAX, |cpus| cpus.ceil() as usize);
    available_cpus().min(granted).max(1)
}

/// How a pool's supervisor, and so its workers, come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StartMethod {
    /// A fork of this process: workers see its memory as it was when the pool was made. Best made before other threads are.
    #[default]
    Fork,
    /// A new copy of this program: workers know nothing of this process's memory, and other threads do not matter. Needs
    /// [`init`](crate::init) as the first line of `main`.
    Spawn,
}

/// Where that goes what a pool's tasks write to their standard output and error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Output {
    /// Where the process writes that made the pool.
    #[default]
    Inherit,
    /// Into memory, both in one: the error of a task that fails has what the task had written
    /// ([`Error::output`](crate::Error::output)).
    Capture,
}

/// What is known of one knob, for whoever lists them (a command's help, a page of documentation).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Knob {
    /// Its name.
    pub name: &'static str,
    /// What its value counts.
    pub unit: &'static str,
    /// Its default, in words.
    pub default: &'static str,
}

macro_rules! knobs {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:expr, $unit:literal, $words:literal;)+) => {
        /// All that can be chosen about a pool. Set by the methods of [`PoolBuilder`](crate::PoolBuilder) with the same names.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub struct PoolOptions {
            $($(#[doc = $doc])+ #[doc = ""] #[doc = concat!("Unit: ", $unit, ". Default: ", $words, ".")] pub $name: $type,)+
        }

        impl Default for PoolOptions {
            fn default() -> Self {
                PoolOptions { $($name: $default,)+ }
            }
        }

        impl PoolOptions {
            /// The knobs, in the order of their declaration.
            pub const KNOBS: &'static [Knob] =
                &[$(Knob { name: stringify!($name), unit: $unit, default: $words },)+];
        }
    };
}

knobs! {
    /// How many worker processes the pool has.
    processes: usize = cpu_count(), "processes", "as many as there are usable CPUs";
    /// How the workers come about.
    start_method: StartMethod = StartMethod::Fork, "a start method", "fork";
    /// How many tasks a worker runs before it is replaced by a fresh one; a batch counts as one task.
    tasks_per_worker: Option<u64> = None, "tasks", "no limit";
    /// How long a task (each item of a batch on its own) may run, before its worker is killed and the task fails.
    timeout: Option<Duration> = None, "time", "no limit";
    /// How much memory of its own a worker may have, also in the midst of a task, before it is killed and the task fails.
    /// What it inherited by its fork, and shared memory, do not count.
    memory_limit: Option<u64> = None, "bytes", "no limit";
    /// With how much memory of its own a worker is replaced by a fresh one, after the task that it runs.
    recycle_memory: Option<u64> = None, "bytes", "no limit";
    /// How often a task is tried again whose worker died or was killed for its time or memory.
    retries: u32 = 0, "attempts", "never";
    /// Where that goes what tasks write to their standard output and error.
    output: Output = Output::Inherit, "a destination", "where the process writes that made the pool";
    /// How long the batches are to run that `map` and `imap` make of short tasks.
    batch_time: Duration = Duration::from_micros(400), "time", "0.4 ms";
    /// How many items `imap` and `imap_unordered` read ahead of what was taken from them.
    buffer: usize = 2048, "items", "2048";
    /// How much shared memory the large arguments and results of a `map` or `imap` may fill before it reads no further.
    buffer_bytes: u64 = 1 << 30, "bytes", "1 GiB";
    /// How much shared memory that is out of use is kept for the next large data; memory used before is much faster.
    idle_bytes: u64 = 256 << 20, "bytes", "256 MiB";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_knob_says_its_unit_and_default() {
        assert_eq!(PoolOptions::KNOBS[0].name, "processes");
        assert!(PoolOptions::KNOBS
            .iter()
            .all(|knob| !knob.unit.is_empty() && !knob.default.is_empty()));
        assert_eq!(PoolOptions::default().processes, cpu_count());
    }
}
