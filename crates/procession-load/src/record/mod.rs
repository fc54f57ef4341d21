//! What workers count, in memory that they share with the process that controls them.
//!
//! Each worker has a *seat* in one anonymous region. Only the process in the seat writes there; everybody else only reads,
//! so there are no locks and no atomic additions, and watching costs the worker nothing. A process may be killed between any
//! two instructions: every word holds its old or its new value, what counts is the sum of the buckets (all other counts
//! are computed or may be off by the one that was being counted), and its successor goes on with the same seat.
//!
//! A seat has a page of counters, and a fixed number of *steps*: kinds of requests, or named parts of a scenario, in the
//! order in which the worker met them. A step has its histograms for the whole run, and a ring of histograms for single
//! seconds. A second is told by its number, which stands in its slot: a slot whose number is not the one looked for holds
//! another second. As things are counted in the second in which they end, a second that is over does not change any more.
//!
//! Sync point *step name*: the worker's release of the number of steps comes after the name's bytes; the reader's acquire
//! comes before it reads them. *Example*: the same for the length of an error's example and its bytes. *Second*: the number
//! of a second is stored (release) after its slot was emptied, and read (acquire) before and after its counts are.

mod layout;
mod read;
mod recorder;

pub(crate) use layout::{Cells, Distributions, Head, Region, SeatState, STATUSES};
pub(crate) use read::{read_text, StepTotals};
pub use recorder::{Datagram, Recorder, Sample, StepId};
