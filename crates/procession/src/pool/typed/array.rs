//! Arrays that travel in shared memory, beside what serde encodes.
//!
//! # Who has an array's block
//!
//! An argument's block stays the caller's while its task lives, so that a task that did not begin can be given to another
//! worker, and one that did not end loses nothing. The worker has it *lent*: it may read and write it, as its item runs only
//! once. When the item ends, a block is
//!
//! * **dropped** by the task: the caller frees it when the result arrives;
//! * **returned**, in the result: the caller has it already;
//! * **kept** (in a global, by a thread): the worker makes it its own, and it lives as long as the worker.
//!
//! A block that the worker made is its own until its result arrives, and then the caller's. So a block is never freed by
//! one side while the other may see it, whoever dies.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr;
use std::sync::atomic::{fence, AtomicBool, Ordering};
use std::sync::Arc;

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::frame::Part;
use crate::channel::Channel;
use crate::os::process::{exit_now, generation};
use crate::shm::{AllocError, Block, Owner};

/// Smaller arrays travel inside of what serde encodes: a block and its bookkeeping would cost more than the copy.
const SMALLEST_OUTSIDE_BYTES: usize = 4096;

mod sealed {
    pub trait Sealed {}
}

/// Numbers that can be the elements of an [`Array`]: any bytes are a value of theirs.
pub trait Plain: sealed::Sealed + Copy + Default + Send + Sync + 'static {}

macro_rules! plain {
    ($($type:ty)+) => {
        $(impl sealed::Sealed for $type {}
        impl Plain for $type {})+
    };
}

plain!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64);

/// Bytes that travel to and from the workers of a [`Pool`](crate::Pool) in shared memory.
pub type Bytes = Array<u8>;

/// Numbers that travel to and from the workers of a [`Pool`](crate::Pool) in shared memory: one copy in, and none to read
/// them there.
///
/// Wherever it stands in an argument or a result, it bypasses serde, which would look at each element. It is as good as a
/// slice of its elements, which the task may also change and return: that costs no copy at all. An array that
/// [`Pool::array`](crate::Pool::array) has made lies in shared memory from the beginning, and is not copied on its way in,
/// either.
///
/// A task may keep its argument's array (in a global, say); its memory is then used until the worker ends. A process that
/// is forked from one that holds arrays in shared memory shares them, and sees what becomes of that memory; give it a
/// copy ([`Array::into_vec`]).
///
/// Outside of a pool's work it is a `Vec` on the heap, and serde encodes its bytes.
///
/// ```no_run
/// use procession::{Array, Pool};
///
/// let pool = Pool::new()?;
/// let doubled = pool.apply(
///     |mut numbers: Array<f64>| {
///         numbers.iter_mut().for_each(|x| *x *= 2.0);
///         numbers
///     },
///     Array::from(vec![1.5; 1_000_000]),
/// )?;
/// assert_eq!(doubled[999_999], 3.0);
/// # Ok::<(), procession::Error>(())
/// ```
pub struct Array<T: Plain>(Store<T>);

enum Store<T> {
    Heap(Vec<T>),
    Shared { block: Arc<SharedBlock>, len: usize },
}

/// A block that this process may use. Freed at the end, if it is this process's own.
struct SharedBlock {
    channel: Arc<Channel>,
    block: Block,
    owner: Owner,
    /// Whether it is ours to free: not if it is lent, and no longer when it was given away.
    ours: AtomicBool,
    /// Whether it was about to leave: nobody may write to it any more.
    leaving: AtomicBool,
    generation: u32,
}

impl SharedBlock {
    fn start(&self) -> *mut u8 {
        self.channel.arena().start(self.block)
    }
}

impl Drop for SharedBlock {
    fn drop(&mut self) {
        // A forked child has a copy of this value, but the block is its parent's.
        if self.ours.load(Ordering::Relaxed) && self.generation == generation() {
            self.channel.arena().free(self.block, self.owner);
        }
    }
}

impl<T: Plain> Array<T> {
    /// An array of zeros. In a worker it lies in shared memory at once, if it is large: to return it costs no copy.
    pub fn zeroed(len: usize) -> Self {
        let outside = bytes_of::<T>(len).filter(|&bytes| bytes >= SMALLEST_OUTSIDE_BYTES);
        let made =
            outside.and_then(|_| Port::with(|port| port.filter(|port| port.is_worker())?.zeroed(len).ok()));
        made.unwrap_or_else(|| Array(Store::Heap(vec![T::default(); len])))
    }

