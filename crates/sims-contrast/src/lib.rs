//! Selects contrast pairs of chosen and rejected responses
