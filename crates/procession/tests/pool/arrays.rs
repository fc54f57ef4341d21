//! Arrays and bytes, which bypass serde.

use super::*;

const MEGA: usize = 1 << 20;

#[test]
fn arrays_travel_both_ways_and_can_be_changed_in_place() {
    let _alone = alone();
    let pool = pool(2);
    for len in [0, 1, 10, 5000, MEGA] {
        let numbers: Array<f64> = (0..len).map(|n| n as f64).collect();
        let expected: Vec<f64> = numbers.iter().map(|x| x * 2.0).collect();
        let double = |mut numbers: Array<f64>| {
            numbers.iter_mut().for_each(|x| *x *= 2.0);
            numbers
        };
        let doubled = pool.apply(double, numbers.clone()).unwrap();
        assert_eq!(&*doubled, expected);
        assert_eq!(doubled.is_shared(), len >= 5000);
        // One that came back goes again, and as part of something else.
        let (twice, name, _) = pool
            .apply(
                |(a, b): (Array<f64>, String)| (a.clone(), b, a),
                (doubled, "x".into()),
            )
            .unwrap();
        assert_eq!((&*twice, name.as_str()), (expected.as_slice(), "x"));
        let mut made: Array<f64> = pool.array(len).unwrap();
        made.copy_from_slice(&numbers);
        assert_eq!(&*pool.apply(double, made).unwrap(), expected);
    }
    assert_eq!(used_bytes(&pool), 0);
}

/// What the pool's arrays hold, once all workers have been asked for something new.
fn used_bytes(pool: &Pool) -> u64 {
    pool.shared_memory_in_use()
}

#[test]
fn arrays_in_maps_stay_with_their_items() {
    let _alone = alone();
    let pool = pool(2);
    let arrays = |n: usize| (0..n).map(|n| Bytes::from(vec![n as u8; 100_000 + n]));
    for chunk in [1, 7, 50] {
        let back = pool
            .map_with_chunks(|bytes: Bytes| (bytes[0], bytes), arrays(50), chunk)
            .unwrap();
        for (n, (first, bytes)) in back.into_iter().enumerate() {
            assert_eq!((first, bytes.len()), (n as u8, 100_000 + n));
            assert!(bytes.iter().all(|&byte| byte == n as u8));
        }
        assert_eq!(
            pool.map_with_chunks(|bytes: Bytes| bytes.len(), arrays(50), chunk)
                .unwrap()[49],
            100_049
        );
        assert_eq!(
            pool.imap(|bytes: Bytes| bytes, arrays(50))
                .unwrap()
                .map(|bytes| bytes.unwrap().len())
                .sum::<usize>(),
            5_001_225
        );
        drop(
            pool.imap(|bytes: Bytes| bytes, arrays(50))
                .unwrap()
                .take(3)
                .collect::<Vec<_>>(),
        );
    }
    pool.apply(|()| (), ()).unwrap();
    wait_until("all blocks are free", || {
        pool.apply(|()| (), ()).unwrap();
        used_bytes(&pool) == 0
    });
}

#[test]
fn arrays_of_tasks_that_fail_are_freed() {
    let _alone = alone();
    let pool = pool(2);
    let work = |(n, bytes): (u32, Bytes)| {
        match n % 10 {
            3 => panic!("deliberate"),
            6 => os::kill(std::process::id(), os::SIGKILL).unwrap(),
            _ => {}
        }
        (bytes.clone(), bytes)
    };
    let items = || (0..40).map(|n| (n, Bytes::from(vec![n as u8; 70_000])));
    for _ in 0..3 {
        let results: Vec<_> = pool.imap(work, items()).unwrap().collect();
        for (n, result) in results.iter().enumerate() {
            match result {
                Ok((a, b)) => assert!(a == b && a[69_999] == n as u8),
                Err(error) => assert_eq!(error.is_task_panicked(), n % 10 == 3, "{error}"),
            }
        }
        assert_eq!(results.iter().filter(|result| result.is_err()).count(), 8);
        assert!(pool.map_with_chunks(work, items(), 8).is_err());
        drop(results);
    }
    wait_until("all blocks are free", || {
        pool.apply(|()| (), ()).unwrap();
        used_bytes(&pool) == 0
    });
}

