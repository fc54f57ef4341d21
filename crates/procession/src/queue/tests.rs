//! Order, limits, long items; and a process that is killed after each step of its way.

use std::collections::HashSet;
use std::time::Duration;

use super::*;
use crate::crash::dies;
use crate::sync::waits::About;
use crate::sync::{Pace, Stir};

type Failure = Box<dyn std::error::Error>;

impl From<PutError> for Failure {
    fn from(e: PutError) -> Failure {
        format!("{e:?}").into()
    }
}

impl From<TakeError> for Failure {
    fn from(e: TakeError) -> Failure {
        format!("{e:?}").into()
    }
}

fn put(queue: &ByteQueue, data: &[u8]) {
    let put = queue.put::<Failure>(data, &[], None, &mut |_| Ok(()), None);
    assert!(put.unwrap());
}

fn take(queue: &ByteQueue, limit: Duration) -> Option<Vec<u8>> {
    let copy = |item: Item<'_>| (item.data.to_vec(), item.data_block);
    let (data, block) = queue
        .take::<_, Failure>(Some(limit), &mut |_| Ok(()), None, copy)
        .unwrap()?;
    if let Some(block) = block {
        assert!(queue.arena().free(block, ByteQueue::owner()));
    }
    Some(data)
}

fn take_now(queue: &ByteQueue) -> Option<Vec<u8>> {
    take(queue, Duration::ZERO)
}

/// The item with this number: most are short, some fill a segment's rest or lie in a block.
fn item(number: u32) -> Vec<u8> {
    let len = match number % 7 {
        0 => 15_000,
        3 => 20_000 + number as usize,
        5 => 100_000,
        _ => 4 + number as usize % 50,
    };
    let mut data = vec![number as u8; len];
    data[..4].copy_from_slice(&number.to_le_bytes());
    data
}

fn number_of(data: &[u8]) -> u32 {
    let number = u32::from_le_bytes(data[..4].try_into().unwrap());
    assert_eq!(data, item(number), "item {number} is not what was put");
    number
}

#[test]
fn items_of_every_size_come_out_whole_and_in_order() {
    let queue = ByteQueue::create(None).unwrap();
    for round in 0..3 {
        for number in 0..500 {
            put(&queue, &item(number));
        }
        assert_eq!(queue.len(), 500, "round {round}");
        for number in 0..500 {
            assert_eq!(take_now(&queue).map(|data| number_of(&data)), Some(number));
        }
        assert!(queue.is_empty() && take_now(&queue).is_none());
    }
    // At most the segment in use is still taken.
    assert!(queue.arena().owned_blocks() <= 1);
}

#[test]
fn a_full_queue_refuses_or_waits_and_an_empty_one_too() {
    let queue = ByteQueue::create(Some(2)).unwrap();
    put(&queue, b"1");
    assert!(!queue.is_full());
    put(&queue, b"2");
    assert!(queue.is_full());
    assert!(matches!(queue.try_put(b"3", &[]), Err(PutError::Full)));
    let limit = Some(Duration::from_millis(20));
    let pace = Pace::begin(None);
    assert!(!queue
        .put::<Failure>(b"3", &[], limit, &mut |_| Ok(()), None)
        .unwrap());
    assert!(pace.waited() >= Duration::from_millis(20));
    std::thread::scope(|scope| {
        scope.spawn(|| put(&queue, b"3"));
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(take_now(&queue).unwrap(), b"1");
        assert_eq!(take_now(&queue).unwrap(), b"2");
        assert_eq!(take(&queue, Duration::from_secs(20)).unwrap(), b"3");
    });
    assert!(matches!(queue.try_take(|_| ()), Err(TakeError::Empty)));
    assert!(take(&queue, Duration::from_millis(5)).is_none());
}

#[test]
fn many_threads_put_and_take_and_each_item_is_taken_once() {
    let queue = ByteQueue::create(Some(100)).unwrap();
    let taken = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (queue, taken) = (&queue, &taken);
            scope.spawn(move || (0..1000).for_each(|i| put(queue, &item(i * 4 + thread))));
            scope.spawn(move || {
                for _ in 0..1000 {
                    let data = take(queue, Duration::from_secs(60)).expect("there are as many as are taken");
                    taken.lock().unwrap().push(number_of(&data));
                }
            });
        }
    });
    let taken = taken.into_inner().unwrap();
    assert_eq!(taken.iter().collect::<HashSet<_>>().len(), 4000);
    assert!(queue.is_empty());
}

#[test]
fn joining_waits_for_every_item_to_be_done() {
    let queue = ByteQueue::create(None).unwrap();
    assert!(!queue.task_done());
    put(&queue, b"1");
    put(&queue, b"2");
    let limit = Some(Duration::from_millis(5));
    assert!(!queue.join::<Failure>(limit, &mut |_| Ok(()), None).unwrap());
    assert!(queue.task_done());
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(queue.task_done()));
        assert!(queue.join::<Failure>(None, &mut |_| Ok(()), None).unwrap());
    });
    assert!(!queue.task_done());
}

#[test]
fn the_event_tells_whether_there_are_items() {
    let queue = ByteQueue::create(None).unwrap();
    let readable = || crate::os::stream::is_readable(queue.event.as_fd()).unwrap();
    put(&queue, b"1");
    assert!(!readable(), "nobody has asked");
    queue.items_fd();
    assert!(readable());
    put(&queue, b"2");
    take_now(&queue);
    assert!(readable());
    take_now(&queue);
    assert!(!readable());
    put(&queue, b"3");
    assert!(readable());
}

