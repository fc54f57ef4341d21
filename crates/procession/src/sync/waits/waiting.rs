//! A wait that others can see for as long as it lasts.

use std::sync::Arc;

use super::{About, Awaited, For};
use crate::os::process;
use crate::os::time::monotonic_ns;
use crate::sync::memory::{find_awaited, mapped_chunks, Cell};
use crate::sync::Identity;

/// A wait that others can see. It is withdrawn when this is dropped.
#[derive(Debug)]
pub struct Waiting {
    places: Vec<(Arc<dyn Awaited>, usize)>,
    generation: u32,
}

impl Waiting {
    fn at(places: Vec<(Arc<dyn Awaited>, usize)>) -> Option<Waiting> {
        (!places.is_empty()).then(|| Waiting {
            places,
            generation: process::generation(),
        })
    }

    /// Says that the calling thread waits for the process with this number to end, without a time limit. `None` if nobody
    /// could care: this process has no locks and no queues, or the tables are full.
    pub fn for_process(pid: u32, about: &About) -> Option<Waiting> {
        let target = Identity::of_process(pid)?.main_thread();
        let me = Identity::current();
        let began_ns = monotonic_ns();
        let enter = |memory: Arc<dyn Awaited>| {
            let table = memory.prepare().then(|| memory.waits())?;
            let index = table.enter(me, For::Process, target.word(), 0, began_ns, about)?;
            Some((memory, index))
        };
        // Who looks for a cycle reads what it has mapped; who looks for a knot finds the record wherever it is.
        let mut places: Vec<_> = mapped_chunks()
            .into_iter()
            .filter_map(|chunk| enter(chunk))
            .collect();
        if places.is_empty() {
            places.extend(find_awaited(enter));
        }
        Waiting::at(places)
    }

    pub(super) fn for_lock(cell: &Cell, offset: usize, owned: bool, about: &About) -> Option<Waiting> {
        let chunk = cell.chunk();
        let target = cell.offset() + offset as u64;
        let (me, what_for) = (Identity::current(), For::Lock { owned });
        let index = chunk
            .waits()
            .enter(me, what_for, target, 0, monotonic_ns(), about)?;
        Waiting::at(vec![(chunk.clone(), index)])
    }

    /// Says that the calling thread waits for the word that lies there in this memory to change.
    pub(in crate::sync) fn for_change(
        memory: &Arc<dyn Awaited>,
        what_for: For,
        (target, value): (u64, u64),
        began_ns: u64,
        about: &About,
    ) -> Option<Waiting> {
        let table = memory.prepare().then(|| memory.waits())?;
        let index = table.enter(Identity::current(), what_for, target, value, began_ns, about)?;
        Waiting::at(vec![(memory.clone(), index)])
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // A child that was forked meanwhile has a copy, but not the wait.
        if self.generation == process::generation() {
            for (memory, index) in &self.places {
                memory.waits().withdraw(*index);
            }
        }
    }
}
