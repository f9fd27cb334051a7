//! A steering: operators by layer, one strength, the model they belong to and how they were fitted.

use crate::condition::Condition;
use crate::fit_summary::FitSummary;
use crate::heads::HeadShift;
use crate::operator::{Edit, Operator};
use crate::{SteeringError, SteeringHook};
use serde::{Deserialize, Serialize};
use sims_artifact::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How a fit relates to the steering that the round sampled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compose {
    /// The fit comes on top: states were read from the steered model.
    Stack,
    /// The fit takes the incumbent's place: states were read from the base model.
    Replace,
}

/// A steering function of one model.
///
/// Holds for each layer an ordered list of [`Edit`]s, applied one after the other to that block's output,
/// what is added to its attention heads, and one strength that multiplies all of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Steering {
    pub(crate) model: Digest,
    pub(crate) hidden_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) operator: String,
    pub(crate) compose: Compose,
    pub(crate) strength: f64,
    pub(crate) layers: BTreeMap<usize, Vec<Edit>>,
    pub(crate) heads: BTreeMap<usize, HeadShift>,
    pub(crate) fit: Option<FitSummary>,
}

impl Steering {
    /// Returns the steering that changes nothing, for a model.
    pub fn identity(model: Digest, hidden_size: usize, num_hidden_layers: usize) -> Self {
        Self {
            model,
            hidden_size,
            num_hidden_layers,
            operator: "identity".to_owned(),
            compose: Compose::Replace,
            strength: 1.0,
            layers: BTreeMap::new(),
            heads: BTreeMap::new(),
            fit: None,
        }
    }

    /// Appends an edit to a layer (0-based, the block's output).
    ///
    /// # Errors
    /// [`SteeringError::LayerRange`] or [`SteeringError::HiddenSize`] if it does not fit the model,
    /// [`SteeringError::Degenerate`] if its strength is not finite, [`SteeringError::LateCondition`] if its condition
    /// reads a higher layer.
    pub fn push(&mut self, layer: usize, edit: Edit) -> Result<(), SteeringError> {
        if layer >= self.num_hidden_layers {
            return Err(SteeringError::LayerRange {
                layer,
                num_hidden_layers: self.num_hidden_layers,
            });
        }
        if edit.operator.hidden_size() != self.hidden_size {
            return Err(SteeringError::HiddenSize {
                expected: self.hidden_size,
                found: edit.operator.hidden_size(),
            });
        }
        finite("the edit's strength", edit.strength)?;
        if let Some(condition) = &edit.condition {
            condition.check(layer, self.hidden_size)?;
        }
        self.layers.entry(layer).or_default().push(edit);
        Ok(())
    }

    /// Returns the steering with every edit done only on prompts for which `condition` holds.
    ///
    /// Whatever condition an edit had is replaced.
    ///
    /// # Errors
    /// [`SteeringError::LateCondition`] or [`SteeringError::HiddenSize`] if it cannot be decided before every edit.
    pub fn conditional(mut self, condition: Condition) -> Result<Self, SteeringError> {
        if !self.heads.is_empty() {
            return Err(SteeringError::UnconditionalHeads);
        }
        let condition = Arc::new(condition);
        for (&layer, edits) in &mut self.layers {
            condition.check(layer, self.hidden_size)?;
            for edit in edits {
                edit.condition = Some(condition.clone());
            }
        }
        Ok(self)
    }

    /// Names the operator and says how the fit was made; returns the steering.
    #[must_use]
    pub fn described(
        mut self,
        operator: impl Into<String>,
        compose: Compose,
        fit: FitSummary,
    ) -> Self {
        self.operator = operator.into();
        self.compose = compose;
        self.fit = Some(fit);
        self
    }

    /// Returns the digest of the model that the steering belongs to.
    pub fn model(&self) -> &Digest {
        &self.model
    }

    /// Returns the model's hidden size.
    pub fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    /// Returns the model's number of decoder blocks.
    pub fn num_hidden_layers(&self) -> usize {
        self.num_hidden_layers
    }

    /// Returns the name of the operator fitted last, such as `mean-difference`.
    pub fn operator(&self) -> &str {
        &self.operator
    }

    /// Returns how the fit relates to its incumbent.
    pub fn compose(&self) -> Compose {
        self.compose
    }

    /// Returns the strength that multiplies every edit.
    pub fn strength(&self) -> f64 {
        self.strength
    }

