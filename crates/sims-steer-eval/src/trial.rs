//! A candidate on trial: one strength on one part of the prompts, held against the gates.

use sims_stage::BadInput;
use sims_stats::Bootstrap;
use sims_steering::Steering;

use crate::answers::{Answers, at};
use crate::back_off::{GateReading, Part, Setting, Trial};
use crate::evaluation::{Drawn, Evaluation, NotFinite, Policy, Side};
use crate::gates::{Noise, TextChange, norm_kept_gate, not_finite, signal_gate};
use crate::neutral::NeutralDrift;
use crate::params::Curve;
use crate::text_figures::TextFigures;
use crate::win_rate::Wins;

/// All that was measured of a policy on some prompts.
#[derive(Debug, Clone)]
pub(crate) struct Assessment {
    pub(crate) policy: Policy,
    /// The prompts, as indices into the evaluation's.
    pub(crate) indices: Vec<usize>,
    pub(crate) drawn: Drawn,
    pub(crate) drift: Option<NeutralDrift>,
    /// Against the base; none where a hard gate failed first.
    pub(crate) wins: Option<Wins>,
    pub(crate) wins_against_incumbent: Option<Wins>,
    /// The incumbent's answers, where they were compared.
    pub(crate) incumbent_answers: Option<Answers>,
}

/// The candidate, what it is compared with, and what was measured of it so far.
pub(crate) struct Trials<'e, 'a> {
    evaluation: &'e mut Evaluation<'a>,
    base: &'e Answers,
    candidate: &'e Steering,
    incumbent: Option<&'e Policy>,
    name: &'e dyn Fn(&Steering) -> anyhow::Result<String>,
    parts: [Vec<usize>; 2],
    noise: [Option<Noise>; 2],
    incumbent_answers: Option<Answers>,
    assessments: Vec<(Setting, Part, Assessment)>,
}

impl<'e, 'a> Trials<'e, 'a> {
    /// Puts `candidate` on trial; `parts` are the prompts of selection and confirmation, `name` gives a
    /// steering's policy name.
    pub(crate) fn new(
        evaluation: &'e mut Evaluation<'a>,
        base: &'e Answers,
        candidate: &'e Steering,
        incumbent: Option<&'e Policy>,
        parts: [Vec<usize>; 2],
        name: &'e dyn Fn(&Steering) -> anyhow::Result<String>,
    ) -> Self {
        Self {
            evaluation,
            base,
            candidate,
            incumbent,
            name,
            parts,
            noise: [None, None],
            incumbent_answers: None,
            assessments: Vec::new(),
        }
    }

    /// Tries one setting on one part.
    ///
    /// The judge is asked only when the hard gates pass, or when a whole curve is wanted.
    pub(crate) fn run(&mut self, part: Part, setting: &Setting) -> anyhow::Result<Trial> {
        let mut assessment = match self.draw(part, setting) {
            Ok(assessment) => assessment,
            Err(error) if error.is::<NotFinite>() => {
                return Ok(Trial {
                    gates: vec![not_finite()],
                    win_lower_bound: f64::NEG_INFINITY,
                });
            }
            Err(error) => return Err(error),
        };
        let noise = self.noise(part)?;
        let mut gates = hard_gates(self.evaluation, &assessment, self.base, &noise)?;
        let mut win_lower_bound = f64::NEG_INFINITY;
        if gates.iter().all(|gate| gate.passed) || self.evaluation.params.curve == Curve::Whole {
            win_lower_bound = self.judge(part, &mut assessment, &mut gates)?;
        }
        self.assessments.push((setting.clone(), part, assessment));
        Ok(Trial {
            gates,
            win_lower_bound,
        })
    }

    /// Returns what was measured at `setting`: selection and confirmation, as far as they were run.
    pub(crate) fn into_assessments(self, setting: &Setting) -> Vec<Assessment> {
        let at_setting = |(tried, _, assessment)| (tried == *setting).then_some(assessment);
        self.assessments
            .into_iter()
            .filter_map(at_setting)
            .collect()
    }

