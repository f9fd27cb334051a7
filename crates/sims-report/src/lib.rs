//! Queries over the artifacts of a run
