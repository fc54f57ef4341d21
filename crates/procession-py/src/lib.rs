//! Python's face of procession: the extension module `procession._native`.
//!
//! Hot methods and everything that must not be interrupted by Python code live here; the rest is Python.

use pyo3::prelude::*;

mod block;
mod codec;
mod connection;
mod fork;
mod gil;
mod job;
mod keeper;
mod load;
mod pickle;
mod pool;
mod queue;
mod raw;
mod results;
mod sync;
mod worker;

#[pymodule(gil_used = true)]
mod _native {
    use super::*;

    #[pymodule_export]
    use super::block::BlockBuffer;
    #[pymodule_export]
    use super::connection::{stream_pair, ConnectionBase};
    #[pymodule_export]
    use super::fork::{
        can_clone_sibling, circumstances, clone_sibling, late_answer, order, read_stash, report_broken,
        supervise, thread_count, usable_cpus,
    };
    #[pymodule_export]
    use super::keeper::{read_overtime, TimeKeeper};
    #[pymodule_export]
    use super::load::{
        check_slo, load_report, load_think, parse_duration, parse_rate, parse_stages, plan_defaults,
        ExpectationFailed, HttpClient, HttpResponse, LoadEngine, LoadProcess, LoadRun, RequestError,
        SharedCounter, Step, TcpClient, TcpConnection, UdpClient, UdpSocket, User, UserStopped, Wait,
    };
    #[pymodule_export]
    use super::pickle::pickle_main_by_value;
    #[pymodule_export]
    use super::pool::{EventReader, PoolBase};
    #[pymodule_export]
    use super::queue::QueueBase;
    #[pymodule_export]
    use super::results::{AsyncResult, Feeder, ImapBase, ImapUnordered, MapResult};
    #[pymodule_export]
    use super::sync::{
        wait_for_process, EventBase, LockBase, ProcessWait, SemaphoreBase, SharedBuffer, SynchronizedValue,
        WaitQueue,
    };
    #[pymodule_export]
    use super::worker::WorkerSeat;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::sync::install(module.py())
    }

    /// The version of this package.
    #[pyfunction]
    fn version() -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// Runs the `procession` command on these arguments and returns its exit code.
    #[pyfunction]
    fn run_command(py: Python<'_>, arguments: Vec<std::ffi::OsString>) -> i32 {
        py.detach(|| procession_cli::run(arguments))
    }
}
