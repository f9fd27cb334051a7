//! Putting steerings together: stacking a round on the one before, capping the sum, backing off.

use crate::heads::{self, HeadShift};
use crate::operator::{Additive, Edit, Operator};
use crate::steering::{Compose, Steering, finite};
use crate::{FitError, SteeringError};
use std::collections::{BTreeMap, BTreeSet};

impl Steering {
    /// Returns several steerings of one model as one, each at its own strength, in the order given.
    ///
    /// At a layer that several edit, they are applied one after the other. A single one is itself, scaled; of several
    /// the operator's name is all their names, and the fit summary is that of none.
    ///
    /// # Errors
    /// [`SteeringError::ModelMismatch`] or [`SteeringError::HiddenSize`] if they belong to different models,
    /// [`SteeringError::Degenerate`] if a strength is not finite, [`SteeringError::NoSteering`] without any.
    pub fn together(steerings: &[(Self, f64)]) -> Result<Self, SteeringError> {
        let mut scaled = Vec::with_capacity(steerings.len());
        for (steering, strength) in steerings {
            scaled.push(steering.scaled(*strength)?);
        }
        let names: Vec<&str> = steerings.iter().map(|(s, _)| s.operator()).collect();
        let operator = names.join("+");
        let mut scaled = scaled.into_iter();
        let mut together = scaled.next().ok_or(SteeringError::NoSteering)?;
        for next in scaled {
            together = together.stack(&next)?;
            together.fit = None;
        }
        together.operator = operator;
        Ok(together)
    }

    /// Returns this steering followed by `next` at every layer.
    ///
    /// Strengths are folded into the edits, so the result has strength 1; two vectors that follow one
    /// another at a layer collapse to their sum. Everything else is taken from `next`.
    ///
    /// # Errors
    /// [`SteeringError::ModelMismatch`] or [`SteeringError::HiddenSize`] if the two belong to different models.
    pub fn stack(&self, next: &Self) -> Result<Self, SteeringError> {
        self.check_model(&next.model)?;
        if self.hidden_size != next.hidden_size {
            return Err(SteeringError::HiddenSize {
                expected: self.hidden_size,
                found: next.hidden_size,
            });
        }
        let mut stacked = next.clone();
        stacked.compose = Compose::Stack;
        stacked.strength = 1.0;
        stacked.layers = self.folded()?;
        stacked.heads = heads::stacked((&self.heads, self.strength), (&next.heads, next.strength))?;
        for (layer, edits) in next.folded()? {
            let target = stacked.layers.entry(layer).or_default();
            for edit in edits {
                append(target, edit)?;
            }
        }
        Ok(stacked)
    }

    /// Returns this candidate with the part that it adds to its incumbent at `alpha` times its strength.
    ///
    /// A candidate that replaces its incumbent, or has none, is scaled as a whole. One that is stacked
    /// keeps what the incumbent does: backing off the third round must not undo the first two.
    ///
    /// # Errors
    /// [`SteeringError::NotStacked`] if the candidate is stacked but does not begin with the incumbent's
    /// edits; [`SteeringError::Degenerate`] if `alpha` is not finite.
    pub fn back_off(&self, incumbent: Option<&Self>, alpha: f64) -> Result<Self, SteeringError> {
        finite("the strength", alpha)?;
        let (incumbent, kept_heads) = match (self.compose, incumbent) {
            (Compose::Stack, Some(incumbent)) => {
                (incumbent.folded()?, (&incumbent.heads, incumbent.strength))
            }
            _ => return self.scaled(alpha),
        };
        let mut weaker = self.clone();
        weaker.layers = self.folded()?;
        weaker.strength = 1.0;
        if let Some(&layer) = kept_heads
            .0
            .keys()
            .find(|layer| !self.heads.contains_key(layer))
        {
            return Err(SteeringError::NotStacked { layer });
        }
        // (1 − α)·incumbent + α·candidate
        let kept_heads = (kept_heads.0, kept_heads.1 * (1.0 - alpha));
        weaker.heads = heads::stacked(kept_heads, (&self.heads, self.strength * alpha))?;
        for layer in incumbent.keys() {
            if !weaker.layers.contains_key(layer) {
                return Err(SteeringError::NotStacked { layer: *layer });
            }
        }
        for (&layer, edits) in &mut weaker.layers {
            let kept = incumbent.get(&layer).map_or(&[][..], Vec::as_slice);
            back_off_layer(edits, kept, alpha).ok_or(SteeringError::NotStacked { layer })?;
        }
        Ok(weaker)
    }

