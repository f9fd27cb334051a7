//! The stage's parameters.

use crate::FitStageError;
use sims_artifact::tables::SettingsRow;
use sims_stage::List;

sims_stage::choice! {
    /// What is fitted
    pub enum OperatorChoice {
        /// Add the mean difference of chosen and rejected states, at its raw length
        MeanDifference = "mean-difference",
        /// Control: add a random vector as long as the mean difference, another one in each layer and round
        Random = "random",
        /// Householder pseudo-rotation as published: probe as normal, angles from a network
        Hpr = "hpr",
        /// The same with the angle capped and the network started at the mean angle
        HprCapped = "hpr-capped",
        /// Rotation without a network: below the chosen states' mean, by a share of the class gap
        HprTarget = "hpr-target",
        /// Add the first principal direction of the differences between chosen and rejected responses
        Pca = "pca",
        /// Add the bias-free probe's direction, as long as the class difference along it
        Probe = "probe",
        /// Linear transport: move each coordinate of rejected states along a line onto that of chosen states
        Act = "act",
        /// Shift the attention heads that tell chosen from rejected best, for states extracted with site heads
        Iti = "iti",
    }
}

sims_stage::choice! {
    /// Which line act fits to each coordinate
    pub enum Line {
        /// Least squares through equal quantiles, applied within the range of the rejected states
        Quantiles = "quantiles",
        /// From means and deviations alone, applied everywhere
        Gaussian = "gaussian",
    }
}

sims_stage::choice! {
    /// What act takes as one sample
    pub enum Pooling {
        /// Every row
        Rows = "rows",
        /// The mean row of each response, as published
        Mean = "mean",
    }
}

sims_stage::choice! {
    /// What iti shifts heads along
    pub enum HeadsAlong {
        /// The head's mean difference
        MeanDifference = "mean-difference",
        /// The weights of the head's probe
        Probe = "probe",
    }
}

sims_stage::choice! {
    /// What hpr-capped and hpr-target turn toward
    pub enum NormalChoice {
        /// The mean difference
        MeanDifference = "mean-difference",
        /// The bias-free probe
        Probe = "probe",
    }
}

sims_stage::choice! {
    /// Which states hpr-capped and hpr-target edit
    pub enum Edge {
        /// Below the target with the mean difference as normal, below the plane with the probe
        Auto = "auto",
        /// Those on the rejected side of the plane through the origin
        BelowPlane = "below-plane",
        /// Those below the mean elevation of chosen states
        BelowTarget = "below-target",
    }
}

sims_stage::choice! {
    /// How far hpr-target turns
    pub enum TargetAngle {
        /// The same angle for every state: step times the gap between the classes
        ClassGap = "class-gap",
        /// Step times what is left to the mean elevation of chosen states
        Remaining = "remaining",
    }
}

sims_stage::choice! {
    /// What layers are compared by
    pub enum Rule {
        /// Largest contrast among those that held-out states tell apart as well as the best
        Contrast = "contrast",
        /// Held-out area under the ROC curve along the fitted direction
        Auroc = "auroc",
        /// Held-out accuracy of the bias-free probe
        ProbeAccuracy = "probe-accuracy",
    }
}

sims_stage::choice! {
    /// How the fit relates to the incumbent
    pub enum Relation {
        /// Comes on top of it; the states were read under it
        Stack = "stack",
        /// Takes its place; the states were read from the base model
        Replace = "replace",
    }
}

sims_stage::choice! {
    /// Which response counts as chosen
    pub enum Labels {
        /// The one that was chosen
        Ranked = "ranked",
        /// Either one, by a coin for each pair: the control
        Shuffled = "shuffled",
    }
}

sims_stage::choice! {
    /// How rows are averaged
    pub enum Averaged {
        /// Over a response's rows, then over responses
        TwoLevel = "two-level",
        /// Over all rows at once: long responses weigh more
        Flat = "flat",
    }
}

