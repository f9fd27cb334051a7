//! From parameters to a judge.

use std::path::PathBuf;

use sims_artifact::Digest;
use sims_model::{DeviceChoice, LanguageModel};

use crate::annotations::{AnnotatedPairs, AnnotatedRatings};
use crate::comparison::PairJudge;
use crate::ensemble::{Ensemble, Pooling};
use crate::http::{HttpJudge, HttpSettings};
use crate::noisy::Noisy;
use crate::pairrm::PairRm;
use crate::planted::{Bias, Biased, PlantedFirst, PlantedLength};
use crate::rating::RatingJudge;
use crate::template::choose;
use crate::{JudgeError, JudgeKind, JudgeParams, SelfJudge};

/// What a judge may work with.
#[derive(Clone, Default)]
pub struct JudgeInputs<'a> {
    /// The frozen model and its manifest digest.
    pub model: Option<(&'a LanguageModel, &'a Digest)>,
    /// Annotated pairs, a `judgments@1` table.
    pub annotations: Option<PathBuf>,
    /// Ratings of single responses, a `ratings@1` table.
    pub ratings: Option<PathBuf>,
    /// The folder of PairRM.
    pub pairrm: Option<PathBuf>,
    /// Where PairRM runs: of several, on the first.
    pub device: DeviceChoice,
    /// Transcripts that the model reads at once; 0 takes what fits the memory.
    pub sequences: usize,
    /// The round, from 1: what a growing bias grows with.
    pub round: u32,
}

impl<'a> JudgeInputs<'a> {
    fn model_for(&self, kind: JudgeKind) -> Result<(&'a LanguageModel, &'a Digest), JudgeError> {
        self.model.ok_or_else(|| {
            JudgeError::Setting(format!(
                "judge `{kind}` asks a model, and none is given; give --model, or choose another judge"
            ))
        })
    }
}

impl JudgeParams {
    /// Returns whether the judge asks a model.
    pub fn needs_model(&self) -> bool {
        let asks = |kind: &JudgeKind| matches!(kind, JudgeKind::SelfJudge | JudgeKind::Rating);
        self.kinds().iter().any(asks)
    }

    fn rating_scale(&self) -> Result<f64, JudgeError> {
        finite("rating-scale", self.rating_scale.unwrap_or(1.0))
    }

    /// Returns the judges that are asked: the chosen one, the oracle behind a noisy one, the members of
    /// an ensemble.
    fn kinds(&self) -> Vec<JudgeKind> {
        let mut kinds = vec![self.judge];
        if self.judge == JudgeKind::Noisy {
            kinds.push(self.oracle());
        }
        if kinds.contains(&JudgeKind::Ensemble) {
            kinds.extend(self.members());
        }
        kinds
    }

    fn members(&self) -> &[JudgeKind] {
        self.members.as_ref().map_or(&[], |members| &members.0)
    }

    fn oracle(&self) -> JudgeKind {
        self.oracle.unwrap_or(JudgeKind::SelfJudge)
    }

    /// Returns the parameters given that only judges read which are not asked, each with the first of these.
    fn unread(&self) -> Vec<(&'static str, JudgeKind)> {
        let kinds = self.kinds();
        use JudgeKind::{Ensemble, File, Http, Noisy, PlantedLength, Rating};
        let parameters: [(&'static str, bool, &[JudgeKind]); 13] = [
            ("oracle", self.oracle.is_some(), &[Noisy]),
            ("error-rate", self.error_rate.is_some(), &[Noisy]),
            ("rating-scale", self.rating_scale.is_some(), &[Rating, File]),
            ("missing", self.missing.is_some(), &[File]),
            ("members", self.members.is_some(), &[Ensemble]),
            (
                "member-temperatures",
                self.member_temperatures.is_some(),
                &[Ensemble],
            ),
            ("pooling", self.pooling.is_some(), &[Ensemble]),
            ("judge-model", self.judge_model.is_some(), &[Http]),
            ("base-url", self.base_url.is_some(), &[Http]),
            ("concurrency", self.concurrency.is_some(), &[Http]),
            (
                "requests-per-minute",
                self.requests_per_minute.is_some(),
                &[Http],
            ),
            ("token-budget", self.token_budget.is_some(), &[Http]),
            (
                "length-weight",
                self.length_weight.is_some(),
                &[PlantedLength],
            ),
        ];
        parameters
            .into_iter()
            .filter(|(_, given, readers)| {
                *given && !kinds.iter().any(|kind| readers.contains(kind))
            })
            .map(|(name, _, readers)| (name, readers[0]))
            .collect()
    }
}

/// Makes the judge that `params` describe, of what `inputs` hold.
///
/// # Errors
/// A parameter that the judge does not read or that is out of range, an input that it lacks, and what
/// reading the inputs returns.
pub fn open<'a>(
    params: &JudgeParams,
    inputs: &JudgeInputs<'a>,
) -> Result<Box<dyn PairJudge + 'a>, JudgeError> {
    Ok(open_two(params, None, inputs)?.0)
}

/// A judge, and a second one where there is one.
pub type TwoJudges<'a> = (Box<dyn PairJudge + 'a>, Option<Box<dyn PairJudge + 'a>>);

