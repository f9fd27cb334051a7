//! A mutable slice that several threads write disjoint parts of.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice whose parts are handed to several threads by their indices.
///
/// For outputs that interleave (columns of a matrix, slots of a cache) and so cannot be split up front.
pub struct SharedSlice<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

impl<T> Clone for SharedSlice<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for SharedSlice<'_, T> {}

// SAFETY: the two accessors below leave it to their callers that no element is reached twice at a time.
unsafe impl<T: Send> Send for SharedSlice<'_, T> {}
// SAFETY: as for `Send`.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    /// Shares `slice` for as long as it is borrowed.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            borrow: PhantomData,
        }
    }

    /// Returns the elements in `range`.
    ///
    /// # Safety
    /// Nothing else reads or writes these elements while the returned slice lives.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "callers keep the parts disjoint")]
    pub unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: within the slice by the assertion; unshared by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// Writes one element.
    ///
    /// # Safety
    /// Nothing else reads or writes this element at the same time.
    #[inline(always)]
    pub unsafe fn write(&self, index: usize, value: T) {
        assert!(index < self.len);
        // SAFETY: within the slice by the assertion; unshared by the caller's promise.
        unsafe { self.start.add(index).write(value) }
    }
}
