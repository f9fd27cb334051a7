//! The command line of the runner
