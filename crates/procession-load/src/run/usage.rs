//! What the system says about this process's use of the CPU.

use rustix::time::{clock_gettime, ClockId};
use std::fs;
use std::io::{Read, Seek};

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

    pub(super) fn read(&mut self) -> Usage {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        Usage {
            cpu_ns: cpu.tv_sec as u64 * 1_000_000_000 + cpu.tv_nsec as u64,
            cpu_wait_ns: self.wait_ns().unwrap_or(0),
        }
    }

    /// The second figure is the time that the (only) thread was ready and another one ran.
    fn wait_ns(&mut self) -> Option<u64> {
        let file = self.0.as_mut()?;
        let mut buffer = [0; 96];
        file.rewind().ok()?;
        let n = file.read(&mut buffer).ok()?;
        std::str::from_utf8(&buffer[..n])
            .ok()?
            .split_ascii_whitespace()
            .nth(1)?
            .parse()
            .ok()
    }
}
