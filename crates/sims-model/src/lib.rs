//! The Llama-family decoder with hooks: config, weights, tokenizer, KV cache, generation
