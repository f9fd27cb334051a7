//! Causal self-attention over packed documents, with RoPE, as one differentiable op.
//!
//! A batch holds the rows of all its documents one after another, without padding. Attention is
//! computed document by document and head by head, so no mask exists: row `i` of a document sees
//! its rows `0..=i`. Scores are computed again in the backward pass instead of being kept.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::tensors::{elements, shaped_as, with_elements};
use super::vectorised::{exp, lane_sum, vectorised};

/// Width of an attention head; the kernels are written for this one.
pub(super) const HEAD_DIM: usize = 32;
const HALF: usize = HEAD_DIM / 2;

type Head = [f32; HEAD_DIM];

/// Cosines and sines of RoPE for each position of a document.
pub(super) struct Rotary {
    cos: Vec<[f32; HALF]>,
    sin: Vec<[f32; HALF]>,
}

impl Rotary {
    /// Tabulates `positions` positions for frequencies `theta^(-2i / HEAD_DIM)`.
    pub(super) fn new(positions: usize, theta: f64) -> Self {
        let angle = |position: usize, i: usize| {
            let frequency = theta.powf(-2.0 * i as f64 / HEAD_DIM as f64);
            // Hugging Face computes the angle in f32 from the f32 frequency.
            position as f32 * frequency as f32
        };
        let table = |f: fn(f32) -> f32| {
            (0..positions)
                .map(|p| std::array::from_fn(|i| f(angle(p, i))))
                .collect()
        };
        Self {
            cos: table(f32::cos),
            sin: table(f32::sin),
        }
    }
}

/// Attends within each document.
///
/// `qkv`: `[rows, 3 * heads * HEAD_DIM]`, queries, keys, values; `documents`: consecutive row
/// ranges that cover all rows; result: `[rows, heads * HEAD_DIM]`. f32. RoPE rotates halves, as
/// Hugging Face's Llama does; positions count from each document's first row.
///
/// # Errors
/// When the documents do not cover the rows or one is longer than the RoPE table.
pub(super) fn attention(
    qkv: &Tensor,
    documents: Arc<[Range<usize>]>,
    rotary: Arc<Rotary>,
) -> Result<Tensor> {
    let (rows, width) = qkv.dims2()?;
    if !width.is_multiple_of(3 * HEAD_DIM) {
        candle_core::bail!("attention: {width} columns are not three times the heads");
    }
    let mut next = 0;
    for document in documents.iter() {
        if document.start != next || document.len() > rotary.cos.len() {
            candle_core::bail!("attention: document {document:?} starts or ends at a wrong row");
        }
        next = document.end;
    }
    if next != rows {
        candle_core::bail!("attention: documents cover {next} of {rows} rows");
    }
    qkv.contiguous()?.apply_op1(Attention { documents, rotary })
}

struct Attention {
    documents: Arc<[Range<usize>]>,
    rotary: Arc<Rotary>,
}

/// Room for one head of one document; rows are positions of the document.
#[derive(Default)]
struct Workspace {
    /// Rotated queries, times 1 / sqrt(HEAD_DIM).
    q: Vec<Head>,
    /// Rotated keys.
    k: Vec<Head>,
    v: Vec<Head>,
    /// Rotated keys and values, transposed: `[HEAD_DIM, stride]`.
    k_columns: Vec<f32>,
    v_columns: Vec<f32>,
    /// One row of probabilities and of their gradients.
    p: Vec<f32>,
    dp: Vec<f32>,
    dq: Vec<Head>,
    dk: Vec<Head>,
    dv: Vec<Head>,
}

impl Workspace {
    /// Makes room for `length` positions and clears the gradient sums.
    fn resize(&mut self, length: usize) {
        let zero = [0.0; HEAD_DIM];
        for heads in [&mut self.q, &mut self.k, &mut self.v] {
            heads.resize(length, zero);
        }
        for heads in [&mut self.dq, &mut self.dk, &mut self.dv] {
            heads.clear();
            heads.resize(length, zero);
        }
        let stride = length.next_multiple_of(16);
        for columns in [&mut self.k_columns, &mut self.v_columns] {
            columns.resize(HEAD_DIM * stride, 0.0);
        }
        self.p.resize(stride, 0.0);
        self.dp.resize(stride, 0.0);
    }
}