#[test]
fn memory_of_no_queue_is_refused() {
    let fd = || create_sealed("test", 1 << 20).unwrap();
    assert!(ByteQueue::open(fd(), fd()).is_err());
    let queue = ByteQueue::create(Some(3)).unwrap();
    put(&queue, b"1");
    let [memory, event] = queue.fds().map(|fd| fd.try_clone_to_owned().unwrap());
    let same = ByteQueue::open(memory, event).unwrap();
    assert_eq!((same.len(), same.capacity()), (1, Some(3)));
    assert_eq!(take_now(&same).unwrap(), b"1");
    assert!(queue.is_empty());
}

#[test]
fn a_wait_is_written_down_when_it_lasts_and_not_beside_what_comes_of_it() {
    let queue = ByteQueue::create(Some(1)).unwrap();
    let written = || queue.board.waits().waiters().len();
    let asked = About::default;
    let stop = || Err::<(), Failure>("enough".into());
    let mut seen = Vec::new();
    // What it waits for has come when it is asked the last time: then nothing is written any more.
    let taken = queue.take::<_, Failure>(
        None,
        &mut |now| {
            seen.push(written());
            if now.waited > Duration::from_millis(120) && queue.is_empty() {
                put(&queue, b"1");
            }
            Ok(())
        },
        Some(&asked),
        |_| written(),
    );
    assert_eq!(taken.unwrap(), Some(0));
    assert_eq!((seen[0], seen[seen.len() - 1]), (0, 1), "{seen:?}");
    put(&queue, b"2");
    let mut full = |now: Stir| {
        (now.waited < Duration::from_millis(120))
            .then_some(())
            .map_or_else(stop, Ok)
    };
    assert!(queue
        .put::<Failure>(b"3", &[], None, &mut full, Some(&asked))
        .is_err());
    assert_eq!(written(), 0);
    let limit = Some(Duration::from_millis(120));
    let mut limited = |_| {
        assert_eq!(written(), 0);
        Ok(())
    };
    assert!(!queue
        .put::<Failure>(b"3", &[], limit, &mut limited, Some(&asked))
        .unwrap());
}

/// What is left works, nothing is lost, nothing comes twice, and after looking for it no block is lost either.
fn is_whole(queue: &ByteQueue, what: &str) -> Vec<u32> {
    put(queue, &item(1000));
    let mut taken = Vec::new();
    loop {
        let data =
            take(queue, Duration::from_secs(20)).unwrap_or_else(|| panic!("{what}: an item is missing"));
        match number_of(&data) {
            1000 => break,
            number => taken.push(number),
        }
    }
    assert!(queue.is_empty(), "{what}");
    assert!(queue.take_back_from_the_dead(), "{what}");
    assert!(queue.arena().owned_blocks() <= 1, "{what}: blocks are lost");
    taken
}

#[test]
fn a_sender_killed_after_any_step_leaves_the_queue_whole() {
    let mut all_done = false;
    for steps in 0..500 {
        let queue = ByteQueue::create(None).unwrap();
        (0..3).for_each(|number| put(&queue, &item(number)));
        let died = dies(steps, || (3..12).for_each(|number| put(&queue, &item(number))));
        let taken = is_whole(&queue, &format!("killed after {steps} steps of putting"));
        assert!(
            taken.iter().copied().eq(0..taken.len() as u32),
            "{steps}: {taken:?}"
        );
        assert!(taken.len() >= 3);
        if !died {
            assert_eq!(taken.len(), 12);
            all_done = true;
            break;
        }
    }
    assert!(all_done);
}

#[test]
fn a_receiver_killed_after_any_step_has_at_most_one_item_in_hand() {
    let mut all_done = false;
    for steps in 0..500 {
        let queue = ByteQueue::create(None).unwrap();
        let got = ByteQueue::create(None).unwrap();
        (0..12).for_each(|number| put(&queue, &item(number)));
        let died = dies(steps, || {
            for _ in 0..8 {
                let data = take_now(&queue).unwrap();
                put(&got, &data);
            }
        });
        let first = is_whole(&got, &format!("killed after {steps} steps, what it got"));
        let rest = is_whole(&queue, &format!("killed after {steps} steps of taking"));
        assert!(
            first.iter().copied().eq(0..first.len() as u32),
            "{steps}: {first:?}"
        );
        assert!(
            rest.iter().copied().eq(12 - rest.len() as u32..12),
            "{steps}: {rest:?}"
        );
        let in_hand = 12 - first.len() - rest.len();
        assert!(in_hand <= 1, "{steps}: {first:?} {rest:?}");
        if !died {
            assert_eq!((first.len(), in_hand), (8, 0));
            all_done = true;
            break;
        }
    }
    assert!(all_done);
}

#[test]
fn of_several_who_see_the_last_item_one_takes_it() {
    let queue = ByteQueue::create(None).unwrap();
    let taken = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while taken.load(Ordering::Relaxed) < 20_000 {
                    if queue.try_take(|item| assert_eq!(item.data, b"item")).is_ok() {
                        taken.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for _ in 0..20_000 {
            while queue.len() > 1 {
                std::hint::spin_loop();
            }
            put(&queue, b"item");
        }
    });
    assert_eq!(taken.into_inner(), 20_000);
    assert!(queue.is_empty());
}