sims_stage::params! {
    /// What is fitted, where, and how far it moves.
    pub struct FitParams {
        /// What is fitted
        operator: OperatorChoice = OperatorChoice::MeanDifference,
        /// Share of the class difference that mean-difference, random, hpr-target, probe and act move
        step: f64 = 0.25,
        /// Length of what pca adds, in units of the mean state norm
        shift: f64 = 0.08,
        /// Which line act fits to each coordinate
        line: Line = Line::Quantiles,
        /// What act takes as one sample
        pool: Pooling = Pooling::Rows,
        /// Factor of the predicted angle of hpr and hpr-capped; 1 as published
        angle_scale: f64 = 1.0,
        /// What hpr-capped and hpr-target turn toward; hpr turns toward its probe
        normal: NormalChoice = NormalChoice::MeanDifference,
        /// Which states hpr-capped and hpr-target edit
        edit_if: Edge = Edge::Auto,
        /// How far hpr-target turns
        angle: TargetAngle = TargetAngle::ClassGap,
        /// Cap of hpr-capped, in multiples of the angle to a state's mirror image at the edge; 0 is off
        kappa: f64 = 2.0,
        /// Cap of hpr-capped and hpr-target in radians; 0 is off
        max_angle: f64 = 0.35,
        /// Passes over the fit half for the angle network
        epochs: u32 = 5,
        /// Heads that iti shifts, of all layers extracted; all where there are fewer
        heads: u32 = 48,
        /// How far iti shifts them, in standard deviations of their states
        head_strength: f64 = 15.0,
        /// What iti shifts heads along
        head_direction: HeadsAlong = HeadsAlong::MeanDifference,
        /// Layers to steer; empty chooses among those extracted
        layers: List<u32> = List(Vec::new()),
        /// Layers to choose
        top_k: u32 = 1,
        /// Least distance between chosen layers
        spread: u32 = 1,
        /// What layers are compared by
        selection: Rule = Rule::Contrast,
        /// How the fit relates to the incumbent
        compose: Relation = Relation::Stack,
        /// Longest sum of vectors at a layer, earlier rounds included, in units of the mean state norm; 0 is off
        max_shift: f64 = 0.25,
        /// Most rotations and transports at a layer, earlier rounds included; further ones are left out; 0 is off
        max_depth: u32 = 3,
        /// Restore each state's norm after the edit
        preserve_norm: bool = false,
        /// Least held-out F1 of a condition; the fit is refused below it
        condition_f1: f64 = 0.8,
        /// How rows are averaged
        averaging: Averaged = Averaged::TwoLevel,
        /// Which response counts as chosen
        labels: Labels = Labels::Ranked,
        /// Share of the prompts held out
        held_out: f64 = 0.2,
        /// Most rows of either class that a fit reads, drawn uniformly when there are more; 0 is off
        max_rows: u32 = 40_000,
        /// Fits to shuffled labels that the fit has to beat
        shuffles: u32 = 20,
        /// Do not warn of low held-out signal; the fit goes on and the signal gate of steer-eval refuses it in either case
        allow_low_signal: bool = false,
        /// The round, from 1
        round: u32 = 1,
        /// Seed of the splits, the rows drawn, the shuffles, the network and the random vectors
        seed: u64 = 0,
    }
    optional {
        /// Take from a vector what lies along those of earlier rounds at its layer, so that only what is new is added
        fresh: bool,
    }
}

impl FitParams {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`FitStageError::Parameter`] for the first one out of range.
    pub fn check(&self) -> Result<(), FitStageError> {
        let positive = "a positive number";
        let at_least_zero = "0 or a positive number";
        let is_act = self.operator == OperatorChoice::Act;
        let checks = [
            ("step", self.step, self.step > 0.0, positive),
            (
                "step",
                self.step,
                self.step <= 1.0 || !is_act,
                "at most 1 for act, which then moves all the way",
            ),
            ("shift", self.shift, self.shift > 0.0, positive),
            (
                "angle-scale",
                self.angle_scale,
                self.angle_scale > 0.0,
                positive,
            ),
            ("kappa", self.kappa, self.kappa >= 0.0, at_least_zero),
            (
                "max-angle",
                self.max_angle,
                self.max_angle >= 0.0,
                at_least_zero,
            ),
            (
                "max-shift",
                self.max_shift,
                self.max_shift >= 0.0,
                at_least_zero,
            ),
            (
                "condition-f1",
                self.condition_f1,
                (0.0..=1.0).contains(&self.condition_f1),
                "between 0 and 1",
            ),
            ("epochs", f64::from(self.epochs), self.epochs > 0, positive),
            ("heads", f64::from(self.heads), self.heads > 0, positive),
            (
                "head-strength",
                self.head_strength,
                self.head_strength > 0.0,
                positive,
            ),
            ("top-k", f64::from(self.top_k), self.top_k > 0, positive),
            (
                "shuffles",
                f64::from(self.shuffles),
                self.shuffles > 0,
                positive,
            ),
            (
                "held-out",
                self.held_out,
                self.held_out > 0.0 && self.held_out < 1.0,
                "between 0 and 1",
            ),
        ];
        for (parameter, value, fine, expected) in checks {
            if !(fine && value.is_finite()) {
                return Err(FitStageError::Parameter {
                    parameter,
                    value,
                    expected,
                });
            }
        }
        Ok(())
    }

    /// Returns the parameters with what earlier rounds changed: a shorter step, fewer layers.
    #[must_use]
    pub fn within(&self, settings: &SettingsRow) -> Self {
        Self {
            step: self.step * settings.step_factor,
            shift: self.shift * settings.step_factor,
            angle_scale: self.angle_scale * settings.step_factor,
            top_k: self.top_k.saturating_sub(settings.fewer_layers).max(1),
            ..self.clone()
        }
    }

    /// Returns the direction that the operator follows, along which layers are measured.
    pub fn direction(&self) -> Direction {
        match self.operator {
            OperatorChoice::MeanDifference
            | OperatorChoice::Random
            | OperatorChoice::Act
            | OperatorChoice::Iti => Direction::MeanDifference,
            OperatorChoice::Hpr | OperatorChoice::Probe => Direction::Probe,
            OperatorChoice::Pca => Direction::Principal,
            OperatorChoice::HprCapped | OperatorChoice::HprTarget => match self.normal {
                NormalChoice::MeanDifference => Direction::MeanDifference,
                NormalChoice::Probe => Direction::Probe,
            },
        }
    }
}

/// A direction from rejected to chosen states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The mean difference.
    MeanDifference,
    /// The bias-free probe.
    Probe,
    /// The first principal direction of the pairs' differences.
    Principal,
}