    /// Returns the layers at which this candidate does something else than its incumbent, in ascending order.
    ///
    /// # Errors
    /// None for steerings that were loaded from a file.
    pub fn changed_layers(&self, incumbent: Option<&Self>) -> Result<Vec<usize>, SteeringError> {
        let (before, heads_before) = match (self.compose, incumbent) {
            (Compose::Stack, Some(incumbent)) => (incumbent.folded()?, incumbent.folded_heads()?),
            _ => (BTreeMap::new(), BTreeMap::new()),
        };
        let (edits, heads) = (self.folded()?, self.folded_heads()?);
        let edited = edits
            .iter()
            .filter(|(layer, edits)| before.get(layer) != Some(edits))
            .map(|(&layer, _)| layer);
        let shifted = heads
            .iter()
            .filter(|(layer, shift)| heads_before.get(layer) != Some(shift))
            .map(|(&layer, _)| layer);
        let changed: BTreeSet<usize> = edited.chain(shifted).collect();
        Ok(changed.into_iter().collect())
    }

    /// Returns this candidate with the part that it adds to its incumbent at these layers alone.
    ///
    /// What the incumbent does at other layers stays, as in [`back_off`](Self::back_off).
    ///
    /// # Errors
    /// [`SteeringError::NotStacked`] if the candidate is stacked but lacks a layer of the incumbent's.
    pub fn at_layers(
        &self,
        incumbent: Option<&Self>,
        layers: &[usize],
    ) -> Result<Self, SteeringError> {
        let (kept, mut heads) = match (self.compose, incumbent) {
            (Compose::Stack, Some(incumbent)) => (incumbent.folded()?, incumbent.folded_heads()?),
            _ => (BTreeMap::new(), BTreeMap::new()),
        };
        for (layer, shift) in self.folded_heads()? {
            if layers.contains(&layer) {
                heads.insert(layer, shift);
            }
        }
        let mut narrower = self.clone();
        narrower.layers = self.folded()?;
        narrower.strength = 1.0;
        narrower.heads = heads;
        if let Some(&layer) = kept
            .keys()
            .find(|layer| !narrower.layers.contains_key(layer))
        {
            return Err(SteeringError::NotStacked { layer });
        }
        narrower
            .layers
            .retain(|layer, _| layers.contains(layer) || kept.contains_key(layer));
        for (layer, edits) in &mut narrower.layers {
            if !layers.contains(layer)
                && let Some(kept) = kept.get(layer)
            {
                edits.clone_from(kept);
            }
        }
        Ok(narrower)
    }

    /// Returns the shifts of heads with the steering's strength multiplied in.
    fn folded_heads(&self) -> Result<BTreeMap<usize, HeadShift>, SteeringError> {
        heads::stacked((&self.heads, self.strength), (&BTreeMap::new(), 1.0))
    }

    /// Returns the edits with the steering's strength, and each vector's own, multiplied in.
    fn folded(&self) -> Result<BTreeMap<usize, Vec<Edit>>, SteeringError> {
        let mut layers = BTreeMap::new();
        for (&layer, edits) in &self.layers {
            let mut folded = Vec::with_capacity(edits.len());
            for edit in edits {
                let mut edit = edit.clone();
                edit.strength *= self.strength;
                append(&mut folded, edit)?;
            }
            layers.insert(layer, folded);
        }
        Ok(layers)
    }
}

/// Appends an edit; a vector after a vector on the same condition becomes their sum at strength 1.
fn append(edits: &mut Vec<Edit>, edit: Edit) -> Result<(), SteeringError> {
    if let Some(last) = edits.last_mut()
        && let (Operator::Additive(first), Operator::Additive(second)) =
            (&last.operator, &edit.operator)
        && !last.preserve_norm
        && !edit.preserve_norm
        && last.condition == edit.condition
    {
        let sum = combine(first, last.strength, second, edit.strength)?;
        *last = Edit {
            condition: edit.condition,
            ..Edit::new(Operator::Additive(sum))
        };
        return Ok(());
    }
    edits.push(edit);
    Ok(())
}