    /// Returns the edited layers, those with edited heads among them, in ascending order.
    pub fn layers(&self) -> Vec<usize> {
        let layers: BTreeSet<usize> = self
            .layers
            .keys()
            .chain(self.heads.keys())
            .copied()
            .collect();
        layers.into_iter().collect()
    }

    /// Returns the edits of a layer in the order in which they are applied.
    pub fn edits(&self, layer: usize) -> &[Edit] {
        self.layers.get(&layer).map_or(&[], Vec::as_slice)
    }

    /// Returns how the steering was fitted, if it was.
    pub fn fit(&self) -> Option<&FitSummary> {
        self.fit.as_ref()
    }

    /// Returns whether the steering leaves every state bit for bit.
    pub fn is_identity(&self) -> bool {
        let edits = &mut self.layers.values().flatten();
        let is_idle = edits.all(|edit| edit.strength == 0.0);
        self.strength == 0.0 || (is_idle && self.heads.values().all(HeadShift::is_zero))
    }

    /// Returns whether every edit keeps the norms of the states: a rotation, or an edit that restores them.
    ///
    /// So does a steering without edits.
    pub fn keeps_norms(&self) -> bool {
        let edits = &mut self.layers.values().flatten();
        self.heads.is_empty() && edits.all(|edit| edit.preserve_norm || edit.operator.is_rotation())
    }

    /// Checks that the steering belongs to a model.
    ///
    /// # Errors
    /// [`SteeringError::ModelMismatch`] naming both digests.
    pub fn check_model(&self, model: &Digest) -> Result<(), SteeringError> {
        if &self.model == model {
            Ok(())
        } else {
            Err(SteeringError::ModelMismatch {
                expected: self.model,
                found: *model,
            })
        }
    }

    /// Returns the steering with its strength multiplied by `alpha`.
    ///
    /// Scales everything, earlier rounds included; see [`Steering::back_off`] for the last round alone.
    ///
    /// # Errors
    /// [`SteeringError::Degenerate`] if `alpha` is not finite.
    pub fn scaled(&self, alpha: f64) -> Result<Self, SteeringError> {
        finite("the strength", alpha)?;
        let mut scaled = self.clone();
        scaled.strength *= alpha;
        Ok(scaled)
    }

    /// Returns a hook that applies the steering during a forward pass.
    pub fn hook(&self) -> SteeringHook {
        SteeringHook::new(self)
    }

    /// Returns the sum of the vectors added at a layer, `[hidden]`, strengths included.
    ///
    /// Conditions count as met: it is what is added at most.
    /// Nothing is returned if the layer has no additive edit.
    pub fn additive_shift(&self, layer: usize) -> Option<Vec<f64>> {
        let mut total: Option<Vec<f64>> = None;
        for edit in self.edits(layer) {
            if let Operator::Additive(additive) = &edit.operator {
                let strength = self.strength * edit.strength;
                let sum = total.get_or_insert_with(|| vec![0.0; self.hidden_size]);
                for (sum, &v) in sum.iter_mut().zip(additive.vector()) {
                    *sum += strength * f64::from(v);
                }
            }
        }
        total
    }
}

/// Checks that a number given by the caller is finite.
pub(crate) fn finite(what: &'static str, value: f64) -> Result<(), SteeringError> {
    if value.is_finite() {
        Ok(())
    } else {
        Err(SteeringError::Degenerate { what, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::Additive;
    use crate::{AngleRule, Householder};

    #[test]
    fn norms_are_kept_when_every_edit_keeps_them() {
        let rotation = || {
            let rule = AngleRule::Fixed { angle: 0.3 };
            let normal = vec![1.0, 0.5];
            Edit::new(Operator::Householder(
                Householder::new(normal, 0.2, rule, None, None).unwrap(),
            ))
        };
        let vector = |preserve_norm| Edit {
            preserve_norm,
            ..Edit::new(Operator::Additive(Additive::new(vec![1.0, 0.0]).unwrap()))
        };
        let of = |edits: Vec<Edit>| {
            let mut steering = Steering::identity(Digest::of_bytes(b"model"), 2, 6);
            for (layer, edit) in edits.into_iter().enumerate() {
                steering.push(layer, edit).unwrap();
            }
            steering.keeps_norms()
        };
        assert!(of(Vec::new()));
        assert!(of(vec![rotation(), vector(true)]));
        assert!(!of(vec![rotation(), vector(false)]));
    }
}
