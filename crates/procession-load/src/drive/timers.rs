use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Places that wait for a moment.
#[derive(Debug, Default)]
pub(super) struct Timers(BinaryHeap<Reverse<(u64, u32)>>);

impl Timers {
    pub(super) fn push(&mut self, when_ns: u64, place: u32) {
        self.0.push(Reverse((when_ns, place)));
    }

    /// The moment of the first one.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.0.peek().map(|Reverse((when_ns, _))| *when_ns)
    }

    /// A place whose moment has come.
    pub(super) fn pop(&mut self, now_ns: u64) -> Option<u32> {
        if self.next_ns()? > now_ns {
            return None;
        }
        self.0.pop().map(|Reverse((_, place))| place)
    }
}
