//! Runs many sequences with every shared prefix computed once.
//!
//! The sequences form a radix tree: a node is a run of tokens that the same set of sequences has. Nodes become segments
//! of batches, each attending its ancestors. A subtree that fits the row limit is one batch; of a larger one the root
//! runs first and stays in the cache while its children are packed into batches, so the cache needs no more slots than
//! the longest sequence and one batch.
//!
//! A position that a hook may edit is shared only by sequences that are edited from the same position on.

use std::cmp::Ordering;
use std::ops::Range;

use crate::{Batch, ModelError, Result};

/// A sequence to run: its tokens and the first position that a hook may edit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sequence<'a> {
    pub(crate) tokens: &'a [u32],
    pub(crate) edit_from: usize,
}

impl Sequence<'_> {
    /// Length of the prefix that both can share.
    fn shared_prefix(&self, other: &Self) -> usize {
        let equal = self
            .tokens
            .iter()
            .zip(other.tokens)
            .take_while(|(a, b)| a == b)
            .count();
        if self.edit_from == other.edit_from {
            equal
        } else {
            equal.min(self.edit_from).min(other.edit_from)
        }
    }

    /// An order in which sequences that share a prefix stand together.
    fn compare(&self, other: &Self) -> Ordering {
        let shared = self.shared_prefix(other);
        let next = |sequence: &Self| {
            let token = sequence.tokens.get(shared);
            token.map(|&token| (token, shared >= sequence.edit_from))
        };
        next(self).cmp(&next(other))
    }
}

/// A position whose result is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Wanted {
    /// Index of the sequence.
    pub(crate) sequence: usize,
    /// Position in it.
    pub(crate) position: usize,
}

/// A batch and the rows of it whose results are wanted.
#[derive(Debug, Default)]
pub(crate) struct PlannedBatch {
    pub(crate) batch: Batch,
    /// Row of the batch, and whose result it is; a row that several sequences share occurs once for each.
    pub(crate) wanted: Vec<(usize, Wanted)>,
}

/// A run of tokens with the same continuations.
#[derive(Debug)]
struct Node {
    /// A sequence that goes through the node, and the positions of it that the node covers.
    sequence: usize,
    positions: Range<usize>,
    parent: usize,
    children: Vec<usize>,
    /// Tokens of the node and all below it.
    subtree_tokens: usize,
    /// Positions wanted, ascending.
    wanted: Vec<Wanted>,
}

/// The radix tree of a set of sequences.
#[derive(Debug)]
pub(crate) struct PrefixTree<'a> {
    sequences: Vec<Sequence<'a>>,
    /// Node 0 is the root, which has no tokens.
    nodes: Vec<Node>,
    max_rows: usize,
}

impl<'a> PrefixTree<'a> {
    /// Builds the tree. `max_rows` bounds the rows of a batch; every wanted position lies in its sequence.
    ///
    /// # Errors
    /// An empty sequence, or one longer than `limit`.
    pub(crate) fn new(
        sequences: Vec<Sequence<'a>>,
        wanted: impl IntoIterator<Item = Wanted>,
        max_rows: usize,
        limit: usize,
    ) -> Result<Self> {
        for (index, sequence) in sequences.iter().enumerate() {
            let tokens = sequence.tokens.len();
            if tokens == 0 {
                return Err(ModelError::EmptySequence { sequence: index });
            }
            if tokens > limit {
                return Err(ModelError::SequenceTooLong {
                    sequence: index,
                    tokens,
                    limit,
                });
            }
        }
        let root = Node {
            sequence: 0,
            positions: 0..0,
            parent: 0,
            children: Vec::new(),
            subtree_tokens: 0,
            wanted: Vec::new(),
        };
        let mut tree = Self {
            sequences,
            nodes: vec![root],
            max_rows: max_rows.max(1),
        };
        let leaf_of = tree.insert_all();
        tree.assign(wanted, &leaf_of);
        tree.sum_subtrees(0);
        Ok(tree)
    }

    /// Number of tokens that a run computes.
    pub(crate) fn unique_tokens(&self) -> usize {
        self.nodes[0].subtree_tokens
    }

