//! Fits a steering function to hidden states
