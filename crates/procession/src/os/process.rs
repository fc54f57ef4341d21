//! Processes as the kernel sees them: forking, watching, signalling and reaping.
//!
//! Thin wrappers with the kernel's own semantics and [`io::Error`]s. A process is held by a *pidfd*, which goes on meaning
//! the same process after its number has been given to another one; numbers alone are for printing and for `/proc`.

mod build_id;
mod circumstances;
mod cpus;
mod descriptors;
mod exit_status;
mod fork;
mod holders;
mod pidfd;
mod proc_stat;
mod procfs;
mod sibling;
mod signals;
mod stack_signal;
mod standard_streams;
#[cfg(test)]
mod test_children;
mod this_process;

use std::io;

pub use build_id::build_id;
pub use circumstances::circumstances;
pub use cpus::{available_cpus, cgroup_cpus};
pub use descriptors::{
    close_all_but, close_on_exec, pipe, read, signal_on_hangup, wait_ready, write, Readiness,
};
pub use exit_status::ExitStatus;
pub use fork::{clone_unseen, fork, forks, generation, reap_unseen, Forked};
pub use holders::{
    all_processes, began_before, heeded_signals, is_a_strangers, mapped_inodes_of, memories_of,
    read_memory_of, undisturbed_threads_of, FileId, Home, Memory, Sight,
};
pub use pidfd::{
    is_gone, is_no_child, kill, kill_and_reap, kill_main_thread, pidfd_exit_status, pidfd_open,
    pidfd_send_signal, wait_any_child, wait_pidfd, wait_until_ended,
};
pub(crate) use proc_stat::ProcStat;
pub use procfs::{
    children_of, has_stopped, has_thread, len_of_file_of, parent_of, private_resident_bytes, process_state,
    read_file_of, usage_of, Usage,
};
pub use sibling::{can_clone_sibling, clone_sibling};
pub use signals::{
    block_all_signals, clear_signal_mask, end_at_alarm, has_signal_handler, ignore_signal,
    install_noop_handler, restore_signal_mask, set_signal_default, signal_name, SignalMask,
};
pub use stack_signal::{answer_signal, is_real_time_signal};
pub use standard_streams::{duplicate_onto, flush_c_streams, line_buffer_c_stdout, replace, take_stdin};
pub use this_process::{
    at_exit, become_session_leader, become_subreaper, exit_now, image_of, is_main_thread, parent_pid,
    set_command_name, set_parent_death_signal, thread_count, thread_number,
};

pub use libc::{SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGSTOP, SIGTERM};

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn raw_pid(pid: u32) -> io::Result<libc::pid_t> {
    // 0 and negative numbers mean groups to the kernel, never one process.
    match libc::pid_t::try_from(pid) {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    }
}
