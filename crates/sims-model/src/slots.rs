//! Hands out KV-cache slots in blocks, as sequences grow.

use std::ops::Range;

use crate::prefix_tree::append_range;

/// The slots of a run of consecutive positions, in the order of the positions.
///
/// The slots are those of whole blocks, except for `lent` ones at the start, which are the unused end of another
/// list's last block and go back to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotList {
    /// Neighbouring blocks are one range.
    ranges: Vec<Range<usize>>,
    lent: usize,
    /// Blocks that the list would like to grow into.
    claim: Range<usize>,
}

impl SlotList {
    /// Starts a list in slots that another list does not use.
    pub fn lent(slots: Range<usize>) -> Self {
        Self {
            lent: slots.len(),
            ranges: if slots.is_empty() {
                Vec::new()
            } else {
                vec![slots]
            },
            claim: 0..0,
        }
    }

    /// Returns the number of slots.
    pub fn slots(&self) -> usize {
        self.ranges.iter().map(|range| range.len()).sum()
    }

    /// Returns the slots lent to the list.
    pub fn lent_slots(&self) -> Range<usize> {
        let start = self.ranges.first().map_or(0, |range| range.start);
        start..start + self.lent
    }

    /// Appends the slots of the positions `0..count` to a context, merging neighbours.
    pub fn append_to(&self, context: &mut Vec<Range<usize>>, count: usize) {
        let mut left = count;
        for range in &self.ranges {
            let taken = left.min(range.len());
            append_range(context, &(range.start..range.start + taken));
            left -= taken;
        }
    }

    /// Returns the adjacent slots that hold the positions from `position` on.
    pub fn adjacent_from(&self, position: usize) -> Range<usize> {
        let mut before = 0;
        for range in &self.ranges {
            if position < before + range.len() {
                return range.start + position - before..range.end;
            }
            before += range.len();
        }
        0..0
    }
}

/// Allocator of blocks of slots.
///
/// A sequence reads fastest from adjacent slots, so a list that starts claims the blocks behind its first one for its
/// growth, as many as it may come to need. A claim is a wish: when no other block is free, another list gets claimed
/// ones, those at the end of the longest free run first. With room enough every list is one range; without, every
/// block is used. A search looks at every block, a byte each.
#[derive(Debug, Clone)]
pub struct SlotAllocator {
    slots_per_block: usize,
    used: Vec<bool>,
    claimed: Vec<bool>,
    free: usize,
}

impl SlotAllocator {
    /// Creates an allocator over `blocks` blocks, all free; a block has at least one slot.
    pub fn new(blocks: usize, slots_per_block: usize) -> Self {
        Self {
            slots_per_block: slots_per_block.max(1),
            used: vec![false; blocks],
            claimed: vec![false; blocks],
            free: blocks,
        }
    }

    /// Returns the number of slots, free or not.
    pub fn slots(&self) -> usize {
        self.used.len() * self.slots_per_block
    }

    /// Returns the number of blocks that `slots` slots take.
    pub fn blocks_of(&self, slots: usize) -> usize {
        slots.div_ceil(self.slots_per_block)
    }

    /// Returns the number of free blocks, claimed or not.
    pub fn free_blocks(&self) -> usize {
        self.free
    }

    /// Makes a list at least `slots` long; returns whether there were blocks enough, and takes none if not.
    ///
    /// `expected` is how long the list may get.
    #[must_use]
    pub fn grow(&mut self, list: &mut SlotList, slots: usize, expected: usize) -> bool {
        let have = list.slots();
        let missing = self.blocks_of(slots.saturating_sub(have));
        if missing > self.free {
            return false;
        }
        let expected = self.blocks_of(expected.max(slots).saturating_sub(have));
        for taken in 0..missing {
            let end = list.ranges.last().map(|range| range.end);
            let next = end.filter(|end| end.is_multiple_of(self.slots_per_block));
            let next = next.map(|end| end / self.slots_per_block);
            let block = match next {
                Some(block) if self.used.get(block) == Some(&false) => block,
                _ => self.place(list, expected - taken),
            };
            self.used[block] = true;
            self.free -= 1;
            let start = block * self.slots_per_block;
            append_range(&mut list.ranges, &(start..start + self.slots_per_block));
        }
        true
    }

    /// Gives a list's blocks back; slots that were lent to it stay with their owner.
    ///
    /// # Panics
    /// If any block is free already: the caller's bookkeeping is wrong.
    pub fn release(&mut self, list: SlotList) {
        self.claimed[list.claim].fill(false);
        let mut lent = list.lent;
        for range in list.ranges {
            let first = (range.start + std::mem::take(&mut lent)) / self.slots_per_block;
            for block in first..range.end / self.slots_per_block {
                assert!(
                    std::mem::replace(&mut self.used[block], false),
                    "block {block} was not allocated"
                );
                self.free += 1;
            }
        }
    }

    /// Finds a free block from which a list can best grow to `expected` blocks, and moves its claim there.
    fn place(&mut self, list: &mut SlotList, expected: usize) -> usize {
        self.claimed[std::mem::take(&mut list.claim)].fill(false);
        let unclaimed = |block: usize| !self.used[block] && !self.claimed[block];
        if let Some(run) = self.longest_run(expected, unclaimed) {
            let claim = run.start..run.end.min(run.start + expected);
            self.claimed[claim.clone()].fill(true);
            list.claim = claim.clone();
            return claim.start;
        }
        let free = |block: usize| !self.used[block];
        let run = self.longest_run(self.used.len(), free);
        run.expect("the caller has seen that a block is free").end - 1
    }

