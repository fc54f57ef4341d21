//! A worker's life: initializer, tasks, end.

use std::io::{self, Write};
use std::sync::atomic::Ordering;

use super::array::Port;
use super::frame::{Frames, Sink};
use super::function::{run_initializer, run_item, CodeAddress, Ran, Thunk};
use super::ledger::{claimed_payload, inline_results_at, worker_name, MEASURE, RESULT_PARTS};
use crate::channel::{Channel, Idle, SLOT_INLINE_BYTES};
use crate::os::time::monotonic_ns;
use crate::pool::worker::Worker;
use crate::process::{begin_as_worker, end_family};

/// The exit code of a worker that cannot go on: its memory makes no sense, or there is none left to say anything.
const CANNOT_GO_ON: i32 = 70;

/// Runs tasks until there are no more; gives the exit code.
pub(super) fn worker_main(mut worker: Worker, initializer: Option<&dyn Fn()>) -> i32 {
    let (seat, channel) = (worker.seat(), worker.channel().clone());
    let number = channel.seat(seat).number.load(Ordering::Relaxed);
    begin_as_worker(number, worker_name(number));
    let port = Port::new(channel.clone(), Channel::owner(seat));
    if let Some(initializer) = initializer {
        let initialized = run_initializer(initializer);
        port.end_forked_copies();
        if let Err(text) = initialized {
            worker.report_broken(&text);
            return 1;
        }
    }
    let port = port.open();
    worker.ready();
    let code = loop {
        while let Some(slot) = worker.claim() {
            if !run_slot(&worker, slot, &port) {
                return CANNOT_GO_ON;
            }
            worker.complete(slot);
            if worker.is_spent() {
                break;
            }
        }
        if worker.is_spent() || worker.idle() == Idle::Finish {
            break 0;
        }
    };
    end_family();
    let _ = io::stdout().flush();
    code
}

fn thunk_of(channel: &Channel, function: u32) -> Result<Thunk, &'static str> {
    if function >= channel.header().life.functions.load(Ordering::Acquire) {
        return Err("its function is unknown");
    }
    let word = channel.function_entry(function).load(Ordering::Acquire);
    // SAFETY: the table is written by the caller alone, before it raises the count; this is a copy of its program.
    Ok(unsafe { CodeAddress::from_word(word).to_thunk() })
}

/// Runs the items of a claimed slot. False if this worker cannot go on.
pub(super) fn run_slot(worker: &Worker, number: u32, port: &Port) -> bool {
    let channel = worker.channel();
    let s = channel.slot(number);
    let thunk = thunk_of(channel, s.function.load(Ordering::Relaxed));
    let kind = s.kind.load(Ordering::Relaxed);
    let (first, _) = s.range();
    let mut copy = [0u8; SLOT_INLINE_BYTES];
    let mut payload = claimed_payload(channel, s).unwrap_or_default();
    let at = inline_results_at(s);
    if at == 0 && payload.len() <= copy.len() {
        // The result may be written over the argument.
        copy[..payload.len()].copy_from_slice(payload);
        payload = &copy[..payload.len()];
    }
    let mut arguments = Frames::of(payload);
    let _ = arguments.by_ref().take(first as usize).count();
    // SAFETY: the slot is this worker's, so its inline bytes are. A payload that is still to be read lies elsewhere.
    let mut sink = unsafe {
        Sink::over(
            channel.arena(),
            Channel::owner(worker.seat()),
            s.inline().add(at),
            SLOT_INLINE_BYTES - at,
        )
    };
    let began = if kind & MEASURE != 0 { monotonic_ns() } else { 0 };
    let (mut with_parts, mut failed) = (false, 0);
    while let Some(item) = worker.begin_item(s) {
        crate::crash_point!("item-begun");
        let ran = run_item(thunk, arguments.next(), &mut sink, port, || {
            let _ = io::stdout().flush();
            worker.output_text().unwrap_or_default()
        });
        if ran == Ran::Failed {
            worker.count_failure();
            failed += 1;
        }
        worker.end_item(s);
        match ran {
            Ran::Plain | Ran::Failed => {}
            Ran::WithParts if with_parts => {}
            Ran::WithParts => {
                with_parts = true;
                s.kind.store(kind | RESULT_PARTS, Ordering::Relaxed);
            }
            Ran::NoMemory => return false,
        }
        if let Some(block) = sink.block() {
            s.result_block.store(block.raw(), Ordering::Relaxed);
            crate::crash_point!("item-placed");
        }
        s.result_len.store(sink.len() as u64, Ordering::Relaxed);
        // Sync point *result content*: pairs with the Acquire of who looks at a dead worker's slot.
        s.finished.store(item + 1, Ordering::Release);
        crate::crash_point!("item-finished");
        if worker.keeps_output() {
            // What is left of a line is this item's, too.
            let _ = io::stdout().flush();
            worker.forget_output();
        }
        sink.free_outgrown();
    }
    if failed != 0 {
        channel.note(number).failed.store(failed, Ordering::Relaxed);
    }
    if kind & MEASURE != 0 {
        channel.note(number).began_ns.store(began, Ordering::Relaxed);
        s.elapsed_ns.store(monotonic_ns() - began, Ordering::Relaxed);
    }
    // From here on the block goes with the slot.
    let _ = sink.into_block();
    true
}
