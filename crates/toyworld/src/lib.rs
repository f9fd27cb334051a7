//! The built-in miniature world: generator, training, gold checker
