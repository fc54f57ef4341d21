//! How many calls a second the pool makes, in JSON lines: `{"name": …, "per_second": …}`.
//!
//! ```text
//! cargo run --release --example bench_map            2 workers
//! cargo run --release --example bench_map 4 apply    4 workers, only what has "apply" in its name
//! ```
//!
//! Each figure is the best of five runs: what the machine can do when nobody disturbs it.

use std::env;
use std::time::Instant;

use procession::{Bytes, Pool, Result};

const RUNS: usize = 5;

struct Bench {
    pool: Pool,
    only: String,
}

impl Bench {
    /// Measures how often a second `work` does one of the `units` of which it does so many.
    fn measure(&self, name: &str, units: u64, work: impl Fn(&Pool) -> Result<()>) -> Result<()> {
        if !name.contains(&self.only) {
            return Ok(());
        }
        work(&self.pool)?;
        let mut best = f64::INFINITY;
        for _ in 0..RUNS {
            let began = Instant::now();
            work(&self.pool)?;
            best = best.min(began.elapsed().as_secs_f64());
        }
        println!(
            "{{\"name\": \"{name}\", \"per_second\": {:.0}}}",
            units as f64 / best
        );
        Ok(())
    }
}

fn square(x: u64) -> u64 {
    x.wrapping_mul(x)
}

fn main() -> Result<()> {
    let processes = env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(2);
    let bench = Bench {
        pool: Pool::builder().processes(processes).build()?,
        only: env::args().nth(2).unwrap_or_default(),
    };
    let n = 1_000_000;
    bench.measure("map of u64, one per task", n, |pool| {
        pool.map_with_chunks(square, 0..n, 1).map(drop)
    })?;
    bench.measure("map of u64, batched", 10 * n, |pool| {
        pool.map(square, 0..10 * n).map(drop)
    })?;
    bench.measure("map of structures, one per task", n / 4, |pool| {
        let items = (0..n / 4).map(|i| (i, i.to_string(), [i as f64; 8]));
        pool.map_with_chunks(
            |(i, text, numbers): (u64, String, [f64; 8])| (i, text, numbers),
            items,
            1,
        )
        .map(drop)
    })?;
    bench.measure("imap of u64", n, |pool| {
        pool.imap(square, 0..n)?.try_for_each(|result| result.map(drop))
    })?;
    bench.measure("imap_unordered of u64", n, |pool| {
        pool.imap_unordered(square, 0..n)?
            .try_for_each(|result| result.map(drop))
    })?;
    bench.measure("apply_async of u64, then get", n / 10, |pool| {
        let results = (0..n / 10)
            .map(|i| pool.apply_async(square, i))
            .collect::<Result<Vec<_>>>()?;
        results.into_iter().try_for_each(|result| result.get().map(drop))
    })?;
    bench.measure("apply of u64, one after the other", n / 20, |pool| {
        (0..n / 20).try_for_each(|i| pool.apply(square, i).map(drop))
    })?;
    let megabytes = 100;
    bench.measure(
        "megabytes of an array sent and returned, per second",
        megabytes,
        |pool| {
            let array: Bytes = pool.array(megabytes as usize * 1_000_000)?;
            pool.apply(|array: Bytes| array, array).map(drop)
        },
    )?;
    bench.measure(
        "megabytes copied in, summed up in a worker, per second",
        megabytes,
        |pool| {
            let array = Bytes::from(vec![1; megabytes as usize * 1_000_000]);
            pool.apply(
                |array: Bytes| array.iter().map(|&byte| u64::from(byte)).sum::<u64>(),
                array,
            )
            .map(drop)
        },
    )
}