    fn indices(&self, part: Part) -> &[usize] {
        &self.parts[part as usize]
    }

    fn draw(&mut self, part: Part, setting: &Setting) -> anyhow::Result<Assessment> {
        let steering = with_setting(self.candidate, self.incumbent, setting)?;
        let policy = Policy {
            name: (self.name)(&steering)?,
            steering,
        };
        let indices = self.indices(part).to_vec();
        let known = self.assessments.iter().find(|(tried, ..)| tried == setting);
        let drift = match known {
            Some((.., assessment)) => assessment.drift.clone(),
            None => self.evaluation.drift(&policy.steering)?,
        };
        let drawn = self.evaluation.draw(
            &policy.name,
            Some(&policy.steering),
            Side::Candidate,
            &indices,
        )?;
        Ok(Assessment {
            policy,
            indices,
            drawn,
            drift,
            wins: None,
            wins_against_incumbent: None,
            incumbent_answers: None,
        })
    }

    /// Asks the judge, adds the gates that depend on it, and returns the lower bound of the win rate.
    fn judge(
        &mut self,
        part: Part,
        assessment: &mut Assessment,
        gates: &mut Vec<GateReading>,
    ) -> anyhow::Result<f64> {
        let base = at(self.base, &assessment.indices);
        let answers = &assessment.drawn.answers;
        let wins = self
            .evaluation
            .wins("against base", &assessment.indices, answers, &base)?;
        let rate = rate(&wins, &self.evaluation.bootstrap())?;
        assessment.wins = Some(wins);
        if part == Part::Confirmation {
            assessment.wins_against_incumbent = self.wins_against_incumbent(assessment)?;
            assessment
                .incumbent_answers
                .clone_from(&self.incumbent_answers);
            gates.extend(accept_gates(self.evaluation, assessment, self.candidate)?);
        } else {
            gates.push(self.evaluation.params.limits().gain_gate(rate));
        }
        Ok(rate.low)
    }

    /// Returns how far the base's figures move by chance on a part; read once.
    fn noise(&mut self, part: Part) -> anyhow::Result<Noise> {
        let known = self.noise[part as usize];
        let noise = match known {
            Some(noise) => noise,
            None => noise(self.evaluation, &at(self.base, self.indices(part)))?,
        };
        self.noise[part as usize] = Some(noise);
        Ok(noise)
    }

    fn wins_against_incumbent(&mut self, assessment: &Assessment) -> anyhow::Result<Option<Wins>> {
        let Some(incumbent) = self.incumbent else {
            return Ok(None);
        };
        let indices = &assessment.indices;
        let other = match self.incumbent_answers.take() {
            Some(answers) => answers,
            None => {
                let (name, steering) = (&incumbent.name, Some(&incumbent.steering));
                self.evaluation
                    .draw(name, steering, Side::Incumbent, indices)?
                    .answers
            }
        };
        let answers = &assessment.drawn.answers;
        let wins = self
            .evaluation
            .wins("against incumbent", indices, answers, &other)?;
        self.incumbent_answers = Some(other);
        Ok(Some(wins))
    }
}

/// Returns the layers at which the candidate does something else than the incumbent.
pub(crate) fn changed_layers(
    candidate: &Steering,
    incumbent: Option<&Policy>,
) -> Result<Vec<usize>, BadInput> {
    candidate
        .changed_layers(incumbent.map(|policy| &policy.steering))
        .map_err(|error| BadInput::new(format!("the candidate cannot be compared: {error}")))
}

/// Returns the candidate with what it adds to the incumbent at the setting's layers and strength alone.
pub(crate) fn with_setting(
    candidate: &Steering,
    before: Option<&Policy>,
    setting: &Setting,
) -> Result<Steering, BadInput> {
    let incumbent = before.map(|policy| &policy.steering);
    let refused = |error| BadInput::new(format!("the candidate cannot be taken in parts: {error}"));
    // At full strength and all layers the file goes through as it came, so that its digest does too.
    let narrowed = if changed_layers(candidate, before)? == setting.layers {
        candidate.clone()
    } else {
        candidate
            .at_layers(incumbent, &setting.layers)
            .map_err(refused)?
    };
    if setting.strength == 1.0 {
        return Ok(narrowed);
    }
    narrowed
        .back_off(incumbent, setting.strength)
        .map_err(refused)
}

