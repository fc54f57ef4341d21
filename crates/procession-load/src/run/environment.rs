use crate::result::Environment;
use rustix::process::{getrlimit, Resource};
use std::fs;

fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The machine we run on.
pub(super) fn environment() -> Environment {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("", |(_, name)| name.trim());
    let ports = line("/proc/sys/net/ipv4/ip_local_port_range");
    let mut ports = ports
        .split_ascii_whitespace()
        .filter_map(|port| port.parse().ok());
    Environment {
        host: line("/proc/sys/kernel/hostname"),
        kernel: format!("Linux {}", line("/proc/sys/kernel/osrelease")),
        cpu: cpu.to_owned(),
        cores: procession::os::process::available_cpus() as u32,
        most_descriptors: getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
        port_range: ports.next().zip(ports.next()),
    }
}
