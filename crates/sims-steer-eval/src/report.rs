//! The figures that leave the stage: `metrics` and `scores`.

use sims_artifact::tables::{MetricRow, ScoreRow};
use sims_stats::loops::LoopRule;
use sims_stats::{Bootstrap, Interval};

use crate::answers::{Answers, at, content};
use crate::constraints::Constraints;
use crate::content_figures::{ContentFigures, draw_bleu};
use crate::evaluation::EditFigures;
use crate::neutral::NeutralDrift;
use crate::refusals::is_refusal;
use crate::text_figures::TextFigures;
use crate::trial::Assessment;
use crate::win_rate::Wins;

/// How most figures were computed: over prompts, both sides of a comparison resampled together.
const PAIRED: &str = "paired-bootstrap";
/// How distinct n-grams are compared: both sides counted in samples of one size.
const RAREFIED: &str = "rarefied, paired-bootstrap";
/// How p-values were computed: against all signs of prompts being equally likely.
const SIGN_FLIP: &str = "sign-flip";
/// How percentiles over tokens were computed.
const NEAREST_RANK: &str = "nearest-rank";
/// How figures without an interval were computed.
const PLAIN: &str = "mean";

/// Collects metric rows.
pub(crate) struct Metrics {
    bootstrap: Bootstrap,
    rule: LoopRule,
    constraints: Constraints,
    rows: Vec<MetricRow>,
}

impl Metrics {
    /// Starts a report with this resampling, this rule for loops, and what prompts ask of the form.
    pub(crate) fn new(bootstrap: Bootstrap, rule: LoopRule, constraints: Constraints) -> Self {
        Self {
            bootstrap,
            rule,
            constraints,
            rows: Vec::new(),
        }
    }

    /// Returns the rows, in the order in which they were added.
    pub(crate) fn into_rows(self) -> Vec<MetricRow> {
        self.rows
    }

    /// Adds a figure without an interval.
    pub(crate) fn plain(&mut self, metric: &str, value: f64, n: u64) {
        self.push(metric, value, None, n, PLAIN, "");
    }

    /// Adds all that was measured of a policy, `base` being the base's answers to all prompts.
    pub(crate) fn assessment(
        &mut self,
        assessment: &Assessment,
        base: &Answers,
    ) -> anyhow::Result<()> {
        if let Some(wins) = &assessment.wins {
            self.wins(wins, "base")?;
        }
        if let Some(wins) = &assessment.wins_against_incumbent {
            self.wins(wins, "incumbent")?;
        }
        let (policy, base) = (&assessment.drawn.answers, at(base, &assessment.indices));
        self.text(
            &TextFigures::of(policy, &self.rule),
            &TextFigures::of(&base, &self.rule),
        )?;
        self.content(
            &ContentFigures::of(policy, &self.constraints),
            &ContentFigures::of(&base, &self.constraints),
        )?;
        if let Some(drift) = &assessment.drift {
            self.drift(drift)?;
        }
        self.edits(&assessment.drawn.edits, assessment.indices.len() as u64);
        Ok(())
    }

    /// Adds win rates against `baseline`, the p-value of the soft one, and how consistent the judge was.
    pub(crate) fn wins(&mut self, wins: &Wins, baseline: &str) -> anyhow::Result<()> {
        let n = wins.prompts();
        if n == 0 {
            return Ok(());
        }
        let soft = wins.soft_rate(&self.bootstrap)?;
        let hard = wins.hard_rate(&self.bootstrap)?;
        self.interval("self_judge_win_rate", soft, n, baseline);
        self.interval("self_judge_win_rate_hard", hard, n, baseline);
        let p_value = wins.p_value(&self.bootstrap)?;
        self.push("win_rate_p_value", p_value, None, n, SIGN_FLIP, baseline);
        if let Some(flip_rate) = wins.flip_rate() {
            let n = wins.distinct_prompts;
            self.push("judge_flip_rate", flip_rate, None, n, PLAIN, baseline);
        }
        self.push(
            "judge_position_bias",
            wins.judge.position_bias(),
            None,
            n,
            PLAIN,
            baseline,
        );
        self.push(
            "judge_invalid_share",
            wins.judge.invalid_share(),
            None,
            n,
            PLAIN,
            baseline,
        );
        Ok(())
    }