/// Estimates the soft win rate.
pub(crate) fn rate(wins: &Wins, bootstrap: &Bootstrap) -> anyhow::Result<sims_stats::Interval> {
    if wins.prompts() == 0 {
        return Err(BadInput::new(
            "the judge answered no comparison: on each it put too little probability on its verdict tokens",
        )
        .into());
    }
    Ok(wins.soft_rate(bootstrap)?)
}

/// Returns how far figures of the base's answers move by chance; nothing for single draws.
pub(crate) fn noise(evaluation: &Evaluation<'_>, base: &Answers) -> anyhow::Result<Noise> {
    match TextFigures::halves(base, &evaluation.params.loop_rule()) {
        Some((first, second)) => Ok(Noise::of(&first, &second, &evaluation.bootstrap())?),
        None => Ok(Noise::default()),
    }
}

/// Reads the gates that guard against harm; `base` holds the base's answers to all prompts.
pub(crate) fn hard_gates(
    evaluation: &Evaluation<'_>,
    assessment: &Assessment,
    base: &Answers,
    noise: &Noise,
) -> anyhow::Result<Vec<GateReading>> {
    let (limits, bootstrap) = (evaluation.params.limits(), evaluation.bootstrap());
    let rule = evaluation.params.loop_rule();
    let base = TextFigures::of(&at(base, &assessment.indices), &rule);
    let figures = TextFigures::of(&assessment.drawn.answers, &rule);
    let edits = assessment.drawn.edits;
    let mut gates = limits.text_gates(&TextChange::of(&figures, &base, &bootstrap)?, noise);
    gates.extend(limits.norm_gates(edits.largest_norm_ratio, edits.non_finite_rows));
    if assessment.policy.steering.keeps_norms() {
        gates.push(norm_kept_gate(
            edits.smallest_norm_ratio,
            edits.largest_norm_ratio,
        ));
    }
    if let Some(drift) = &assessment.drift {
        gates.extend(limits.drift_gates(
            drift.perplexity_ratio(&bootstrap)?,
            drift.kl_per_token(&bootstrap)?,
            drift.kl_p99(),
        ));
    }
    Ok(gates)
}

/// Reads the gates that ask for a gain, as far as they were measured.
pub(crate) fn accept_gates(
    evaluation: &Evaluation<'_>,
    assessment: &Assessment,
    candidate: &Steering,
) -> anyhow::Result<Vec<GateReading>> {
    let (limits, bootstrap) = (evaluation.params.limits(), evaluation.bootstrap());
    let mut gates = Vec::new();
    if let Some(wins) = &assessment.wins {
        gates.push(limits.gain_gate(rate(wins, &bootstrap)?));
    }
    gates.extend(candidate.fit().map(|fit| signal_gate(&fit.signal)));
    if let Some(wins) = &assessment.wins_against_incumbent {
        gates.push(limits.no_regress_gate(rate(wins, &bootstrap)?));
    }
    Ok(gates)
}

/// Measures a policy on `indices` without holding it against any gate.
pub(crate) fn assess(
    evaluation: &mut Evaluation<'_>,
    policy: Policy,
    side: Side,
    indices: Vec<usize>,
    base: &Answers,
) -> anyhow::Result<Assessment> {
    let drawn = evaluation.draw(&policy.name, Some(&policy.steering), side, &indices)?;
    let drift = evaluation.drift(&policy.steering)?;
    let wins = evaluation.wins(
        "against base",
        &indices,
        &drawn.answers,
        &at(base, &indices),
    )?;
    Ok(Assessment {
        policy,
        indices,
        drawn,
        drift,
        wins: Some(wins),
        wins_against_incumbent: None,
        incumbent_answers: None,
    })
}
