//! Hands out contiguous ranges of KV-cache slots.

use std::ops::Range;

/// First-fit allocator of contiguous slot ranges.
///
/// Freed ranges merge with their neighbours. The free list is short (at most one range more than there are allocated
/// ones), so a linear search is enough.
#[derive(Debug, Clone)]
pub struct SlotAllocator {
    /// Free ranges, ascending, none empty, none adjacent to another.
    free: Vec<Range<usize>>,
    capacity: usize,
}

impl SlotAllocator {
    /// Creates an allocator over the slots `0..capacity`, all free.
    pub fn new(capacity: usize) -> Self {
        let free = if capacity == 0 {
            Vec::new()
        } else {
            vec![Range {
                start: 0,
                end: capacity,
            }]
        };
        Self { free, capacity }
    }

    /// Takes `count` adjacent slots, or `None` if no free range is that long.
    ///
    /// Zero slots are always available and are the range `0..0`.
    pub fn allocate(&mut self, count: usize) -> Option<Range<usize>> {
        if count == 0 {
            return Some(0..0);
        }
        let index = self.free.iter().position(|range| range.len() >= count)?;
        let start = self.free[index].start;
        self.free[index].start += count;
        if self.free[index].is_empty() {
            self.free.remove(index);
        }
        Some(start..start + count)
    }

    /// Gives a range back.
    ///
    /// # Panics
    /// If any slot of it is free already or beyond the capacity: the caller's bookkeeping is wrong.
    pub fn release(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let index = self.free.partition_point(|free| free.start < range.start);
        let fits_before = index == 0 || self.free[index - 1].end <= range.start;
        let fits_after = self
            .free
            .get(index)
            .map_or(range.end <= self.capacity, |next| range.end <= next.start);
        assert!(
            fits_before && fits_after,
            "slots {range:?} were not allocated"
        );
        self.free.insert(index, range);
        if self
            .free
            .get(index + 1)
            .is_some_and(|next| next.start == self.free[index].end)
        {
            self.free[index].end = self.free.remove(index + 1).end;
        }
        if index > 0 && self.free[index - 1].end == self.free[index].start {
            self.free[index - 1].end = self.free.remove(index).end;
        }
    }

    /// Number of free slots, not necessarily adjacent.
    pub fn free_slots(&self) -> usize {
        self.free.iter().map(ExactSizeIterator::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_neighbours_merge() {
        let mut slots = SlotAllocator::new(30);
        let ranges: Vec<_> = (0..3).map(|_| slots.allocate(10).unwrap()).collect();
        assert_eq!(slots.allocate(1), None);
        slots.release(ranges[0].clone());
        slots.release(ranges[2].clone());
        assert_eq!(slots.allocate(20), None);
        slots.release(ranges[1].clone());
        assert_eq!(slots.allocate(30), Some(0..30));
    }

    #[test]
    fn nothing_costs_nothing() {
        let mut slots = SlotAllocator::new(0);
        assert_eq!(slots.allocate(0), Some(0..0));
        slots.release(0..0);
        assert_eq!(slots.allocate(1), None);
    }

    #[test]
    #[should_panic(expected = "were not allocated")]
    fn double_release_is_caught() {
        let mut slots = SlotAllocator::new(8);
        let range = slots.allocate(4).unwrap();
        slots.release(range.clone());
        slots.release(range);
    }

    #[test]
    fn random_use_never_overlaps_and_always_recovers() {
        let capacity = 257;
        let mut slots = SlotAllocator::new(capacity);
        let mut owner = vec![None; capacity];
        let mut held: Vec<(usize, Range<usize>)> = Vec::new();
        for step in 0..4000 {
            let uniform = crate::rng::SampleKey::new(3, 0, "slots", 0).uniform(step);
            if uniform < 0.5 && !held.is_empty() {
                let (id, range) = held.swap_remove((uniform * 2.0 * held.len() as f64) as usize);
                for slot in range.clone() {
                    assert_eq!(owner[slot].take(), Some(id));
                }
                slots.release(range);
            } else if let Some(range) = slots.allocate(1 + (uniform * 40.0) as usize) {
                for slot in range.clone() {
                    assert_eq!(owner[slot].replace(step as usize), None);
                }
                held.push((step as usize, range));
            }
            assert_eq!(
                slots.free_slots(),
                owner.iter().filter(|slot| slot.is_none()).count()
            );
        }
        for (_, range) in held {
            slots.release(range);
        }
        assert_eq!(slots.allocate(capacity), Some(0..capacity));
    }
}