    /// Adds win rates against `baseline` as the second judge sees them.
    pub(crate) fn second_wins(&mut self, wins: &Wins, baseline: &str) -> anyhow::Result<()> {
        let n = wins.prompts();
        if n > 0 {
            let soft = wins.soft_rate(&self.bootstrap)?;
            let hard = wins.hard_rate(&self.bootstrap)?;
            self.interval("second_judge_win_rate", soft, n, baseline);
            self.interval("second_judge_win_rate_hard", hard, n, baseline);
        }
        Ok(())
    }

    /// Adds the win rate of one half of the base's draws against the other: what chance alone gives.
    pub(crate) fn base_against_base(&mut self, wins: &Wins) -> anyhow::Result<()> {
        if wins.prompts() > 0 {
            let rate = wins.soft_rate(&self.bootstrap)?;
            self.interval("base_against_base_win_rate", rate, wins.prompts(), "base");
        }
        Ok(())
    }

    /// Adds what the responses look like: the policy's figures, the base's, and how they differ.
    fn text(&mut self, policy: &TextFigures, base: &TextFigures) -> anyhow::Result<()> {
        let of = |figures: &TextFigures| {
            [
                figures.length.clone(),
                figures.loops.clone(),
                figures.repetition.clone(),
                figures.truncated.clone(),
                figures.similarity.clone(),
            ]
        };
        let names = [
            "length_tokens",
            "loop_rate",
            "rep_4",
            "truncation_rate",
            "self_similarity",
        ];
        for ((name, own), other) in names.iter().zip(of(policy)).zip(of(base)) {
            self.both(name, &own, &other)?;
        }
        let n = policy.length.len() as u64;
        let ratio = policy.length_ratio(base, &self.bootstrap)?;
        self.interval("length_ratio", ratio, n, "base");
        for gram in [1, 2] {
            if let Some(ratio) = policy.distinct_ratio(base, gram, &self.bootstrap)? {
                self.plain(
                    &format!("distinct_{gram}"),
                    policy.distinct(gram).unwrap_or(0.0),
                    n,
                );
                self.plain(
                    &format!("base_distinct_{gram}"),
                    base.distinct(gram).unwrap_or(0.0),
                    n,
                );
                let interval = Some((ratio.low, ratio.high));
                let metric = format!("distinct_{gram}_ratio");
                self.push(&metric, ratio.estimate, interval, n, RAREFIED, "base");
            }
        }
        Ok(())
    }

    /// Adds what the responses say: how alike a prompt's draws are, refusals, and the form where prompts ask for one.
    fn content(&mut self, policy: &ContentFigures, base: &ContentFigures) -> anyhow::Result<()> {
        if let (Some(own), Some(other)) = (&policy.self_bleu, &base.self_bleu) {
            self.both("self_bleu", own, other)?;
        }
        self.both("refusal_rate", &policy.refusals, &base.refusals)?;
        if !policy.all_kept.is_empty() {
            self.both("format_adherence", &policy.all_kept, &base.all_kept)?;
            self.both("constraint_adherence", &policy.each_kept, &base.each_kept)?;
        }
        Ok(())
    }

    /// Adds the means of the policy's figures and of the base's, and how they differ; one entry a prompt.
    fn both(&mut self, metric: &str, own: &[f64], base: &[f64]) -> anyhow::Result<()> {
        let n = own.len() as u64;
        let own_mean = self.bootstrap.mean(own)?;
        let base_mean = self.bootstrap.mean(base)?;
        let difference = self.bootstrap.mean_difference(own, base)?;
        self.interval(metric, own_mean, n, "");
        self.interval(&format!("base_{metric}"), base_mean, n, "");
        self.interval(&format!("{metric}_difference"), difference, n, "base");
        Ok(())
    }

