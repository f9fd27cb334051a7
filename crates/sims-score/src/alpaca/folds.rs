//! Which rows form a fold of the official cross-validation.
//!
//! The official code sorts groups of one row each by their size. All keys are equal and the sort is not
//! stable, so the order is the sort's own; it is rebuilt here, because which rows are tested together
//! decides the choice of C and thereby a published number's second decimal.

/// Returns the fold of each of `n` rows, below `folds`.
///
/// This is scikit-learn's `GroupKFold` over rows that are groups of their own, on NumPy's scalar
/// introsort, which 54 of 56 published numbers come from; its vectorised sort gives another order.
#[must_use]
pub fn fold_of_rows(n: usize, folds: usize) -> Vec<usize> {
    let mut fold_of = vec![0; n];
    for (visited, row) in order_of_equal_keys(n).into_iter().rev().enumerate() {
        fold_of[row] = visited % folds;
    }
    fold_of
}

/// Largest range that the sort leaves to insertion, which moves no equal keys.
const SMALL: usize = 16;

/// Returns NumPy's scalar `argsort` of `n` equal keys.
fn order_of_equal_keys(n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    let mut waiting = vec![(0, n)];
    while let Some((mut start, mut end)) = waiting.pop() {
        while end - start > SMALL {
            let middle = start + (end - 1 - start) / 2;
            let pivot = end - 2;
            order.swap(middle, pivot);
            // Both pointers stop at every key, since all are equal to the pivot.
            let (mut left, mut right) = (start + 1, pivot - 1);
            while left < right {
                order.swap(left, right);
                left += 1;
                right -= 1;
            }
            order.swap(left, pivot);
            if left - start < end - 1 - left {
                waiting.push((left + 1, end));
                end = left;
            } else {
                waiting.push((start, left));
                start = left + 1;
            }
        }
    }
    order
}
