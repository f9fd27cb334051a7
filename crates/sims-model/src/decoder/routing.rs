//! Which experts a row goes through, and with what weights.

/// Replaces a row's scores by the weights of the chosen experts, 0 for the others.
///
/// The weights are the softmax over all experts; where `normalised`, they are scaled to add up to 1. Of equal scores
/// the first is chosen.
pub(super) fn choose(scores: &mut [f32], per_token: usize, normalised: bool) {
    let greatest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for score in scores.iter_mut() {
        *score = libm::expf(*score - greatest);
    }
    let all: f32 = scores.iter().sum();
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let (chosen, others) = order.split_at(per_token);
    let total = if normalised {
        chosen.iter().map(|&expert| scores[expert]).sum()
    } else {
        all
    };
    for &expert in others {
        scores[expert] = 0.0;
    }
    for &expert in chosen {
        scores[expert] /= total;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_experts_are_weighted_by_their_softmax() {
        let e = std::f32::consts::E;
        let mut scores = [0.0, 2.0, 1.0, 1.0];
        choose(&mut scores, 2, true);
        assert_eq!((scores[0], scores[3]), (0.0, 0.0));
        assert!((scores[1] - e / (e + 1.0)).abs() < 1e-6);
        assert!((scores[1] + scores[2] - 1.0).abs() < 1e-6);
        let mut scores = [0.0, 2.0, 1.0, 1.0];
        choose(&mut scores, 1, false);
        assert!((scores[1] - e * e / (1.0 + e * e + 2.0 * e)).abs() < 1e-6);
    }
}
