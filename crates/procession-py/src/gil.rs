//! State that the GIL guards.

use std::cell::{Cell, UnsafeCell};

use pyo3::prelude::*;

/// A value that is only used with the GIL held, and by one piece of code at a time.
///
/// The rule that makes it sound: inside [`GilCell::with`] no Python code runs and nothing is allocated that the garbage
/// collector tracks, so nothing can let go of the GIL or come back in. A breach is noticed, not undefined.
#[derive(Debug, Default)]
pub struct GilCell<T> {
    busy: Cell<bool>,
    value: UnsafeCell<T>,
}

// SAFETY: every access takes a `Python` token, so the GIL orders all of them; the module declares that it needs the GIL.
unsafe impl<T: Send> Sync for GilCell<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for GilCell<T> {}

struct Busy<'a>(&'a Cell<bool>);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl<T> GilCell<T> {
    /// A cell with this value.
    pub const fn new(value: T) -> Self {
        GilCell {
            busy: Cell::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// Uses the value.
    ///
    /// # Panics
    /// Panics if it is in use already; see the type's rule.
    #[inline]
    pub fn with<R>(&self, _py: Python<'_>, f: impl FnOnce(&mut T) -> R) -> R {
        assert!(
            !self.busy.replace(true),
            "state of the pool is used from within itself"
        );
        let _busy = Busy(&self.busy);
        // SAFETY: the GIL is held and `busy` was clear, so this is the only reference.
        f(unsafe { &mut *self.value.get() })
    }

    /// The value as it is, for the garbage collector.
    ///
    /// # Safety
    /// The GIL is held, and nobody is inside of [`GilCell::with`].
    pub unsafe fn peek(&self) -> &T {
        // SAFETY: the caller vouches that there is no other reference.
        unsafe { &*self.value.get() }
    }
}
