//! How items lie in shared memory: one frame after the other.
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | header: the length of what follows times 4, plus [`PARTS`] and [`FAILED`]; little endian |
//! | … | body: the postcard encoding of an argument, a result or a [`Failure`](super::function::Failure) |
//! | 12 each | only with `PARTS`: block number (4) and length in bytes (8) of each array that travels beside the body |
//! | 4 | only with `PARTS`: how many arrays there are |
//!
//! Bodies are opaque: who hands frames on, counts them or frees their arrays never decodes a body.

use postcard::ser_flavors::Flavor;

use crate::shm::{AllocError, Arena, Block, Owner};

/// The bytes of a frame's header.
pub(super) const HEADER_BYTES: usize = 8;
/// Header flag: arrays travel beside the body.
pub(super) const PARTS: u64 = 1;
/// Header flag: the body says why there is no result.
pub(super) const FAILED: u64 = 2;
const FLAG_BITS: u32 = 2;
const PART_BYTES: usize = 12;

/// An array that travels beside a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub block: Block,
    pub len: u64,
}

/// Memory that grows while bytes are written to it: given memory first, then blocks of the arena.
#[derive(Debug)]
pub(super) struct Sink<'a> {
    arena: &'a Arena,
    owner: Owner,
    start: *mut u8,
    capacity: usize,
    len: usize,
    block: Option<Block>,
    /// Blocks that became too small. Others may know them as the place of what was written so far.
    outgrown: Vec<Block>,
    failure: Option<AllocError>,
}

impl<'a> Sink<'a> {
    /// A sink that fills these bytes before it takes blocks for `owner`.
    ///
    /// # Safety
    /// `capacity` bytes from `start` on can be written, and nobody else uses them during the sink's life.
    pub unsafe fn over(arena: &'a Arena, owner: Owner, start: *mut u8, capacity: usize) -> Self {
        Sink {
            arena,
            owner,
            start,
            capacity,
            len: 0,
            block: None,
            outgrown: Vec::new(),
            failure: None,
        }
    }

    /// A sink in a block that has room for `bytes` at least.
    pub fn in_block(arena: &'a Arena, owner: Owner, bytes: usize) -> Result<Self, AllocError> {
        let block = arena.alloc(bytes as u64, owner)?;
        let (start, capacity) = (arena.start(block), block.capacity() as usize);
        Ok(Sink {
            arena,
            owner,
            start,
            capacity,
            len: 0,
            block: Some(block),
            outgrown: Vec::new(),
            failure: None,
        })
    }

    /// How many bytes were written.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The bytes that were written.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: that many bytes have been written there, and only `&mut self` writes more.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// The block that holds all of the bytes, if one had to be taken.
    #[inline]
    pub fn block(&self) -> Option<Block> {
        self.block
    }

    /// Frees the blocks that became too small, once everybody knows the present one.
    #[inline]
    pub fn free_outgrown(&mut self) {
        for block in self.outgrown.drain(..) {
            self.arena.free(block, self.owner);
        }
    }

    /// Gives the block away.
    pub fn into_block(mut self) -> Option<Block> {
        self.block.take()
    }

    /// Gives all that was written away in a block, taken now if there is none yet.
    pub fn into_whole_block(mut self) -> Result<Block, AllocError> {
        if let Some(block) = self.block.take() {
            return Ok(block);
        }
        let block = self.arena.alloc(self.len as u64, self.owner)?;
        // SAFETY: the new block is ours, and has room for what was written elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(self.start, self.arena.start(block), self.len) };
        Ok(block)
    }

    /// Why a write failed.
    pub fn failure(&self) -> Option<&AllocError> {
        self.failure.as_ref()
    }

    /// Whether a write failed for want of a block, as may not be the case for long.
    pub fn is_full(&self) -> bool {
        matches!(self.failure, Some(AllocError::Full))
    }

    /// Forgets what was written from this length on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Writes bytes at the end; false, with the reason kept, if there is no room and no memory.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.capacity - self.len && !self.grow(bytes.len()) {
            return false;
        }
        // SAFETY: there is room for the bytes behind what was written, and no one else's bytes lie there.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(self.len), bytes.len()) };
        self.len += bytes.len();
        true
    }

    #[cold]
    fn grow(&mut self, more: usize) -> bool {
        let wanted = (self.len + more).max(self.capacity * 2);
        let block = match self.arena.alloc(wanted as u64, self.owner) {
            Ok(block) => block,
            Err(failure) => {
                self.failure = Some(failure);
                return false;
            }
        };
        let start = self.arena.start(block);
        // SAFETY: the new block is ours, larger than what was written, and elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(self.start, start, self.len) };
        self.outgrown.extend(self.block.replace(block));
        (self.start, self.capacity) = (start, block.capacity() as usize);
        true
    }

    /// Begins a frame, and returns where.
    #[inline]
    pub fn begin_frame(&mut self) -> Option<usize> {
        let at = self.len;
        self.extend(&[0; HEADER_BYTES]).then_some(at)
    }

    /// Ends the frame that begins at `at`, with the arrays that travel beside it.
    #[inline]
    pub fn end_frame(&mut self, at: usize, flags: u64, parts: &[Part]) -> bool {
        let mut flags = flags;
        if !parts.is_empty() {
            flags |= PARTS;
            for part in parts {
                if !(self.extend(&part.block.raw().to_le_bytes()) && self.extend(&part.len.to_le_bytes())) {
                    return false;
                }
            }
            if !self.extend(&(parts.len() as u32).to_le_bytes()) {
                return false;
            }
        }
        let header = ((self.len - at - HEADER_BYTES) as u64) << FLAG_BITS | flags;
        // SAFETY: `begin_frame` has written that many bytes at `at`.
        unsafe {
            self.start
                .add(at)
                .cast::<[u8; HEADER_BYTES]>()
                .write_unaligned(header.to_le_bytes())
        };
        true
    }
}

