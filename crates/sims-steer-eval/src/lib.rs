//! Evaluates a steering function against the base model and decides whether to accept it