/// Rotates a head forwards (`direction` 1) or back (-1).
#[inline(always)]
fn rotate(x: &Head, rotary: &Rotary, position: usize, direction: f32) -> Head {
    let (cos, sin) = (&rotary.cos[position], &rotary.sin[position]);
    let mut out = [0.0; HEAD_DIM];
    for i in 0..HALF {
        let s = sin[i] * direction;
        out[i] = x[i] * cos[i] - x[i + HALF] * s;
        out[i + HALF] = x[i + HALF] * cos[i] + x[i] * s;
    }
    out
}

#[inline(always)]
fn head_at(row: &[f32], at: usize) -> Head {
    let mut out = [0.0; HEAD_DIM];
    out.copy_from_slice(&row[at..at + HEAD_DIM]);
    out
}

/// Reads one head of one document into the workspace, rotated and scaled.
#[inline(always)]
fn load(qkv: &[f32], hidden: usize, head: usize, rotary: &Rotary, w: &mut Workspace) {
    let scale = 1.0 / (HEAD_DIM as f32).sqrt();
    for (position, row) in qkv.chunks_exact(3 * hidden).enumerate() {
        let at = head * HEAD_DIM;
        w.q[position] = rotate(&head_at(row, at), rotary, position, 1.0).map(|x| x * scale);
        w.k[position] = rotate(&head_at(row, hidden + at), rotary, position, 1.0);
        w.v[position] = head_at(row, 2 * hidden + at);
    }
}

/// Writes `heads` transposed: `[length, HEAD_DIM]` to `[HEAD_DIM, stride]`.
#[inline(always)]
fn transpose(heads: &[Head], columns: &mut [f32]) {
    let stride = columns.len() / HEAD_DIM;
    for (position, head) in heads.iter().enumerate() {
        for (d, &x) in head.iter().enumerate() {
            columns[d * stride + position] = x;
        }
    }
}

/// Writes the products of `x` with the first `length` transposed rows; `length` in whole 16s.
#[inline(always)]
fn products(x: &Head, columns: &[f32], length: usize, out: &mut [f32]) {
    let stride = columns.len() / HEAD_DIM;
    for block in (0..length).step_by(16) {
        let mut sum = [0.0f32; 16];
        for (d, &x) in x.iter().enumerate() {
            let at = d * stride + block;
            for (s, c) in sum.iter_mut().zip(&columns[at..at + 16]) {
                *s += x * c;
            }
        }
        out[block..block + 16].copy_from_slice(&sum);
    }
}

/// Softmax of the first `seen` scores in place; scores beyond them up to `length` become zero.
#[inline(always)]
fn softmax(scores: &mut [f32], seen: usize, length: usize) {
    let mut max = f32::NEG_INFINITY;
    for &s in &scores[..seen] {
        max = if s > max { s } else { max };
    }
    for s in &mut scores[..length] {
        *s = exp(*s - max);
    }
    scores[seen..length].fill(0.0);
    let scale = 1.0 / lane_sum(length, |i| scores[i]);
    for s in &mut scores[..length] {
        *s *= scale;
    }
}

vectorised! {
    /// One head of one document: `qkv` and `out` are the document's rows.
    fn forward(qkv: &[f32], hidden: usize, head: usize, rotary: &Rotary, w: &mut Workspace, out: &mut [f32]) {
        load(qkv, hidden, head, rotary, w);
        transpose(&w.k, &mut w.k_columns);
        for (i, out) in out.chunks_exact_mut(hidden).enumerate() {
            let length = (i + 1).next_multiple_of(16);
            products(&w.q[i], &w.k_columns, length, &mut w.p);
            softmax(&mut w.p, i + 1, length);
            let mut sum = [0.0f32; HEAD_DIM];
            for (p, v) in w.p[..=i].iter().zip(&w.v) {
                for (s, v) in sum.iter_mut().zip(v) {
                    *s += p * v;
                }
            }
            out[head * HEAD_DIM..(head + 1) * HEAD_DIM].copy_from_slice(&sum);
        }
    }
}

