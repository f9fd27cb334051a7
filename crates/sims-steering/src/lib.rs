//! Steering functions: fit, apply as a hook, save and load
