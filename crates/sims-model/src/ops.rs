//! The CPU kernels: packed linear layers, attention over the KV cache, RMSNorm and the gated activations.
//!
//! Every kernel is written once over sixteen [`lanes`], and compiled for each [`InstructionSet`]. Sums
//! run in an order that depends on the length of the sum alone (one output's products in the order of
//! its inputs, sixteen partial sums for a mean or a softmax), with fused multiply-adds throughout. So a
//! row's result is the same bits on every instruction set, beside any other rows, with any number of
//! threads. With bf16 weights a linear layer multiplies pairs of bf16 as AVX-512's `vdpbf16ps` does, and
//! machines without that instruction compute the same bits in f32.

pub mod activation;
pub mod attention;
pub mod bf16;
pub mod exp;
pub mod lanes;
pub mod linear;
pub mod norm;
pub mod quantized;
pub mod shared_slice;

pub use lanes::InstructionSet;
