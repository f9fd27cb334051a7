//! The mixture of experts: the rows of each.

use super::super::routing::choose;
use super::Shared;
use crate::kv_cache::sized;
use crate::ops::linear::Write;
use crate::ops::quantized::Linear;
use crate::weights::GatedWeights;

/// Writes the weighted sum of each row's experts.
///
/// `x` and `out`: `[rows, hidden_size]`. A row's sum runs in the order of the experts, so that it does not depend on the
/// rows beside it.
pub(super) fn mix(
    shared: Shared,
    router: &Linear,
    experts: &[GatedWeights<Linear>],
    x: &[f32],
    out: &mut [f32],
    (gate_up, activated): (&mut Vec<f32>, &mut Vec<f32>),
) {
    let Some(config) = shared.settings.experts else {
        return;
    };
    let (set, hidden) = (shared.settings.set, shared.settings.hidden_size);
    let rows = x.len() / hidden;
    let mut scores = vec![0.0; rows * experts.len()];
    router.forward(set, x, &mut scores, Write::Store, shared.spread);
    for scores in scores.chunks_exact_mut(experts.len()) {
        choose(scores, config.per_token, config.normalised);
    }
    out.fill(0.0);
    let (mut gathered, mut mixed) = (Vec::new(), Vec::new());
    for (expert, weights) in experts.iter().enumerate() {
        let chosen: Vec<(usize, f32)> = (0..rows)
            .map(|row| (row, scores[row * experts.len() + expert]))
            .filter(|(_, weight)| *weight > 0.0)
            .collect();
        if chosen.is_empty() {
            continue;
        }
        gathered.clear();
        for (row, _) in &chosen {
            gathered.extend_from_slice(&x[row * hidden..][..hidden]);
        }
        let activated = shared.activate(weights, &gathered, gate_up, activated);
        let mixed = sized(&mut mixed, gathered.len());
        weights
            .down_proj
            .forward(set, activated, mixed, Write::Store, shared.spread);
        for ((row, weight), mixed) in chosen.iter().zip(mixed.chunks_exact(hidden)) {
            for (out, mixed) in out[row * hidden..][..hidden].iter_mut().zip(mixed) {
                *out += weight * mixed;
            }
        }
    }
}
