//! The subcommands, one file each, named as typed.

pub mod bench;
pub mod load;
pub mod map;
pub mod ps;
pub mod top;

/// How many cores this process may use (its affinity and its cgroup's quota included).
pub fn usable_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