/// Returns `first_weight·first + second_weight·second`.
fn combine(
    first: &Additive,
    first_weight: f64,
    second: &Additive,
    second_weight: f64,
) -> Result<Additive, SteeringError> {
    let sum = first
        .vector()
        .iter()
        .zip(second.vector())
        .map(|(&a, &b)| (first_weight * f64::from(a) + second_weight * f64::from(b)) as f32)
        .collect();
    Additive::new(sum)
}

/// Scales what `edits` adds to `kept`; returns nothing if `edits` does not begin with `kept`.
fn back_off_layer(edits: &mut [Edit], kept: &[Edit], alpha: f64) -> Option<()> {
    let own = if edits.len() >= kept.len() && edits[..kept.len()] == *kept {
        kept.len()
    } else {
        // The incumbent's last vector and the candidate's first have become one sum.
        let last = kept.len().checked_sub(1)?;
        if edits.len() < kept.len() || edits[..last] != kept[..last] {
            return None;
        }
        let (Operator::Additive(before), Operator::Additive(sum)) =
            (&kept[last].operator, &edits[last].operator)
        else {
            return None;
        };
        if kept[last].condition != edits[last].condition {
            return None;
        }
        let before_weight = kept[last].strength * (1.0 - alpha);
        let sum_weight = edits[last].strength * alpha;
        let between = combine(before, before_weight, sum, sum_weight).ok()?;
        edits[last] = Edit {
            condition: kept[last].condition.clone(),
            ..Edit::new(Operator::Additive(between))
        };
        kept.len()
    };
    edits[own..]
        .iter_mut()
        .for_each(|edit| edit.strength *= alpha);
    Some(())
}