impl Drop for Sink<'_> {
    fn drop(&mut self) {
        self.outgrown.extend(self.block);
        self.free_outgrown();
    }
}

/// Lets postcard write to a sink.
pub(super) struct ToSink<'s, 'a>(pub &'s mut Sink<'a>);

impl Flavor for ToSink<'_, '_> {
    type Output = ();

    #[inline]
    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0
            .extend(data)
            .then_some(())
            .ok_or(postcard::Error::SerializeBufferFull)
    }

    #[inline]
    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.try_extend(&[data])
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// One frame, checked to lie inside its bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    pub body: &'a [u8],
    pub failed: bool,
    trailer: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The arrays that travel beside the body, as their numbers stand there.
    pub fn parts(self) -> impl ExactSizeIterator<Item = (u32, u64)> + 'a {
        self.trailer.chunks_exact(PART_BYTES).map(|entry| {
            let (block, len) = entry.split_at(4);
            (
                u32::from_le_bytes(block.try_into().unwrap_or_default()),
                u64::from_le_bytes(len.try_into().unwrap_or_default()),
            )
        })
    }
}

/// Frames one after the other; ends at the first that is none.
#[derive(Debug, Clone)]
pub(super) struct Frames<'a>(&'a [u8]);

impl<'a> Frames<'a> {
    pub fn of(bytes: &'a [u8]) -> Self {
        Frames(bytes)
    }

    /// The bytes of the frames not yet read.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    #[inline]
    fn next(&mut self) -> Option<Frame<'a>> {
        let (header, rest) = self.0.split_first_chunk::<HEADER_BYTES>()?;
        let header = u64::from_le_bytes(*header);
        let (content, rest) = rest.split_at_checked(usize::try_from(header >> FLAG_BITS).ok()?)?;
        let (body, trailer) = if header & PARTS != 0 {
            let (content, count) = content.split_last_chunk::<4>()?;
            let bytes = (u32::from_le_bytes(*count) as usize).checked_mul(PART_BYTES)?;
            content.split_at_checked(content.len().checked_sub(bytes)?)?
        } else {
            (content, [].as_slice())
        };
        self.0 = rest;
        Some(Frame {
            body,
            failed: header & FAILED != 0,
            trailer,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::memory::{create_sealed, Mapping};
    use crate::shm::ArenaPlan;
    use std::sync::Arc;

    fn arena() -> Arena {
        let plan = ArenaPlan::new(0, 1 << 20);
        let mapping = Mapping::new(create_sealed("test", plan.end()).unwrap()).unwrap();
        Arena::new(Arc::new(mapping), plan, 1 << 20)
    }

    #[test]
    fn frames_are_read_as_they_were_written_also_when_the_sink_grew() {
        let arena = arena();
        let mut first = [0u8; 24];
        // SAFETY: the array outlives the sink, and only the sink uses it.
        let mut sink = unsafe { Sink::over(&arena, Owner::CALLER, first.as_mut_ptr(), first.len()) };
        let block = arena.alloc(10, Owner::CALLER).unwrap();
        let bodies: Vec<Vec<u8>> = (0..40u8).map(|n| vec![n; usize::from(n) * 20]).collect();
        for (n, body) in bodies.iter().enumerate() {
            let at = sink.begin_frame().unwrap();
            assert!(sink.extend(body));
            let parts = [Part { block, len: n as u64 }];
            assert!(sink.end_frame(at, if n == 3 { FAILED } else { 0 }, &parts[..n % 2]));
        }
        assert!(sink.block().is_some());
        let mut frames = Frames::of(sink.bytes());
        for (n, body) in bodies.iter().enumerate() {
            let frame = frames.next().unwrap();
            assert_eq!((frame.body, frame.failed), (body.as_slice(), n == 3));
            let parts: Vec<_> = frame.parts().collect();
            assert_eq!(parts, [(block.raw(), n as u64)][..n % 2].to_vec());
        }
        assert!(frames.next().is_none() && frames.rest().is_empty());
    }

    #[test]
    fn bytes_that_are_no_frame_are_refused() {
        for bytes in [
            &[][..],
            &[1; 7],
            &[255; 8],
            &[255; 64],
            &[5, 0, 0, 0, 0, 0, 0, 0, 9],
            &[17, 0, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9],
        ] {
            assert!(Frames::of(bytes).next().is_none(), "{bytes:?}");
        }
    }
}
