//! What the system says about this process's use of the CPU.

use rustix::thread::{sched_getaffinity, CpuSet};
use rustix::time::{clock_gettime, ClockId};
use std::fs;
use std::os::unix::fs::FileExt;

/// CPU time used and time spent waiting for a CPU, in nanoseconds since the process began.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    pub cpu_ns: u64,
    pub cpu_wait_ns: u64,
}

/// Asks again and again through the same open file.
#[derive(Debug)]
pub(super) struct UsageMeter(Option<fs::File>);

impl UsageMeter {
    pub(super) fn new() -> UsageMeter {
        UsageMeter(fs::File::open("/proc/self/schedstat").ok())
    }

    pub(super) fn read(&self) -> Usage {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        Usage {
            cpu_ns: cpu.tv_sec as u64 * 1_000_000_000 + cpu.tv_nsec as u64,
            cpu_wait_ns: self.wait_ns(),
        }
    }

    /// How long this process was ready to run and waited for a CPU; 0 where the system does not tell.
    pub(super) fn wait_ns(&self) -> u64 {
        self.second_figure().unwrap_or(0)
    }

    /// The second figure is the time that the first thread was ready and another one ran.
    fn second_figure(&self) -> Option<u64> {
        let mut buffer = [0; 96];
        let n = self.0.as_ref()?.read_at(&mut buffer, 0).ok()?;
        std::str::from_utf8(&buffer[..n])
            .ok()?
            .split_ascii_whitespace()
            .nth(1)?
            .parse()
            .ok()
    }
}

/// What the cores that this process may use have done since the system began, in the system's ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CoreTicks {
    idle: u64,
    all: u64,
}

impl CoreTicks {
    pub(super) fn now() -> Option<CoreTicks> {
        let cores = sched_getaffinity(None).ok()?;
        CoreTicks::of(&fs::read_to_string("/proc/stat").ok()?, |core| {
            core < CpuSet::MAX_CPU && cores.is_set(core)
        })
    }

    fn of(stat: &str, is_ours: impl Fn(usize) -> bool) -> Option<CoreTicks> {
        let mut sum = CoreTicks { idle: 0, all: 0 };
        for line in stat.lines() {
            let mut words = line.split_ascii_whitespace();
            let core = words
                .next()
                .and_then(|name| name.strip_prefix("cpu")?.parse().ok());
            if !core.is_some_and(&is_ours) {
                continue;
            }
            // User, nice, system, idle, waiting for disks, two kinds of interrupts, stolen. What is nice gives way.
            let ticks: Vec<u64> = words.take(8).map_while(|word| word.parse().ok()).collect();
            if let [_, nice, _, idle, disks, ..] = ticks[..] {
                sum.idle += nice + idle + disks;
                sum.all += ticks.iter().sum::<u64>();
            }
        }
        (sum.all > 0).then_some(sum)
    }

    /// The share of time since then in which there was nothing to do; `None` if that is too short to tell.
    pub(super) fn idle_share_since(self, start: CoreTicks) -> Option<f64> {
        let all = self.all.checked_sub(start.all).filter(|&all| all > 0)?;
        Some(self.idle.saturating_sub(start.idle) as f64 / all as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_is_what_cores_of_ours_have_left_and_what_gives_way() {
        let start =
            "cpu  1 1 1 1 1 1 1 1 0 0\ncpu0 10 20 30 40 5 1 2 2 0 0\ncpu1 9 9 9 9 9 9 9 9 0 0\nintr 7 8\n";
        let end =
            "cpu  1 1 1 1 1 1 1 1 0 0\ncpu0 40 40 50 60 15 1 2 2 0 0\ncpu1 99 9 9 9 9 9 9 9 0 0\nintr 7 8\n";
        let first = |core: usize| core == 0;
        let (start, end) = (
            CoreTicks::of(start, first).unwrap(),
            CoreTicks::of(end, first).unwrap(),
        );
        assert_eq!(start, CoreTicks { idle: 65, all: 110 });
        assert_eq!(end.idle_share_since(start), Some(0.5));
        assert_eq!(start.idle_share_since(start), None);
        assert_eq!(CoreTicks::of("intr 7 8\n", first), None);
        assert!(CoreTicks::now().is_some_and(|now| now.idle <= now.all));
    }
}
