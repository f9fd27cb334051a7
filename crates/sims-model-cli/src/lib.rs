//! Looks at a model by hand: info, forward, generate, perplexity