    /// Returns the first run of `enough` blocks that fit, else the longest run.
    fn longest_run(&self, enough: usize, fits: impl Fn(usize) -> bool) -> Option<Range<usize>> {
        let mut best = 0..0;
        let mut start = 0;
        for block in 0..self.used.len() {
            if !fits(block) {
                start = block + 1;
                continue;
            }
            if block + 1 - start > best.len() {
                best = start..block + 1;
                if best.len() >= enough {
                    break;
                }
            }
        }
        (!best.is_empty()).then_some(best)
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "a list of one range")]
mod tests {
    use super::*;

    fn context(list: &SlotList, count: usize) -> Vec<Range<usize>> {
        let mut context = Vec::new();
        list.append_to(&mut context, count);
        context
    }

    #[test]
    fn lists_that_grow_together_stay_in_one_range_while_there_is_room() {
        let mut allocator = SlotAllocator::new(10, 4);
        let mut lists = vec![SlotList::default(); 2];
        for slots in 1..=20 {
            for list in &mut lists {
                assert!(allocator.grow(list, slots, 20));
            }
        }
        assert_eq!(context(&lists[0], 20), [0..20]);
        assert_eq!(context(&lists[1], 17), [20..37]);
        assert_eq!(lists[1].adjacent_from(3), 23..40);
        assert_eq!(allocator.free_blocks(), 0);
    }

    #[test]
    fn claimed_blocks_are_taken_when_no_others_are_free() {
        let mut allocator = SlotAllocator::new(5, 4);
        let (mut wide, mut other) = (SlotList::default(), SlotList::default());
        assert!(allocator.grow(&mut wide, 1, 20));
        assert!(allocator.grow(&mut other, 5, 20));
        assert_eq!(context(&other, 5), [16..20, 12..13]);
        assert!(allocator.grow(&mut wide, 12, 20));
        assert_eq!(context(&wide, 12), [0..12]);
        let full = allocator.clone();
        assert!(!allocator.grow(&mut other, 9, 20));
        assert_eq!(allocator.free_blocks(), full.free_blocks());
        allocator.release(wide);
        assert!(allocator.grow(&mut other, 9, 9));
        assert_eq!(context(&other, 9), [16..20, 12..16, 0..1]);
    }

    #[test]
    fn the_end_of_a_block_can_be_lent() {
        let mut allocator = SlotAllocator::new(4, 4);
        let mut prompt = SlotList::default();
        assert!(allocator.grow(&mut prompt, 6, 14));
        let mut response = SlotList::lent(prompt.adjacent_from(6));
        assert_eq!(response.slots(), 2);
        assert!(allocator.grow(&mut response, 5, 8));
        assert_eq!(context(&response, 5), [6..11]);
        assert_eq!(response.lent_slots(), 6..8);
        allocator.release(response);
        assert_eq!(allocator.free_blocks(), 2);
        allocator.release(prompt);
        assert_eq!(allocator.free_blocks(), 4);
    }

    #[test]
    fn nothing_costs_nothing() {
        let mut allocator = SlotAllocator::new(0, 16);
        let mut list = SlotList::default();
        assert!(allocator.grow(&mut list, 0, 100));
        assert!(!allocator.grow(&mut list, 1, 100));
        allocator.release(list);
        assert_eq!(SlotList::lent(7..7), SlotList::default());
    }

    #[test]
    #[should_panic(expected = "was not allocated")]
    fn double_release_is_caught() {
        let mut allocator = SlotAllocator::new(8, 4);
        let mut list = SlotList::default();
        assert!(allocator.grow(&mut list, 4, 4));
        allocator.release(list.clone());
        allocator.release(list);
    }

    #[test]
    fn random_use_never_overlaps_and_always_recovers() {
        let blocks = 57;
        for slots_per_block in [1, 16] {
            let mut allocator = SlotAllocator::new(blocks, slots_per_block);
            let mut lists: Vec<SlotList> = Vec::new();
            for step in 0..4000 {
                let uniform = crate::rng::SampleKey::new(3, 0, "slots", 0).uniform(step);
                let pick = (uniform * 1000.0) as usize;
                if uniform < 0.2 && !lists.is_empty() {
                    allocator.release(lists.swap_remove(pick % lists.len()));
                } else if uniform < 0.8 && !lists.is_empty() {
                    let list = pick % lists.len();
                    let slots = lists[list].slots() + 1 + pick % 3;
                    let needed = allocator.blocks_of(slots - lists[list].slots());
                    let enough = needed <= allocator.free_blocks();
                    assert_eq!(allocator.grow(&mut lists[list], slots, 100), enough);
                } else {
                    lists.push(SlotList::default());
                }
                let mut owned = vec![false; allocator.slots()];
                for slot in lists
                    .iter()
                    .flat_map(|list| context(list, list.slots()))
                    .flatten()
                {
                    assert!(!std::mem::replace(&mut owned[slot], true));
                }
                let used = owned.iter().filter(|owned| **owned).count();
                assert_eq!(
                    allocator.free_blocks() * slots_per_block,
                    allocator.slots() - used
                );
            }
            lists.into_iter().for_each(|list| allocator.release(list));
            let mut all = SlotList::default();
            assert!(allocator.grow(&mut all, allocator.slots(), allocator.slots()));
            assert_eq!(context(&all, all.slots()), [0..allocator.slots()]);
        }
    }
}