#[test]
fn array_kept_by_a_task_is_its_workers_own() {
    let _alone = alone();
    static KEPT: Mutex<Vec<Bytes>> = Mutex::new(Vec::new());
    let pool = pool(1);
    for n in 0..5u8 {
        pool.apply(
            |bytes: Bytes| KEPT.lock().unwrap().push(bytes),
            Bytes::from(vec![n; MEGA]),
        )
        .unwrap();
    }
    for _ in 0..3 {
        // Others use memory meanwhile.
        pool.map(|bytes: Bytes| bytes, (0..10).map(|_| Bytes::from(vec![99; MEGA])))
            .unwrap();
        let sums = pool.apply(
            |()| {
                KEPT.lock()
                    .unwrap()
                    .iter()
                    .map(|b| b.iter().map(|&x| u64::from(x)).sum::<u64>())
                    .collect::<Vec<_>>()
            },
            (),
        );
        assert_eq!(sums.unwrap(), [0, 1, 2, 3, 4].map(|n| n * MEGA as u64));
    }
    // A shared one can be returned as well: then it is copied.
    static SHARED: Mutex<Option<Arc<Bytes>>> = Mutex::new(None);
    pool.apply(
        |bytes: Bytes| *SHARED.lock().unwrap() = Some(Arc::new(bytes)),
        Bytes::from(vec![7; MEGA]),
    )
    .unwrap();
    let copy = pool
        .apply(|()| SHARED.lock().unwrap().as_deref().unwrap().clone(), ())
        .unwrap();
    assert!(copy.iter().all(|&byte| byte == 7));
    assert!(used_bytes(&pool) > 0);
    pool.apply::<_, _, ()>(|()| std::process::exit(1), ())
        .unwrap_err();
    drop(copy);
    wait_until("all blocks are free", || {
        pool.apply(|()| (), ()).unwrap();
        used_bytes(&pool) == 0
    });
}

/// Shared with whoever else holds it, and locked only while it is encoded.
#[derive(Clone)]
struct Held(Arc<Mutex<Bytes>>);

impl Serialize for Held {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.0.lock().unwrap().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Held {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Ok(Held(Arc::new(Mutex::new(Bytes::deserialize(deserializer)?))))
    }
}

#[test]
fn array_that_others_hold_is_copied_and_can_be_written_to_meanwhile() {
    let _alone = alone();
    let pool = pool(1);
    let held = Held(Arc::new(Mutex::new(pool.array(MEGA).unwrap())));
    for n in 1..=3u8 {
        held.0.lock().unwrap().fill(n);
        let task = |held: Held| {
            let bytes = held.0.lock().unwrap();
            bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>()
        };
        let result = pool.apply_async(task, held.clone()).unwrap();
        held.0.lock().unwrap().fill(100);
        assert_eq!(result.get().unwrap(), u64::from(n) * MEGA as u64);
    }
    drop(held);
    assert_eq!(used_bytes(&pool), 0);
}

#[test]
fn results_outlive_their_pool() {
    let _alone = alone();
    let pool = pool(1);
    let bytes = pool.apply(|n: usize| Bytes::from(vec![5; n]), MEGA).unwrap();
    drop(pool);
    assert!(bytes.is_shared() && bytes.iter().all(|&byte| byte == 5));
}

#[test]
fn array_that_is_larger_than_memory_is_an_error() {
    let _alone = alone();
    let pool = pool(1);
    let error = pool.array::<u64>(usize::MAX / 16).unwrap_err();
    assert!(error.is_out_of_memory(), "{error}");
    assert_eq!(pool.apply(square, 3).unwrap(), 9);
}
