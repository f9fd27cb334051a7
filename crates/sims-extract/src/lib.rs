//! Extracts hidden states of chosen and rejected responses
