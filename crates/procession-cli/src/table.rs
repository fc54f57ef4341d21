//! Pools as a table of plain text: for `ps`, and for `top` where there is no terminal.

use std::fmt::Write as _;

use procession::watch::{PoolSnapshot, TaskSnapshot, WorkerSnapshot};

use crate::units::{counted, grouped, rate, short_bytes, short_seconds};

/// What stands above the columns of workers, and how wide each is; the last takes what is left.
pub const COLUMNS: [(&str, usize); 9] = [
    ("PID", 7),
    ("NAME", 22),
    ("STATE", 9),
    ("CPU%", 5),
    ("MEMORY", 6),
    ("DONE", 11),
    ("FAILED", 6),
    ("AGE", 6),
    ("TASK", 0),
];

/// Whether the figures of a column stand at its right side.
pub fn is_right_aligned(column: usize) -> bool {
    matches!(column, 0 | 3..=7)
}

/// A worker's cells, as [`COLUMNS`] names them.
pub fn cells(worker: &WorkerSnapshot) -> [String; 9] {
    [
        worker.pid.to_string(),
        worker.name.clone(),
        worker.state.to_string(),
        format!("{:.0}", worker.cpus * 100.0),
        short_bytes(worker.resident_bytes),
        grouped(worker.done),
        grouped(worker.failed),
        worker
            .task
            .as_ref()
            .map_or_else(|| "-".to_owned(), |task| short_seconds(task.age_seconds)),
        worker.task.as_ref().map_or_else(String::new, task),
    ]
}

/// A task: its function, and the number of its item in brackets.
pub fn task(task: &TaskSnapshot) -> String {
    match task.item {
        Some(item) => format!("{}[{item}]", task.function),
        None => format!("{}()", task.function),
    }
}

/// What is said of a pool as a whole: who it is, and how it goes.
pub fn about(pool: &PoolSnapshot) -> [String; 2] {
    let mut goes = format!("{}, {} done", rate(pool.items_per_second), grouped(pool.done));
    for (count, what) in [
        (pool.failed, "failed"),
        (pool.lost - pool.timed_out.min(pool.lost), "lost"),
        (pool.timed_out, "timed out"),
        (pool.queued, "queued"),
    ] {
        if count > 0 {
            let _ = write!(goes, ", {} {what}", grouped(count));
        }
    }
    if pool.died > 0 {
        let _ = write!(goes, "; {} died", counted(u64::from(pool.died), "worker"));
    }
    if pool.restarts > 0 {
        let _ = write!(goes, "; {}", counted(u64::from(pool.restarts), "restart"));
    }
    let who = format!(
        "pool of process {}, {}, {}, {} old, {} shared: {}",
        pool.pid,
        pool.state,
        pool.start_method,
        short_seconds(pool.age_seconds),
        short_bytes(pool.shared_bytes),
        pool.command
    );
    [who, goes]
}

/// The whole table. Lines are as long as what they say.
pub fn text(pools: &[PoolSnapshot]) -> String {
    let mut out = String::new();
    for (place, pool) in pools.iter().enumerate() {
        if place > 0 {
            out.push('\n');
        }
        let [who, goes] = about(pool);
        let _ = writeln!(out, "{who}\n  {goes}");
        out.push_str(&line(&COLUMNS.map(|(name, _)| name.to_owned())));
        for worker in &pool.workers {
            out.push_str(&line(&cells(worker)));
        }
    }
    out
}

fn line(cells: &[String; 9]) -> String {
    let mut line = String::from(" ");
    for (column, cell) in cells.iter().enumerate() {
        let width = COLUMNS[column].1;
        line.push(' ');
        if is_right_aligned(column) {
            let _ = write!(line, "{cell:>width$}");
        } else {
            let _ = write!(line, "{cell:<width$}");
        }
    }
    line.truncate(line.trim_end().len());
    line.push('\n');
    line
}
