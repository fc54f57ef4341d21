//! One look at one pool.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::sync::atomic::Ordering;

use super::{Activity, Known, PoolSnapshot, PoolState, TaskSnapshot, WorkerSnapshot};
use crate::channel::{Note, Seat, Stage, View};
use crate::os::process::{usage_of, Usage};
use crate::os::time::monotonic_ns;

/// `None` if the pool is over, and only somebody who has not let go of it keeps its memory.
pub(super) fn of(id: u64, known: &mut Known, pids: &HashSet<u32>) -> Option<PoolSnapshot> {
    let view = &known.view;
    let header = view.header();
    let (life, watch) = (&header.life, &header.watch);
    let now = monotonic_ns();
    let age_seconds = seconds_since(watch.created_ns.load(Ordering::Relaxed), now);
    let pid = watch.caller_pid.load(Ordering::Relaxed);
    if known.command.is_empty() {
        known.command = command_of(pid);
    }
    // What ended workers had done is added to the totals after it was taken out of their seats: so read first.
    let mut done = watch.items.load(Ordering::Relaxed);
    let mut failed = watch.failed.load(Ordering::Relaxed);
    let since_seconds = match known.seen_ns {
        0 => None,
        seen => Some(seconds_since(seen, now).max(1e-3)),
    };
    let mut cpu = HashMap::new();
    let mut workers = Vec::new();
    for number in 0..view.geometry().seats {
        let Some(mut worker) = worker(view, number, now, pids) else {
            continue;
        };
        done += worker.0.done;
        failed += worker.0.failed;
        if let Some(usage) = worker.1 {
            let before = known
                .cpu
                .get(&worker.0.pid)
                .filter(|before| before.0 == usage.start_ticks);
            worker.0.cpus = match (before, since_seconds) {
                (Some(before), Some(since)) => (usage.cpu_seconds - before.1).max(0.0) / since,
                _ => usage.cpu_seconds / usage.age_seconds().max(0.01),
            };
            cpu.insert(worker.0.pid, (usage.start_ticks, usage.cpu_seconds));
        }
        workers.push((number_of(view, number), worker.0));
    }
    workers.sort_by_key(|(number, _)| *number);
    let items_per_second = match since_seconds {
        Some(since) => done.saturating_sub(known.done) as f64 / since,
        None => done as f64 / age_seconds.max(1e-3),
    };
    let supervisor_pid = watch.supervisor_pid.load(Ordering::Relaxed);
    if !pids.contains(&supervisor_pid) && !workers.iter().any(|(_, w)| pids.contains(&w.pid)) {
        return None;
    }
    let processes = life.workers.load(Ordering::Relaxed);
    let snapshot = PoolSnapshot {
        id,
        pid,
        command: known.command.clone(),
        supervisor_pid,
        start_method: watch.start_method.get(),
        state: if !pids.contains(&pid) {
            PoolState::Lost
        } else if life.broken.load(Ordering::Relaxed) != 0 {
            PoolState::Broken
        } else {
            match header.stage() {
                Stage::Running => PoolState::Running,
                Stage::Finishing => PoolState::Finishing,
                Stage::Terminating => PoolState::Ending,
            }
        },
        age_seconds,
        processes,
        queued: header
            .head
            .load(Ordering::Relaxed)
            .saturating_sub(header.tail.load(Ordering::Relaxed)),
        done,
        failed,
        lost: watch.lost.load(Ordering::Relaxed),
        timed_out: watch.timed_out.load(Ordering::Relaxed),
        died: watch.died.load(Ordering::Relaxed),
        restarts: life.started.load(Ordering::Relaxed).saturating_sub(processes),
        items_per_second,
        shared_bytes: view.memory_bytes(),
        workers: workers.into_iter().map(|(_, worker)| worker).collect(),
    };
    known.seen_ns = now;
    known.done = done;
    known.cpu = cpu;
    Some(snapshot)
}

fn number_of(view: &View, seat: u32) -> u32 {
    view.seat(seat).map_or(0, |s| s.number.load(Ordering::Relaxed))
}

fn worker(view: &View, seat: u32, now: u64, pids: &HashSet<u32>) -> Option<(WorkerSnapshot, Option<Usage>)> {
    let s = view.seat(seat)?;
    let stage = s.stage.load(Ordering::Acquire);
    if !matches!(stage, Seat::STARTING | Seat::READY | Seat::ENDED) {
        return None;
    }
    let watch = &view.header().watch;
    let pid = s.pid.load(Ordering::Relaxed);
    // A number from shared memory is believed if the process it names has this pool's memory.
    let usage = if pids.contains(&pid) { usage_of(pid) } else { None };
    let slot = view.slot_of(seat);
    let state = match (stage, usage.map(|u| u.state)) {
        (Seat::ENDED, _) | (_, Some('Z' | 'X')) => Activity::Ended,
        (_, Some('T' | 't')) => Activity::Suspended,
        (Seat::STARTING, _) => Activity::Starting,
        (_, state) => match (slot, state) {
            (None, _) => Activity::Ready,
            (Some(_), Some('S' | 'D' | 'I')) => Activity::Blocked,
            (Some(_), _) => Activity::Running,
        },
    };
    let task = slot.filter(|_| state != Activity::Ended).and_then(|slot| {
        let (task, note) = (view.slot(slot)?, view.note(slot)?);
        let (next, _) = task.range();
        let began = s
            .claimed_ns
            .load(Ordering::Relaxed)
            .max(s.started_ns.load(Ordering::Relaxed));
        Some(TaskSnapshot {
            function: match view.function_name(task.function.load(Ordering::Relaxed)) {
                name if name.is_empty() => "?".to_owned(),
                name => name,
            },
            item: Some(note.item(next.max(1) - 1)).filter(|&item| item != Note::NO_ITEM),
            age_seconds: seconds_since(began, now),
        })
    });
    let snapshot = WorkerSnapshot {
        pid,
        name: watch.worker_name(s.number.load(Ordering::Relaxed)),
        state,
        task,
        done: s.items.load(Ordering::Relaxed),
        failed: s.failed.load(Ordering::Relaxed),
        cpus: 0.0,
        resident_bytes: usage.map_or(0, |u| u.resident_bytes),
    };
    Some((snapshot, usage))
}

/// A clock that is a tick behind may lie before the other.
fn seconds_since(then_ns: u64, now_ns: u64) -> f64 {
    now_ns.saturating_sub(then_ns) as f64 / 1e9
}

fn command_of(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<String> = bytes
        .split(|&byte| byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| {
            // A whole program, as after `python -c`.
            if word.contains(&b'\n') {
                return "…".to_owned();
            }
            String::from_utf8_lossy(word)
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect()
        })
        .collect();
    words.join(" ")
}