    /// An array of zeros that lies in the shared memory of this channel.
    pub(super) fn zeroed_in(channel: &Arc<Channel>, owner: Owner, len: usize) -> Result<Self, AllocError> {
        let largest_bytes = isize::MAX as u64;
        let bytes = bytes_of::<T>(len).ok_or(AllocError::TooLarge {
            asked_bytes: u64::MAX,
            largest_bytes,
        })?;
        let block = channel.arena().alloc(bytes as u64, owner)?;
        let block = SharedBlock::new(channel, block, owner, true);
        // SAFETY: the block is ours and has that many bytes. Blocks are used again, so they are not zero by themselves.
        unsafe { ptr::write_bytes(block.start(), 0, bytes) };
        Ok(Array(Store::Shared { block, len }))
    }

    /// Its elements on the heap; copied, if they lie in shared memory.
    pub fn into_vec(self) -> Vec<T> {
        match self.0 {
            Store::Heap(elements) => elements,
            Store::Shared { .. } => self.to_vec(),
        }
    }

    /// Whether it lies in shared memory.
    pub fn is_shared(&self) -> bool {
        matches!(self.0, Store::Shared { .. })
    }

    fn raw_bytes(&self) -> &[u8] {
        let elements: &[T] = self;
        // SAFETY: plain numbers are initialised bytes without padding.
        unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), std::mem::size_of_val(elements)) }
    }

    fn from_raw_bytes(bytes: &[u8]) -> Option<Self> {
        let size = size_of::<T>();
        if !bytes.len().is_multiple_of(size) {
            return None;
        }
        let mut elements = vec![T::default(); bytes.len() / size];
        // SAFETY: the vector has exactly that many bytes, and any bytes are plain numbers.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), elements.as_mut_ptr().cast(), bytes.len()) };
        Some(Array(Store::Heap(elements)))
    }
}

impl SharedBlock {
    fn new(channel: &Arc<Channel>, block: Block, owner: Owner, ours: bool) -> Arc<Self> {
        let (channel, ours) = (channel.clone(), AtomicBool::new(ours));
        Arc::new(SharedBlock {
            channel,
            block,
            owner,
            ours,
            leaving: AtomicBool::new(false),
            generation: generation(),
        })
    }
}

fn bytes_of<T>(len: usize) -> Option<usize> {
    len.checked_mul(size_of::<T>())
        .filter(|&bytes| isize::try_from(bytes).is_ok())
}

impl<T: Plain> Deref for Array<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Store::Heap(elements) => elements,
            // SAFETY: the block has that many elements (checked when the array was made), is aligned for any of them, all
            // its bytes are plain numbers, and as long as this value lives nobody else touches it.
            Store::Shared { block, len } => unsafe { std::slice::from_raw_parts(block.start().cast(), *len) },
        }
    }
}

impl<T: Plain> DerefMut for Array<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // Others may share it, say behind a mutex: one has sent it, and another writes to it before it has left.
        if matches!(&self.0, Store::Shared { block, .. } if block.leaving.load(Ordering::Acquire)) {
            self.0 = Store::Heap(self.to_vec());
        }
        match &mut self.0 {
            Store::Heap(elements) => elements,
            // SAFETY: as in `deref`; other holders of the `Arc` never look at the elements while this value lives, unless
            // it is about to leave.
            Store::Shared { block, len } => unsafe {
                std::slice::from_raw_parts_mut(block.start().cast(), *len)
            },
        }
    }
}

impl<T: Plain> From<Vec<T>> for Array<T> {
    fn from(elements: Vec<T>) -> Self {
        Array(Store::Heap(elements))
    }
}

impl<T: Plain> From<&[T]> for Array<T> {
    fn from(elements: &[T]) -> Self {
        let mut array = Array::zeroed(elements.len());
        array.copy_from_slice(elements);
        array
    }
}

impl<T: Plain> FromIterator<T> for Array<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        Vec::from_iter(elements).into()
    }
}

impl<T: Plain> Default for Array<T> {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl<T: Plain> Clone for Array<T> {
    fn clone(&self) -> Self {
        Array::from(&**self)
    }
}

impl<T: Plain> AsRef<[T]> for Array<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T: Plain> AsMut<[T]> for Array<T> {
    fn as_mut(&mut self) -> &mut [T] {
        self
    }
}

impl<'a, T: Plain> IntoIterator for &'a Array<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: Plain + PartialEq> PartialEq for Array<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Plain + Eq> Eq for Array<T> {}

impl<T: Plain + fmt::Debug> fmt::Debug for Array<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// What serde sees of an array.
#[derive(Serialize, Deserialize)]
#[serde(rename = "Array")]
enum Wire<B> {
    Inside(B),
    /// Which one of those that travel beside the body.
    Beside(u32),
}

struct RawBytes<B>(B);

impl Serialize for RawBytes<&[u8]> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<T: Plain> Serialize for Array<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = self.raw_bytes();
        let outside = bytes.len() >= SMALLEST_OUTSIDE_BYTES && !serializer.is_human_readable();
        let number = outside.then(|| Port::with(|port| port?.send(self))).flatten();
        match number {
            Some(number) => Wire::<RawBytes<&[u8]>>::Beside(number).serialize(serializer),
            None => Wire::Inside(RawBytes(bytes)).serialize(serializer),
        }
    }
}

