//! What is known, what is chosen, and what keys do.

use procession::os::process::{SIGCONT, SIGKILL, SIGSTOP};
use procession::watch::{Activity, PoolSnapshot, WorkerSnapshot};

use crate::args::SortBy;
use crate::table;

/// What was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    Escape,
    Letter(char),
}

/// What is to be done for a key, outside of the picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    Quit,
    /// Show where a worker is.
    Stack {
        pid: u32,
        name: String,
    },
    /// Send this signal to a worker, and then say this.
    Signal {
        pid: u32,
        signal: i32,
        done: String,
    },
}

/// What lies over the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Over {
    Nothing,
    Help,
    /// Where a worker is: a title, the lines, and the first one that is seen.
    Stack {
        title: String,
        lines: Vec<String>,
        from: usize,
    },
    /// Is this worker to be killed?
    ConfirmKill {
        pid: u32,
        what: String,
    },
}

/// A line of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Who a pool is.
    Who(usize),
    /// How a pool goes.
    Goes(usize),
    /// What the columns are.
    Columns,
    /// A worker of a pool.
    Worker(usize, usize),
    Blank,
}

/// What `top` shows.
#[derive(Debug)]
pub struct State {
    pub pools: Vec<PoolSnapshot>,
    pub sort: SortBy,
    pub reversed: bool,
    pub interval_seconds: f64,
    pub colours: bool,
    /// The process that the cursor is on, which it stays on while the list changes.
    pub selected: Option<u32>,
    pub over: Over,
    pub message: String,
    /// The first line that is seen.
    pub top: usize,
    /// How many lines can be seen; the picture says so.
    pub height: usize,
}

impl State {
    /// With nothing seen yet.
    pub fn new(sort: SortBy, interval_seconds: f64, colours: bool) -> Self {
        State {
            pools: Vec::new(),
            sort,
            reversed: false,
            interval_seconds,
            colours,
            selected: None,
            over: Over::Nothing,
            message: String::new(),
            top: 0,
            height: 1,
        }
    }

    /// Takes a new look in.
    pub fn refresh(&mut self, pools: Vec<PoolSnapshot>) {
        self.pools = pools;
        self.order();
        let pids = self.pids();
        if self.selected.is_none_or(|pid| !pids.contains(&pid)) {
            self.selected = pids.first().copied();
        }
    }

    /// Says something in the last line.
    pub fn tell(&mut self, message: String) {
        self.message = message;
    }

    /// Shows where a worker is.
    pub fn show_stack(&mut self, title: String, text: &str) {
        self.over = Over::Stack {
            title,
            lines: text.lines().map(str::to_owned).collect(),
            from: 0,
        };
    }

    fn order(&mut self) {
        let (sort, reversed) = (self.sort, self.reversed);
        let age = |w: &WorkerSnapshot| w.task.as_ref().map_or(-1.0, |task| task.age_seconds);
        for pool in &mut self.pools {
            // They come by number, which decides between equals.
            pool.workers.sort_by(|a, b| match sort {
                SortBy::Name => std::cmp::Ordering::Equal,
                SortBy::Age => age(b).total_cmp(&age(a)),
                SortBy::Cpu => b.cpus.total_cmp(&a.cpus),
                SortBy::Memory => b.resident_bytes.cmp(&a.resident_bytes),
                SortBy::Done => b.done.cmp(&a.done),
                SortBy::Failed => b.failed.cmp(&a.failed),
            });
            if reversed {
                pool.workers.reverse();
            }
        }
    }

