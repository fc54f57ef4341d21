//! Where bytes lie in slots and blocks; whatever is read there is checked.

use super::*;

pub(super) fn payload_bytes<'a>(channel: &'a Channel, s: &'a Slot) -> Option<&'a [u8]> {
    let len = usize::try_from(s.payload_len.load(Ordering::Relaxed)).ok()?;
    bytes_at(channel, s, s.payload_block.load(Ordering::Relaxed), 0, len)
}

/// The payload of a slot that this worker has claimed.
pub(in crate::pool::typed) fn claimed_payload<'a>(channel: &'a Channel, s: &'a Slot) -> Option<&'a [u8]> {
    payload_bytes(channel, s)
}

/// Where inline results of a slot begin.
pub(in crate::pool::typed) fn inline_results_at(s: &Slot) -> usize {
    let behind = s.kind.load(Ordering::Relaxed) & RESULTS_BEHIND != 0;
    let len = if behind {
        s.payload_len.load(Ordering::Relaxed) as usize
    } else {
        0
    };
    len.min(SLOT_INLINE_BYTES)
}

pub(super) fn result_bytes<'a>(channel: &'a Channel, s: &'a Slot) -> Option<&'a [u8]> {
    let len = usize::try_from(s.result_len.load(Ordering::Relaxed)).ok()?;
    bytes_at(
        channel,
        s,
        s.result_block.load(Ordering::Relaxed),
        inline_results_at(s),
        len,
    )
}

pub(super) fn bytes_at<'a>(
    channel: &'a Channel,
    s: &'a Slot,
    block: u32,
    inline_at: usize,
    len: usize,
) -> Option<&'a [u8]> {
    let start = if block == Block::NONE {
        (inline_at + len <= SLOT_INLINE_BYTES).then(|| s.inline().wrapping_add(inline_at))?
    } else {
        let block = channel.arena().check(block)?;
        (len as u64 <= block.capacity()).then(|| channel.arena().start(block))?
    };
    // SAFETY: the bytes lie inside the slot or the block, and the state word says whose they are: the caller's if it has the
    // slot, the worker's if that one does. Payloads are written before they are published and never after.
    Some(unsafe { std::slice::from_raw_parts(start, len) })
}

/// Frees the block of a slot's results, if it is the caller's.
pub(in crate::pool::typed) fn free_result_block(channel: &Channel, slot: u32) {
    let block = channel
        .slot(slot)
        .result_block
        .swap(Block::NONE, Ordering::Relaxed);
    if let Some(block) = channel.arena().check(block) {
        channel.arena().free(block, Owner::CALLER);
    }
}

/// Frees the arrays beside results that nobody will decode: those of a delivery's frames from number `from` on.
pub(in crate::pool::typed) fn drop_result_parts(channel: &Channel, delivery: &Delivery, from: u32) {
    if !delivery.has_parts {
        return;
    }
    let frames = Frames::of(Ledger::frames_of(channel, &delivery.content)).take(delivery.count as usize);
    for frame in frames.skip(from as usize) {
        for (block, _) in frame.parts() {
            channel
                .arena()
                .check(block)
                .map(|block| channel.arena().free(block, Owner::CALLER));
        }
    }
}
