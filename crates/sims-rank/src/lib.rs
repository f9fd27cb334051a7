//! Turns pairwise judgments into a ranking of the responses to each prompt