    /// The lines of the list, in order.
    pub fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        for (p, pool) in self.pools.iter().enumerate() {
            if p > 0 {
                lines.push(Line::Blank);
            }
            lines.extend([Line::Who(p), Line::Goes(p), Line::Columns]);
            lines.extend((0..pool.workers.len()).map(|w| Line::Worker(p, w)));
        }
        lines
    }

    fn pids(&self) -> Vec<u32> {
        self.pools
            .iter()
            .flat_map(|pool| pool.workers.iter().map(|worker| worker.pid))
            .collect()
    }

    /// The worker that the cursor is on.
    pub fn chosen(&self) -> Option<&WorkerSnapshot> {
        let pid = self.selected?;
        self.pools
            .iter()
            .flat_map(|pool| &pool.workers)
            .find(|worker| worker.pid == pid)
    }

    fn move_by(&mut self, steps: isize) {
        let pids = self.pids();
        let Some(last) = pids.len().checked_sub(1) else {
            return;
        };
        let at = self
            .selected
            .and_then(|pid| pids.iter().position(|&p| p == pid))
            .unwrap_or(0);
        self.selected = Some(pids[at.saturating_add_signed(steps).min(last)]);
    }

    /// Does what a key is for.
    pub fn press(&mut self, key: Key) -> Option<Wish> {
        self.message.clear();
        match std::mem::replace(&mut self.over, Over::Nothing) {
            Over::Nothing => {}
            // Any key takes it away.
            Over::Help => return None,
            Over::Stack { title, lines, from } => {
                let last = lines.len().saturating_sub(1);
                let page = self.height.saturating_sub(2).max(1);
                let from = match key {
                    Key::Up | Key::Letter('k') => from.saturating_sub(1),
                    Key::Down | Key::Letter('j') => (from + 1).min(last),
                    Key::PageUp => from.saturating_sub(page),
                    Key::PageDown => (from + page).min(last),
                    Key::First => 0,
                    Key::Last => last,
                    _ => return None,
                };
                self.over = Over::Stack { title, lines, from };
                return None;
            }
            Over::ConfirmKill { pid, what } => {
                return (key == Key::Letter('y')).then(|| Wish::Signal {
                    pid,
                    signal: SIGKILL,
                    done: format!("killed {what}; the pool replaces it"),
                });
            }
        }
        let page = self.height.saturating_sub(4).max(1) as isize;
        match key {
            Key::Up | Key::Letter('k') => self.move_by(-1),
            Key::Down | Key::Letter('j') => self.move_by(1),
            Key::PageUp => self.move_by(-page),
            Key::PageDown => self.move_by(page),
            Key::First | Key::Letter('g') => self.move_by(isize::MIN / 2),
            Key::Last | Key::Letter('G') => self.move_by(isize::MAX / 2),
            Key::Letter('q') => return Some(Wish::Quit),
            Key::Letter('?' | 'h') => self.over = Over::Help,
            Key::Letter('s') => {
                let at = SortBy::ALL.iter().position(|&s| s == self.sort).unwrap_or(0);
                self.sort = SortBy::ALL[(at + 1) % SortBy::ALL.len()];
                self.reversed = false;
                self.by_number();
                self.message = format!("sorted by {}", self.sort);
            }
            Key::Letter('r') => {
                self.reversed = !self.reversed;
                self.by_number();
            }
            Key::Letter('d') => {
                let worker = self.chosen()?;
                return Some(Wish::Stack {
                    pid: worker.pid,
                    name: worker.name.clone(),
                });
            }
            Key::Letter('z') => return self.suspend_or_resume(),
            Key::Letter('x') => {
                if let Some(worker) = self.chosen() {
                    let what = format!("{} (pid {})", worker.name, worker.pid);
                    let pid = worker.pid;
                    self.over = Over::ConfirmKill { pid, what };
                }
            }
            Key::Escape | Key::Letter(_) => {}
        }
        None
    }

    fn by_number(&mut self) {
        for pool in &mut self.pools {
            pool.workers
                .sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
        }
        self.order();
    }

    fn suspend_or_resume(&self) -> Option<Wish> {
        let worker = self.chosen()?;
        let (signal, done) = match worker.state {
            Activity::Suspended => (SIGCONT, "goes on"),
            Activity::Ended => return None,
            _ => (SIGSTOP, "is suspended; z lets it go on"),
        };
        Some(Wish::Signal {
            pid: worker.pid,
            signal,
            done: format!("{} (pid {}) {done}", worker.name, worker.pid),
        })
    }

    /// Moves what is seen so that the cursor is in it, and knows how much there is to see.
    pub fn scroll(&mut self, height: usize) {
        self.height = height;
        let lines = self.lines();
        let cursor = lines.iter().position(
            |line| matches!(line, &Line::Worker(p, w) if Some(self.pools[p].workers[w].pid) == self.selected),
        );
        if let Some(cursor) = cursor {
            // A pool's first worker brings its headings along.
            let from = if cursor <= 3 { 0 } else { cursor };
            self.top = self.top.min(from).max((cursor + 1).saturating_sub(height));
        }
        self.top = self.top.min(lines.len().saturating_sub(height));
    }

    /// What the kill of this worker would cost.
    pub fn stake(&self, pid: u32) -> String {
        let worker = self.pools.iter().flat_map(|p| &p.workers).find(|w| w.pid == pid);
        match worker.and_then(|w| w.task.as_ref()) {
            Some(task) => format!("Its task, {}, fails; all others go on.", table::task(task)),
            None => "It has no task; nothing is lost.".to_owned(),
        }
    }
}