/// Returns the largest factor in `[0, 1]` by which `addition` may be added to `incumbent` so that the sum
/// is no longer than `limit`.
///
/// `incumbent` and `addition`: `[hidden]`. If the incumbent alone is longer than the limit the factor is 0.
/// The limit guards against the collapse that the toy world showed from about 0.45 of the state norm on.
///
/// # Errors
/// [`FitError::Operator`] if the limit is NaN.
pub fn shift_factor(incumbent: &[f64], addition: &[f64], limit: f64) -> Result<f64, FitError> {
    if limit.is_nan() {
        return Err(SteeringError::Degenerate {
            what: "the largest shift",
            value: limit,
        }
        .into());
    }
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    // ‖incumbent + t·addition‖² = c + 2bt + at² ≤ limit²
    let (a, b) = (product(addition, addition), product(incumbent, addition));
    let c = product(incumbent, incumbent) - limit * limit;
    if a + 2.0 * b + c <= 0.0 {
        return Ok(1.0);
    }
    if c > 0.0 || a == 0.0 {
        return Ok(0.0);
    }
    Ok(((-b + (b * b - a * c).sqrt()) / a).clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::affine_transport::AffineTransport;
    use crate::condition::{Condition, ConditionBlock};
    use crate::householder::{AngleRule, Householder};
    use crate::operator::EditCounts;
    use sims_artifact::Digest;

    fn vector(values: &[f32]) -> Edit {
        Edit::new(Operator::Additive(Additive::new(values.to_vec()).unwrap()))
    }

    fn rotation(angle: f64) -> Edit {
        let rule = AngleRule::Fixed { angle };
        let normal = vec![1.0, 0.5];
        Edit::new(Operator::Householder(
            Householder::new(normal, 0.2, rule, None, None).unwrap(),
        ))
    }

    fn steering(edits: &[(usize, Edit)]) -> Steering {
        let mut steering = Steering::identity(Digest::of_bytes(b"model"), 2, 6);
        for (layer, edit) in edits {
            steering.push(*layer, edit.clone()).unwrap();
        }
        steering
    }

    fn vector_at(steering: &Steering, layer: usize, index: usize) -> Vec<f32> {
        match &steering.edits(layer)[index].operator {
            Operator::Additive(additive) => additive.vector().to_vec(),
            other => panic!("layer {layer} has {other:?} at {index}"),
        }
    }

    #[test]
    fn a_candidate_at_fewer_layers_keeps_what_the_incumbent_does_elsewhere() {
        let incumbent = steering(&[(2, vector(&[1.0, 0.0])), (3, vector(&[0.0, 1.0]))]);
        let added = steering(&[(3, vector(&[1.0, 1.0])), (4, vector(&[2.0, 2.0]))]);
        let candidate = incumbent.stack(&added).unwrap();
        assert_eq!(candidate.changed_layers(Some(&incumbent)).unwrap(), [3, 4]);
        let narrower = candidate.at_layers(Some(&incumbent), &[4]).unwrap();
        assert_eq!(narrower.layers(), [2, 3, 4]);
        assert_eq!(vector_at(&narrower, 3, 0), [0.0, 1.0]);
        assert_eq!(vector_at(&narrower, 4, 0), [2.0, 2.0]);
        assert_eq!(narrower.changed_layers(Some(&incumbent)).unwrap(), [4]);
        // Without an incumbent the other layers go.
        assert_eq!(added.changed_layers(None).unwrap(), [3, 4]);
        assert_eq!(added.at_layers(None, &[3]).unwrap().layers(), [3]);
        assert!(matches!(
            steering(&[(4, vector(&[2.0, 2.0]))])
                .stack(&added)
                .unwrap()
                .at_layers(Some(&incumbent), &[4]),
            Err(SteeringError::NotStacked { layer: 2 })
        ));
    }

    /// T20: vectors stack to their sum, strengths included; `next` alone is what replaces.
    #[test]
    fn stacked_vectors_are_their_sum() {
        let first = steering(&[(4, vector(&[1.0, 2.0]))]).scaled(0.5).unwrap();
        let second = steering(&[(4, vector(&[-3.0, 1.0])), (2, vector(&[1.0, 0.0]))]);
        let stacked = first.stack(&second).unwrap();
        assert_eq!(stacked.layers(), [2, 4]);
        assert_eq!(stacked.edits(4).len(), 1);
        assert_eq!(vector_at(&stacked, 4, 0), [-2.5, 2.0]);
        assert_eq!(stacked.strength(), 1.0);
        assert_eq!(stacked.additive_shift(4).unwrap(), [-2.5, 2.0]);
        assert!(stacked.additive_shift(3).is_none());
    }

    #[test]
    fn rotations_are_appended_in_order() {
        let first = steering(&[(4, rotation(0.1))]);
        let second = steering(&[(4, rotation(0.2)), (4, vector(&[1.0, 1.0]))])
            .scaled(0.5)
            .unwrap();
        let stacked = first.stack(&second).unwrap();
        let strengths: Vec<f64> = stacked.edits(4).iter().map(|edit| edit.strength).collect();
        assert_eq!(strengths, [1.0, 0.5, 0.5]);
    }

    /// T20, in part: transports stay apart, and backing off shortens the way of the newest.
    #[test]
    fn transports_are_appended_and_backed_off() {
        let transport = |shift: f32| {
            let four = [1.0, shift, -10.0, 10.0].map(|x: f32| vec![x; 2]);
            let [scale, shift, low, high] = four;
            let transport = AffineTransport::new(scale, shift, low, high).unwrap();
            Edit::new(Operator::AffineTransport(transport))
        };
        let incumbent = steering(&[(4, transport(1.0))]);
        let round = steering(&[(4, transport(2.0)), (4, vector(&[1.0, 0.0]))]);
        let candidate = incumbent.stack(&round).unwrap();
        assert_eq!(candidate.edits(4).len(), 3);
        let weaker = candidate.back_off(Some(&incumbent), 0.5).unwrap();
        let mut row = [0.0f32, 1.0];
        for edit in weaker.edits(4) {
            edit.apply(&mut row, 1.0, &mut EditCounts::default());
        }
        assert_eq!(row, [2.5, 3.0]);
        assert!(weaker.additive_shift(4).is_some() && !weaker.keeps_norms());
    }

    /// Several files at once: each at its own strength, one after the other where they meet.
    #[test]
    fn several_steerings_are_applied_in_order() {
        let (one, other) = (
            steering(&[(4, vector(&[1.0, 2.0]))]),
            steering(&[(4, vector(&[-2.0, 0.0])), (3, rotation(0.2))]),
        );
        let together = Steering::together(&[(one.clone(), 0.5), (other.clone(), 2.0)]).unwrap();
        assert_eq!(vector_at(&together, 4, 0), [-3.5, 1.0]);
        assert_eq!(together.edits(3)[0].strength, 2.0);
        assert_eq!(together.operator(), "identity+identity");
        assert_eq!(
            Steering::together(&[(one.clone(), 1.0)]).unwrap(),
            one.scaled(1.0).unwrap()
        );
        assert!(matches!(
            Steering::together(&[]),
            Err(SteeringError::NoSteering)
        ));
        let stranger = Steering::identity(Digest::of_bytes(b"other"), 2, 6);
        assert!(matches!(
            Steering::together(&[(one, 1.0), (stranger, 1.0)]),
            Err(SteeringError::ModelMismatch { .. })
        ));
        let error = Steering::together(&[(other, f64::NAN)]).unwrap_err();
        assert!(error.to_string().contains("the strength is NaN"), "{error}");
    }

    /// T20, in part: vectors on different conditions stay apart, and so does backing off.
    #[test]
    fn conditions_keep_vectors_apart() {
        let block = ConditionBlock::new(1, vec![0.0; 2], vec![1.0, 0.0], 0.0).unwrap();
        let condition = Condition::new(vec![block]).unwrap();
        let plain = steering(&[(4, vector(&[1.0, 0.0]))]);
        let gated = steering(&[(4, vector(&[0.0, 2.0]))])
            .conditional(condition)
            .unwrap();
        let stacked = plain.stack(&gated).unwrap();
        assert_eq!(stacked.edits(4).len(), 2);
        assert_eq!(stacked.stack(&gated).unwrap().edits(4).len(), 2);
        let weaker = stacked.back_off(Some(&plain), 0.5).unwrap();
        assert_eq!(weaker.edits(4)[0], plain.edits(4)[0]);
        assert_eq!(weaker.edits(4)[1].strength, 0.5);
        let twice = gated.stack(&gated).unwrap();
        let weaker = twice.back_off(Some(&gated), 0.5).unwrap();
        assert_eq!(vector_at(&weaker, 4, 0), [0.0, 3.0]);
        assert!(weaker.edits(4)[0].condition.is_some());
        assert!(twice.back_off(Some(&plain), 0.5).is_err());
    }

    #[test]
    fn other_models_do_not_stack() {
        let other = Steering::identity(Digest::of_bytes(b"other"), 2, 6);
        let error = steering(&[]).stack(&other).unwrap_err();
        let text = error.to_string();
        for digest in [Digest::of_bytes(b"model"), Digest::of_bytes(b"other")] {
            assert!(text.contains(&digest.to_string()), "{text}");
        }
    }

    #[test]
    fn back_off_keeps_the_incumbent() {
        let incumbent = steering(&[(4, vector(&[1.0, 0.0])), (3, rotation(0.1))]);
        let round = steering(&[
            (4, vector(&[0.0, 2.0])),
            (3, rotation(0.2)),
            (5, vector(&[1.0, 1.0])),
        ]);
        let candidate = incumbent.stack(&round).unwrap();
        let weaker = candidate.back_off(Some(&incumbent), 0.25).unwrap();
        assert_eq!(vector_at(&weaker, 4, 0), [1.0, 0.5]);
        assert_eq!(weaker.edits(3)[0].strength, 1.0);
        assert_eq!(weaker.edits(3)[1].strength, 0.25);
        assert_eq!(weaker.edits(5)[0].strength, 0.25);
        let none = candidate.back_off(Some(&incumbent), 0.0).unwrap();
        assert_eq!(none.additive_shift(4), incumbent.additive_shift(4));
        // Nothing to keep: the whole candidate is scaled.
        assert_eq!(candidate.back_off(None, 0.5).unwrap().strength(), 0.5);
        let stranger = steering(&[(4, rotation(0.3))]);
        assert!(matches!(
            candidate.back_off(Some(&stranger), 0.5),
            Err(SteeringError::NotStacked { layer: 4 })
        ));
    }

    #[test]
    fn accumulated_shift_is_capped() {
        let factor = |incumbent: [f64; 2], addition: [f64; 2]| {
            shift_factor(&incumbent, &addition, 1.0).unwrap()
        };
        assert_eq!(factor([0.0, 0.0], [0.5, 0.0]), 1.0);
        assert_eq!(factor([0.0, 0.0], [4.0, 0.0]), 0.25);
        assert!((factor([0.6, 0.0], [0.0, 1.6]) - 0.5).abs() < 1e-12);
        assert_eq!(factor([2.0, 0.0], [0.1, 0.0]), 0.0);
        // A step back inside the limit is free.
        assert_eq!(factor([1.5, 0.0], [-1.0, 0.0]), 1.0);
    }
}