    /// Adds perplexity and drift on neutral text; `n` counts texts, for the percentile tokens.
    fn drift(&mut self, drift: &NeutralDrift) -> anyhow::Result<()> {
        let n = drift.tokens.len() as u64;
        self.interval(
            "neutral_perplexity",
            drift.steered_perplexity(&self.bootstrap)?,
            n,
            "",
        );
        self.interval(
            "base_neutral_perplexity",
            drift.base_perplexity(&self.bootstrap)?,
            n,
            "",
        );
        self.interval(
            "neutral_perplexity_ratio",
            drift.perplexity_ratio(&self.bootstrap)?,
            n,
            "base",
        );
        self.interval(
            "neutral_kl_per_token",
            drift.kl_per_token(&self.bootstrap)?,
            n,
            "base",
        );
        let tokens = drift.token_kl.len() as u64;
        self.push(
            "neutral_kl_p99",
            drift.kl_p99(),
            None,
            tokens,
            NEAREST_RANK,
            "base",
        );
        Ok(())
    }

    fn edits(&mut self, edits: &EditFigures, n: u64) {
        self.plain("edit_mean_shift", edits.mean_shift, n);
        self.plain("edit_largest_norm_ratio", edits.largest_norm_ratio, n);
        self.plain("edit_smallest_norm_ratio", edits.smallest_norm_ratio, n);
        self.plain("edit_share", edits.edited_share, n);
        self.plain("edit_capped_share", edits.capped_share, n);
    }

    fn interval(&mut self, metric: &str, interval: Interval, n: u64, baseline: &str) {
        let Interval {
            estimate,
            low,
            high,
        } = interval;
        self.push(metric, estimate, Some((low, high)), n, PAIRED, baseline);
    }

    fn push(
        &mut self,
        metric: &str,
        value: f64,
        ci: Option<(f64, f64)>,
        n: u64,
        method: &str,
        baseline: &str,
    ) {
        self.rows.push(MetricRow {
            metric: metric.to_owned(),
            value,
            ci_low: ci.map(|(low, _)| low),
            ci_high: ci.map(|(_, high)| high),
            n,
            method: method.to_owned(),
            baseline: baseline.to_owned(),
        });
    }
}

/// Returns one row a prompt, policy, draw and metric of `answers`.
///
/// Self-BLEU only where a prompt has several draws, the form only where `constraints` say what is asked for.
pub(crate) fn text_scores(
    answers: &Answers,
    rule: &LoopRule,
    constraints: &Constraints,
) -> Vec<ScoreRow> {
    let mut rows = Vec::new();
    for draws in answers {
        let bleu = draw_bleu(draws);
        for (draw, response) in draws.iter().enumerate() {
            let tokens = content(response);
            let truth = |yes: bool| f64::from(u8::from(yes));
            let kept = constraints.kept(&response.prompt_id, &response.text);
            let figures = [
                ("length_tokens", Some(tokens.len() as f64)),
                ("loop", Some(truth(rule.find(tokens).is_some()))),
                ("rep_4", Some(sims_stats::diversity::repetition(tokens, 4))),
                ("truncated", Some(truth(response.finish_reason == "length"))),
                ("self_bleu", bleu.as_ref().map(|values| values[draw])),
                ("refusal", Some(truth(is_refusal(&response.text)))),
                ("format_adherence", kept.map(|share| truth(share == 1.0))),
                ("constraint_adherence", kept),
            ];
            rows.extend(figures.into_iter().filter_map(|(metric, value)| {
                Some(ScoreRow {
                    prompt_id: response.prompt_id.clone(),
                    policy: response.policy.clone(),
                    draw: Some(response.sample_index),
                    metric: metric.to_owned(),
                    value: value?,
                })
            }));
        }
    }
    rows
}

/// Returns one row a prompt and draw for each valid comparison with the base.
pub(crate) fn win_scores(assessment: &Assessment) -> Vec<ScoreRow> {
    let Some(wins) = &assessment.wins else {
        return Vec::new();
    };
    let mut rows = Vec::new();
    for (metric, wins) in [
        ("self_judge_win", &wins.soft),
        ("self_judge_win_hard", &wins.hard),
    ] {
        for (responses, wins) in assessment.drawn.answers.iter().zip(wins) {
            for (response, win) in responses.iter().zip(wins) {
                rows.extend(win.map(|value| ScoreRow {
                    prompt_id: response.prompt_id.clone(),
                    policy: response.policy.clone(),
                    draw: Some(response.sample_index),
                    metric: metric.to_owned(),
                    value,
                }));
            }
        }
    }
    rows
}
