//! Compares responses pairwise with the frozen model as its own judge
