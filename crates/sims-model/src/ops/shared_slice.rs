//! A mutable slice that several threads write disjoint parts of.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice whose parts are handed to several threads by their indices.
///
/// For outputs that interleave (columns of a matrix, slots of a cache) and so cannot be split up front.
#[derive(Clone, Copy)]
pub struct SharedSlice<'a> {
    start: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the two accessors below leave it to their callers that no element is reached twice at a time.
unsafe impl Send for SharedSlice<'_> {}
// SAFETY: as for `Send`.
unsafe impl Sync for SharedSlice<'_> {}

impl<'a> SharedSlice<'a> {
    /// Shares `slice` for as long as it is borrowed.
    pub fn new(slice: &'a mut [f32]) -> Self {
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
    pub unsafe fn part(&self, range: Range<usize>) -> &mut [f32] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: within the slice by the assertion; unshared by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// Writes one element.
    ///
    /// # Safety
    /// Nothing else reads or writes this element at the same time.
    #[inline(always)]
    pub unsafe fn write(&self, index: usize, value: f32) {
        assert!(index < self.len);
        // SAFETY: within the slice by the assertion; unshared by the caller's promise.
        unsafe { self.start.add(index).write(value) }
    }
}