impl<'de, T: Plain> Deserialize<'de> for RawBytes<Array<T>> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<T>(std::marker::PhantomData<T>);

        impl<'de, T: Plain> Visitor<'de> for Elements<T> {
            type Value = Array<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "the bytes of numbers of {} bytes each", size_of::<T>())
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Array<T>, E> {
                Array::from_raw_bytes(bytes).ok_or_else(|| E::invalid_length(bytes.len(), &self))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<Array<T>, A::Error> {
                let mut collected = Vec::new();
                while let Some(byte) = bytes.next_element::<u8>()? {
                    collected.push(byte);
                }
                self.visit_bytes(&collected)
            }
        }

        deserializer
            .deserialize_bytes(Elements(std::marker::PhantomData))
            .map(RawBytes)
    }
}

impl<'de, T: Plain> Deserialize<'de> for Array<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Wire::<RawBytes<Array<T>>>::deserialize(deserializer)? {
            Wire::Inside(RawBytes(array)) => Ok(array),
            Wire::Beside(number) => Port::with(|port| port?.receive(number))
                .ok_or_else(|| D::Error::custom("the array is not in this message, or has other elements")),
        }
    }
}

/// Where arrays leave and enter a process, beside the body that is being encoded or decoded by this thread.
pub(super) struct Port {
    channel: Arc<Channel>,
    owner: Owner,
    arrived: RefCell<Vec<Option<Arrived>>>,
    leaving: RefCell<Vec<Leaving>>,
    generation: u32,
}

struct Arrived {
    block: Arc<SharedBlock>,
    len_bytes: u64,
}

enum Leaving {
    /// A copy, made for this journey.
    Copy(Part),
    /// The array's own block; it can leave if its value is gone by then.
    Itself(Arc<SharedBlock>, u64),
}

thread_local! {
    static PORT: Cell<*const Port> = const { Cell::new(ptr::null()) };
}

/// While it lives, arrays of this thread travel by its port.
pub(super) struct OpenPort<'p> {
    before: *const Port,
    port: &'p Port,
}

impl Deref for OpenPort<'_> {
    type Target = Port;

    fn deref(&self) -> &Port {
        self.port
    }
}

impl Drop for OpenPort<'_> {
    fn drop(&mut self) {
        PORT.set(self.before);
    }
}

impl Port {
    /// A port of the process or worker that takes its blocks as `owner`.
    pub fn new(channel: Arc<Channel>, owner: Owner) -> Self {
        Port {
            channel,
            owner,
            arrived: RefCell::default(),
            leaving: RefCell::default(),
            generation: generation(),
        }
    }

    /// A task or an initializer may fork, and return in both processes. The copy is no worker: it ends here, before it writes to memory that
    /// it shares with the worker.
    #[inline]
    pub fn end_forked_copies(&self) {
        if generation() != self.generation {
            exit_now(0);
        }
    }

