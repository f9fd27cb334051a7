//! The runner: pipeline files, plans, action keys, execution, published views