/// Makes two judges with the same settings, of which each takes what it reads; the biases are the first's alone.
///
/// # Errors
/// A parameter that neither reads, and as [`open`].
pub fn open_two<'a>(
    params: &JudgeParams,
    second: Option<JudgeKind>,
    inputs: &JudgeInputs<'a>,
) -> Result<TwoJudges<'a>, JudgeError> {
    let second = second.map(|judge| JudgeParams {
        judge,
        first_bias: None,
        length_bias: None,
        length_bias_growth: None,
        ..params.clone()
    });
    let unread_by_second = second.as_ref().map(JudgeParams::unread);
    let is_read = |name: &&'static str| {
        let unread = unread_by_second.as_ref();
        unread.is_some_and(|unread| !unread.iter().any(|(other, _)| other == name))
    };
    for (name, reader) in params.unread() {
        if !is_read(&name) {
            return Err(JudgeError::Setting(format!(
                "{name} is given, but judge `{}` does not read it; leave it out, or choose judge `{reader}`",
                params.judge
            )));
        }
    }
    let first = open_biased(params, inputs)?;
    let second = second.map(|second| open_kind(second.judge, &second, inputs));
    Ok((first, second.transpose()?))
}

/// Makes a judge and gives it the bias that the parameters plant.
fn open_biased<'a>(
    params: &JudgeParams,
    inputs: &JudgeInputs<'a>,
) -> Result<Box<dyn PairJudge + 'a>, JudgeError> {
    let mut judge = open_kind(params.judge, params, inputs)?;
    let growth = finite(
        "length-bias-growth",
        params.length_bias_growth.unwrap_or(0.0),
    )?;
    let bias = Bias {
        first: finite("first-bias", params.first_bias.unwrap_or(0.0))?,
        length: finite("length-bias", params.length_bias.unwrap_or(0.0))?
            + growth * f64::from(inputs.round.saturating_sub(1)),
    };
    if bias != Bias::default() {
        judge = Box::new(Biased::new(judge, bias));
    }
    Ok(judge)
}

fn open_kind<'a>(
    kind: JudgeKind,
    params: &JudgeParams,
    inputs: &JudgeInputs<'a>,
) -> Result<Box<dyn PairJudge + 'a>, JudgeError> {
    Ok(match kind {
        JudgeKind::SelfJudge => {
            let (model, digest) = inputs.model_for(kind)?;
            let template = choose(&params.template, model)?;
            Box::new(SelfJudge::new(model, digest, template, inputs.sequences)?)
        }
        JudgeKind::Rating => {
            let (model, digest) = inputs.model_for(kind)?;
            let scale = params.rating_scale()?;
            Box::new(RatingJudge::new(model, digest, scale, inputs.sequences)?)
        }
        JudgeKind::PairRm => {
            let folder = inputs.pairrm.as_ref().ok_or_else(|| {
                JudgeError::Setting(
                    "judge `pairrm` reads the folder of llm-blender/PairRM-hf, and none is given; give --pairrm"
                        .to_owned(),
                )
            })?;
            Box::new(PairRm::open(folder, &inputs.device.open()?[0])?)
        }
        JudgeKind::Http => Box::new(HttpJudge::new(HttpSettings::new(params)?)?),
        JudgeKind::File => match (&inputs.annotations, &inputs.ratings) {
            (Some(_), None) if params.rating_scale.is_some() => {
                return Err(JudgeError::Setting(
                    "rating-scale is given, but the judge reads --annotations; it scales --ratings"
                        .to_owned(),
                ));
            }
            (Some(pairs), None) => Box::new(AnnotatedPairs::read(pairs)?),
            (None, Some(ratings)) => {
                Box::new(AnnotatedRatings::read(ratings, params.rating_scale()?)?)
            }
            _ => {
                return Err(JudgeError::Setting(
                    "judge `file` reads either --annotations (pairs) or --ratings (single responses); give one of them"
                        .to_owned(),
                ));
            }
        },
        JudgeKind::Ensemble => {
            let member = |&member: &JudgeKind| match member {
                JudgeKind::Ensemble | JudgeKind::Noisy => Err(JudgeError::Setting(format!(
                    "`{member}` cannot be a member of an ensemble; name judges that stand alone"
                ))),
                member => open_kind(member, params, inputs),
            };
            let members = params
                .members()
                .iter()
                .map(member)
                .collect::<Result<_, _>>()?;
            let temperatures = params.member_temperatures.as_ref();
            Box::new(Ensemble::new(
                members,
                temperatures.map_or(&[], |temperatures| &temperatures.0),
                params.pooling.unwrap_or(Pooling::Mean),
            )?)
        }
        JudgeKind::Noisy => {
            let error_rate = params.error_rate.ok_or_else(|| {
                JudgeError::Setting("judge `noisy` needs error-rate, between 0 and 0.5".to_owned())
            })?;
            let oracle = match params.oracle() {
                JudgeKind::Noisy => {
                    return Err(JudgeError::Setting(
                        "the oracle of judge `noisy` cannot be `noisy` itself".to_owned(),
                    ));
                }
                oracle => open_kind(oracle, params, inputs)?,
            };
            Box::new(Noisy::new(oracle, error_rate, params.seed)?)
        }
        JudgeKind::PlantedLength => {
            let weight = params.length_weight.ok_or_else(|| {
                JudgeError::Setting(
                    "judge `planted-length` needs length-weight, in nats a token".to_owned(),
                )
            })?;
            Box::new(PlantedLength::new(finite("length-weight", weight)?))
        }
        JudgeKind::PlantedFirst => Box::new(PlantedFirst),
    })
}

fn finite(name: &str, value: f64) -> Result<f64, JudgeError> {
    if value.is_finite() {
        Ok(value)
    } else {
        Err(JudgeError::Setting(format!(
            "{name} is {value}, but it must be a finite number"
        )))
    }
}