    /// Number of tokens in all sequences.
    pub(crate) fn total_tokens(&self) -> usize {
        self.sequences
            .iter()
            .map(|sequence| sequence.tokens.len())
            .sum()
    }

    /// Number of KV slots that the batches use.
    pub(crate) fn slots(&self) -> usize {
        let longest = self
            .sequences
            .iter()
            .map(|sequence| sequence.tokens.len())
            .max()
            .unwrap_or(0);
        (longest + self.max_rows).min(self.unique_tokens())
    }

    /// Hands out the batches, in an order in which every context is computed before it is attended.
    pub(crate) fn for_each_batch(
        &self,
        run: &mut dyn FnMut(PlannedBatch) -> Result<()>,
    ) -> Result<()> {
        self.run_children(0, 0, run)
    }

    /// Inserts the sequences in sorted order and returns the node in which each ends.
    fn insert_all(&mut self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.sequences.len()).collect();
        order.sort_by(|&a, &b| self.sequences[a].compare(&self.sequences[b]));
        let mut leaf_of = vec![0; order.len()];
        let mut previous: Option<usize> = None;
        for &index in &order {
            let sequence = self.sequences[index];
            let (mut node, shared) = match previous {
                Some(before) => (
                    leaf_of[before],
                    self.sequences[before].shared_prefix(&sequence),
                ),
                None => (0, 0),
            };
            // Sorted order keeps the path of the previous sequence the only one that a new one can leave.
            while self.nodes[node].positions.start >= shared && node != 0 {
                node = self.nodes[node].parent;
            }
            if self.nodes[node].positions.end > shared {
                node = self.split(node, shared);
            }
            if shared < sequence.tokens.len() {
                node = self.add_child(node, index, shared..sequence.tokens.len());
            }
            leaf_of[index] = node;
            previous = Some(index);
        }
        leaf_of
    }

    /// Adds a node below `parent`.
    fn add_child(&mut self, parent: usize, sequence: usize, positions: Range<usize>) -> usize {
        let child = self.nodes.len();
        self.nodes.push(Node {
            sequence,
            positions,
            parent,
            children: Vec::new(),
            subtree_tokens: 0,
            wanted: Vec::new(),
        });
        self.nodes[parent].children.push(child);
        child
    }

    /// Cuts a node in two at `position` and returns the upper part; the lower part keeps the node's index, so that
    /// the sequences that end in it stay right.
    fn split(&mut self, lower: usize, position: usize) -> usize {
        let Node {
            sequence,
            parent,
            ref positions,
            ..
        } = self.nodes[lower];
        let upper_positions = positions.start..position;
        self.nodes[parent].children.retain(|&child| child != lower);
        let upper = self.add_child(parent, sequence, upper_positions);
        self.nodes[upper].children.push(lower);
        self.nodes[lower].positions.start = position;
        self.nodes[lower].parent = upper;
        upper
    }

    /// Gives every wanted position to the node that holds it.
    fn assign(&mut self, wanted: impl IntoIterator<Item = Wanted>, leaf_of: &[usize]) {
        for entry in wanted {
            let mut node = leaf_of[entry.sequence];
            while self.nodes[node].positions.start > entry.position {
                node = self.nodes[node].parent;
            }
            assert!(
                self.nodes[node].positions.contains(&entry.position),
                "wanted position is in its sequence"
            );
            self.nodes[node].wanted.push(entry);
        }
        for node in &mut self.nodes {
            node.wanted
                .sort_by_key(|entry| (entry.position, entry.sequence));
        }
    }

    /// Fills in `subtree_tokens`, from the leaves up.
    fn sum_subtrees(&mut self, root: usize) {
        let order = self.preorder(root);
        for &node in order.iter().rev() {
            let below: usize = self.nodes[node]
                .children
                .iter()
                .map(|&c| self.nodes[c].subtree_tokens)
                .sum();
            self.nodes[node].subtree_tokens = self.nodes[node].positions.len() + below;
        }
    }

    /// The nodes of a subtree, each before its children.
    fn preorder(&self, root: usize) -> Vec<usize> {
        let mut order = Vec::new();
        let mut stack = vec![root];
        while let Some(node) = stack.pop() {
            order.push(node);
            stack.extend(self.nodes[node].children.iter().rev());
        }
        order
    }

    /// Runs everything below `parent`, whose path from the root is in the slots `0..resident`.
    fn run_children(
        &self,
        parent: usize,
        resident: usize,
        run: &mut dyn FnMut(PlannedBatch) -> Result<()>,
    ) -> Result<()> {
        let mut planned = PlannedBatch::default();
        for &child in &self.nodes[parent].children {
            let tokens = self.nodes[child].subtree_tokens;
            let fits = planned.batch.tokens.len() + tokens <= self.max_rows;
            if !fits && !planned.batch.tokens.is_empty() {
                run(std::mem::take(&mut planned))?;
            }
            if tokens <= self.max_rows {
                self.add_subtree(child, resident, &mut planned);
            } else {
                let end = self.run_alone(child, resident, run)?;
                self.run_children(child, end, run)?;
            }
        }
        if planned.batch.tokens.is_empty() {
            Ok(())
        } else {
            run(planned)
        }
    }

    /// Runs one node, in pieces of at most `max_rows`, into the slots from `resident` on; returns where they end.
    fn run_alone(
        &self,
        node: usize,
        resident: usize,
        run: &mut dyn FnMut(PlannedBatch) -> Result<()>,
    ) -> Result<usize> {
        let positions = self.nodes[node].positions.clone();
        debug_assert_eq!(
            positions.start, resident,
            "the path above fills the slots below"
        );
        for start in positions.clone().step_by(self.max_rows) {
            let piece = start..positions.end.min(start + self.max_rows);
            let mut planned = PlannedBatch::default();
            let context = if start == 0 {
                Vec::new()
            } else {
                vec![Range {
                    start: 0,
                    end: start,
                }]
            };
            self.add_piece(node, piece, context, start, &mut planned);
            run(planned)?;
        }
        Ok(positions.end)
    }

    /// Appends a whole subtree to a batch, into the slots behind the resident ones and the batch's own.
    fn add_subtree(&self, root: usize, resident: usize, planned: &mut PlannedBatch) {
        // Slots of each node on the path from the subtree's root down to the node at hand.
        let mut path: Vec<(usize, Range<usize>)> = Vec::new();
        for node in self.preorder(root) {
            let parent = self.nodes[node].parent;
            while path.last().is_some_and(|(above, _)| *above != parent) {
                path.pop();
            }
            let start = resident + planned.batch.tokens.len();
            let positions = self.nodes[node].positions.clone();
            let slots = start..start + positions.len();
            let mut context = Vec::with_capacity(path.len() + 1);
            for range in std::iter::once(&(0..resident)).chain(path.iter().map(|(_, range)| range))
            {
                append_range(&mut context, range);
            }
            self.add_piece(node, positions, context, start, planned);
            path.push((node, slots));
        }
    }

    /// Appends some positions of a node to a batch.
    fn add_piece(
        &self,
        node: usize,
        piece: Range<usize>,
        context: Vec<Range<usize>>,
        slots_start: usize,
        planned: &mut PlannedBatch,
    ) {
        let row = planned.batch.tokens.len();
        let Node {
            sequence,
            ref wanted,
            ..
        } = self.nodes[node];
        let Sequence { tokens, edit_from } = self.sequences[sequence];
        planned
            .batch
            .push(&tokens[piece.clone()], context, slots_start, edit_from);
        let inside = wanted
            .iter()
            .filter(|entry| piece.contains(&entry.position));
        planned
            .wanted
            .extend(inside.map(|entry| (row + entry.position - piece.start, *entry)));
    }
}

/// Appends a range to a context, merging it with the last one where they meet.
pub(crate) fn append_range(context: &mut Vec<Range<usize>>, range: &Range<usize>) {
    match context.last_mut() {
        _ if range.is_empty() => {}
        Some(last) if last.end == range.start => last.end = range.end,
        _ => context.push(range.clone()),
    }
}

#[cfg(test)]
mod tests;