    pub fn open(&self) -> OpenPort<'_> {
        OpenPort {
            before: PORT.replace(self),
            port: self,
        }
    }

    fn with<R>(look: impl FnOnce(Option<&Port>) -> R) -> R {
        // SAFETY: null, or a port that its `OpenPort` borrows; that one resets the pointer before the borrow ends.
        look(unsafe { PORT.get().as_ref() })
    }

    fn is_worker(&self) -> bool {
        self.owner != Owner::CALLER
    }

    fn zeroed<T: Plain>(&self, len: usize) -> Result<Array<T>, AllocError> {
        Array::zeroed_in(&self.channel, self.owner, len)
    }

    fn copy(&self, bytes: &[u8]) -> Option<Part> {
        let arena = self.channel.arena();
        let block = arena.alloc(bytes.len() as u64, self.owner).ok()?;
        // SAFETY: the block is ours, and has that many bytes.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), arena.start(block), bytes.len()) };
        Some(Part {
            block,
            len: bytes.len() as u64,
        })
    }

    /// Lets an array leave beside the body, under a number; `None` if there is no memory for it.
    fn send<T: Plain>(&self, array: &Array<T>) -> Option<u32> {
        let bytes = array.raw_bytes();
        let leaving = match &array.0 {
            Store::Shared { block, .. }
                if Arc::ptr_eq(&block.channel, &self.channel) && block.generation == generation() =>
            {
                block.leaving.store(true, Ordering::Release);
                Leaving::Itself(block.clone(), bytes.len() as u64)
            }
            _ => Leaving::Copy(self.copy(bytes)?),
        };
        let mut list = self.leaving.borrow_mut();
        list.push(leaving);
        Some(list.len() as u32 - 1)
    }

    fn receive<T: Plain>(&self, number: u32) -> Option<Array<T>> {
        let Arrived { block, len_bytes } = self.arrived.borrow_mut().get_mut(number as usize)?.take()?;
        let len = usize::try_from(len_bytes).ok()? / size_of::<T>();
        // An argument's block is looked at again when the item ends: whoever has it then keeps it.
        if !block.ours.load(Ordering::Relaxed) {
            let (block, kept) = (block.clone(), &mut self.arrived.borrow_mut()[number as usize]);
            *kept = Some(Arrived {
                block,
                len_bytes: u64::MAX,
            });
        }
        (len_bytes != u64::MAX && len_bytes % size_of::<T>() as u64 == 0)
            .then(|| Array(Store::Shared { block, len }))
    }

    /// Makes the arrays of a message available for decoding. Those of an argument are lent, those of a result are ours.
    ///
    /// Returns false if a number is none of a block that is large enough.
    pub fn begin_receiving(&self, parts: impl Iterator<Item = (u32, u64)>) -> bool {
        let mut arrived = self.arrived.borrow_mut();
        arrived.clear();
        for (number, len_bytes) in parts {
            let block = self
                .channel
                .arena()
                .check(number)
                .filter(|block| block.capacity() >= len_bytes);
            let Some(block) = block else { return false };
            let block = SharedBlock::new(&self.channel, block, self.owner, !self.is_worker());
            arrived.push(Some(Arrived { block, len_bytes }));
        }
        true
    }

    /// Drops what arrived and was not taken. A worker makes its own what its task still has.
    pub fn end_receiving(&self) {
        let mut list = self.arrived.borrow_mut();
        if list.is_empty() {
            return;
        }
        for Arrived { block, .. } in list.drain(..).flatten() {
            if self.is_worker() && Arc::strong_count(&block) > 1 {
                // It is never freed before this worker ends, as nobody could tell by then whose it is.
                self.channel
                    .arena()
                    .hand_over(block.block, Owner::CALLER, self.owner);
                crate::crash_point!("array-kept");
            }
        }
    }

    /// Whether arrays are about to leave.
    pub fn has_leaving(&self) -> bool {
        !self.leaving.borrow().is_empty()
    }

    /// Lets the arrays leave that were encoded since the last time. To be called after the encoded value is gone: what
    /// is still held by somebody then is copied.
    pub fn end_sending(&self, parts: &mut Vec<Part>) -> bool {
        let mut list = self.leaving.borrow_mut();
        let mut complete = true;
        for leaving in list.drain(..) {
            match leaving {
                Leaving::Copy(part) => parts.push(part),
                Leaving::Itself(block, len) => {
                    // The list of what arrived has a lent block, too. If the task has it no more, it returns.
                    let mut arrived = self.arrived.borrow_mut();
                    let lent = arrived
                        .iter_mut()
                        .find(|a| a.as_ref().is_some_and(|a| Arc::ptr_eq(&a.block, &block)));
                    let listed = lent.as_ref().map_or(0, |_| 1);
                    let unshared = Arc::strong_count(&block) == 1 + listed;
                    // Pairs with the release of whoever dropped it last, perhaps in another thread.
                    fence(Ordering::Acquire);
                    if unshared {
                        if let Some(lent) = lent {
                            *lent = None;
                        }
                        block.ours.store(false, Ordering::Relaxed);
                        parts.push(Part {
                            block: block.block,
                            len,
                        });
                        continue;
                    }
                    // SAFETY: the array has that many bytes, and nobody writes them: see `deref_mut`.
                    let bytes = unsafe { std::slice::from_raw_parts(block.start(), len as usize) };
                    match self.copy(bytes) {
                        Some(part) => parts.push(part),
                        None => complete = false,
                    }
                }
            }
        }
        complete
    }

    /// Frees a block of this process.
    pub fn free(&self, block: Block) {
        self.channel.arena().free(block, self.owner);
    }

    /// Takes back what was about to leave.
    pub fn cancel_sending(&self) {
        for leaving in self.leaving.borrow_mut().drain(..) {
            if let Leaving::Copy(part) = leaving {
                self.channel.arena().free(part.block, self.owner);
            }
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.cancel_sending();
    }
}