vectorised! {
    /// One head of one document: `qkv`, `grad` (of the result) and `out` are the document's rows.
    fn backward(
        qkv: &[f32],
        hidden: usize,
        head: usize,
        rotary: &Rotary,
        w: &mut Workspace,
        grad: &[f32],
        out: &mut [f32],
    ) {
        load(qkv, hidden, head, rotary, w);
        transpose(&w.k, &mut w.k_columns);
        transpose(&w.v, &mut w.v_columns);
        for (i, grad) in grad.chunks_exact(hidden).enumerate() {
            let length = (i + 1).next_multiple_of(16);
            products(&w.q[i], &w.k_columns, length, &mut w.p);
            softmax(&mut w.p, i + 1, length);
            let g = head_at(grad, head * HEAD_DIM);
            products(&g, &w.v_columns, length, &mut w.dp);
            // Softmax: ds_j = p_j (dp_j - sum_k p_k dp_k).
            let mean = lane_sum(length, |j| w.p[j] * w.dp[j]);
            for (dp, p) in w.dp[..length].iter_mut().zip(&w.p) {
                *dp = p * (*dp - mean);
            }
            let q = w.q[i];
            let mut dq = [0.0f32; HEAD_DIM];
            for j in 0..=i {
                let (p, ds) = (w.p[j], w.dp[j]);
                for d in 0..HEAD_DIM {
                    w.dv[j][d] += p * g[d];
                    w.dk[j][d] += ds * q[d];
                    dq[d] += ds * w.k[j][d];
                }
            }
            w.dq[i] = dq;
        }
        let scale = 1.0 / (HEAD_DIM as f32).sqrt();
        for (position, row) in out.chunks_exact_mut(3 * hidden).enumerate() {
            let at = head * HEAD_DIM;
            let dq = rotate(&w.dq[position], rotary, position, -1.0).map(|x| x * scale);
            row[at..at + HEAD_DIM].copy_from_slice(&dq);
            let dk = rotate(&w.dk[position], rotary, position, -1.0);
            row[hidden + at..hidden + at + HEAD_DIM].copy_from_slice(&dk);
            row[2 * hidden + at..2 * hidden + at + HEAD_DIM].copy_from_slice(&w.dv[position]);
        }
    }
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "packed-attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = layout.shape().dims2()?;
        let hidden = width / 3;
        let qkv = elements(storage, layout)?;
        let mut out = vec![0.0; rows * hidden];
        let mut workspace = Workspace::default();
        for document in self.documents.iter() {
            workspace.resize(document.len());
            let qkv = &qkv[document.start * width..document.end * width];
            let out = &mut out[document.start * hidden..document.end * hidden];
            for head in 0..hidden / HEAD_DIM {
                forward(qkv, hidden, head, &self.rotary, &mut workspace, out);
            }
        }
        Ok((CpuStorage::F32(out), (rows, hidden).into()))
    }

    fn bwd(&self, qkv: &Tensor, _result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let width = qkv.dim(1)?;
        let hidden = width / 3;
        let mut out = vec![0.0; qkv.elem_count()];
        let mut workspace = Workspace::default();
        with_elements(qkv, |qkv| {
            with_elements(grad, |grad| {
                for document in self.documents.iter() {
                    let qkv = &qkv[document.start * width..document.end * width];
                    let grad = &grad[document.start * hidden..document.end * hidden];
                    let out = &mut out[document.start * width..document.end * width];
                    for head in 0..hidden / HEAD_DIM {
                        workspace.resize(document.len());
                        backward(qkv, hidden, head, &self.rotary, &mut workspace, grad, out);
                    }
                }
            })
        })??;
        Ok(Some(shaped_as(qkv, out)?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{D, Device};

    use super::super::testing::{assert_close, assert_same_gradients, random_var};
    use super::*;

    /// Rotates `[heads, length, HEAD_DIM]` as Hugging Face does: `x * cos + rotate_half(x) * sin`.
    fn rotate_half(x: &Tensor) -> Result<Tensor> {
        let length = x.dim(1)?;
        let angle = |p: usize, d: usize| {
            p as f32 * 10_000f64.powf(-2.0 * (d % HALF) as f64 / HEAD_DIM as f64) as f32
        };
        let table = |f: fn(f32) -> f32| {
            let data: Vec<f32> = (0..length * HEAD_DIM)
                .map(|i| f(angle(i / HEAD_DIM, i % HEAD_DIM)))
                .collect();
            Tensor::from_vec(data, (length, HEAD_DIM), &Device::Cpu)
        };
        let (low, high) = (
            x.narrow(D::Minus1, 0, HALF)?,
            x.narrow(D::Minus1, HALF, HALF)?,
        );
        let half = Tensor::cat(&[high.neg()?, low], D::Minus1)?;
        x.broadcast_mul(&table(f32::cos)?)? + half.broadcast_mul(&table(f32::sin)?)?
    }

    fn plain(qkv: &Tensor, documents: &[Range<usize>], heads: usize) -> Result<Tensor> {
        let mut results = Vec::new();
        for document in documents {
            let length = document.len();
            let rows = qkv.narrow(0, document.start, length)?;
            let part = |i: usize| -> Result<Tensor> {
                rows.narrow(1, i * heads * HEAD_DIM, heads * HEAD_DIM)?
                    .reshape((length, heads, HEAD_DIM))?
                    .transpose(0, 1)?
                    .contiguous()
            };
            let (q, k, v) = (rotate_half(&part(0)?)?, rotate_half(&part(1)?)?, part(2)?);
            let scores = (q.matmul(&k.transpose(1, 2)?.contiguous()?)? / (HEAD_DIM as f64).sqrt())?;
            let mask: Vec<f32> = (0..length * length)
                .map(|i| if i % length > i / length { -1e9 } else { 0.0 })
                .collect();
            let mask = Tensor::from_vec(mask, (length, length), &Device::Cpu)?;
            let scores = scores.broadcast_add(&mask)?;
            let weights = scores
                .broadcast_sub(&scores.max_keepdim(2)?.detach())?
                .exp()?;
            let weights = weights.broadcast_div(&weights.sum_keepdim(2)?)?;
            let out = weights.matmul(&v)?.transpose(0, 1)?.contiguous()?;
            results.push(out.reshape((length, heads * HEAD_DIM))?);
        }
        Tensor::cat(&results, 0)
    }

    #[test]
    fn attention_equals_plain_ops_with_gradients() -> Result<()> {
        let documents: Arc<[Range<usize>]> = [0..1, 1..20, 20..37, 37..70].into();
        let (qkv, mix) = (random_var((70, 192), 1)?, random_var((70, 64), 2)?);
        let own = attention(&qkv, documents.clone(), Arc::new(Rotary::new(64, 1e4)))?;
        let plain = plain(&qkv, &documents, 2)?;
        // Scores of size 5 and sums of up to 33 terms.
        assert_close(&own, &plain, 1e-5)?;
        assert_same_gradients(
            &(own * mix.as_tensor())?,
            &(plain * mix.as_tensor())?,
            &[&qkv],
            5e-5,
        )
    }

    #[test]
    fn documents_that_do_not_cover_the_rows_are_an_error() -> Result<()> {
        let qkv = random_var((8, 96), 1)?;
        for documents in [vec![0..4, 4..7], vec![0..5, 6..8], vec![0..3, 3..8]] {
            assert!(attention(&qkv, documents.into(), Arc::new(Rotary::new(4, 1e4))).is_err());
        }
        Ok(())
    }
}
