//! Accuracies of log-likelihoods: of each question, of tasks and of groups of tasks.

use std::fmt;

use sims_artifact::tables::ChoicesRow;
use sims_stats::mcnemar::Discordance;
use sims_stats::{Bootstrap, Interval, StatsError};

use crate::evaluate::{ChoiceScore, TaskScores};
use crate::prompt::varying_texts;
use crate::tasks::Task;

/// A figure of one question, whose mean is the task's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Whether the likeliest choice is the right one.
    Acc,
    /// The same by log-likelihood a character.
    AccNorm,
    /// The same by log-likelihood a byte.
    AccBytes,
    /// The same by what the context adds to the log-likelihood.
    AccMutualInfo,
    /// Whether the right choice is likelier than every wrong one (TruthfulQA MC1).
    Mc1,
    /// Probability of the right choices among all (TruthfulQA MC2).
    Mc2,
}

impl Metric {
    /// Returns the metric's name, as in the harness.
    pub fn name(self) -> &'static str {
        match self {
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
            Self::AccBytes => "acc_bytes",
            Self::AccMutualInfo => "acc_mutual_info",
            Self::Mc1 => "mc1",
            Self::Mc2 => "mc2",
        }
    }

    /// Returns whether a question's figure is right or wrong, 1 or 0, and nothing between.
    pub fn is_hit(self) -> bool {
        self != Self::Mc2
    }

    /// Returns the metrics that are defined for a task.
    pub fn of(task: &Task, unconditional: bool) -> Vec<Self> {
        let (gold, labels) = (task.has_gold(), task.has_labels());
        [
            (Self::Acc, gold),
            (Self::AccNorm, gold),
            (Self::AccBytes, gold),
            (Self::AccMutualInfo, gold && unconditional),
            (Self::Mc1, gold && labels),
            (Self::Mc2, labels),
        ]
        .into_iter()
        .filter_map(|(metric, is_defined)| is_defined.then_some(metric))
        .collect()
    }

    /// Returns the figure of a question; none where it is not defined.
    pub fn of_question(self, question: &ChoicesRow, scores: &[ChoiceScore]) -> Option<f64> {
        let hit = |value: &dyn Fn(usize) -> f64| {
            let gold = question.gold? as usize;
            let best = first_largest((0..scores.len()).map(|choice| (choice, value(choice))));
            Some(f64::from(u8::from(best == Some(gold))))
        };
        let texts = varying_texts(question);
        let likelihood = |choice: usize| scores[choice].loglikelihood;
        match self {
            Self::Acc => hit(&likelihood),
            Self::AccNorm => {
                hit(&|choice| likelihood(choice) / texts[choice].chars().count() as f64)
            }
            Self::AccBytes => hit(&|choice| likelihood(choice) / texts[choice].len() as f64),
            Self::AccMutualInfo => {
                let unconditional: Option<Vec<f64>> =
                    scores.iter().map(|score| score.unconditional).collect();
                let unconditional = unconditional?;
                hit(&|choice| likelihood(choice) - unconditional[choice])
            }
            Self::Mc1 => {
                let (gold, labels) = (question.gold? as usize, question.labels.as_ref()?);
                let rivals = (0..scores.len()).filter(|&i| i == gold || labels[i] == 0);
                let best = first_largest(rivals.map(|choice| (choice, likelihood(choice))));
                Some(f64::from(u8::from(best == Some(gold))))
            }
            Self::Mc2 => Some(true_mass(question.labels.as_ref()?, scores)),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Returns the item with the largest value; of several, the first.
fn first_largest(items: impl Iterator<Item = (usize, f64)>) -> Option<usize> {
    let largest = items.fold(None, |best: Option<(usize, f64)>, item| match best {
        Some(best) if best.1 >= item.1 => Some(best),
        _ => Some(item),
    });
    largest.map(|(index, _)| index)
}

/// Returns the probability of the choices labelled 1 among all, each taken as the probability of its whole text.
///
/// The harness exponentiates the sums as they are; the largest is taken out here, so that a question of long choices
/// does not become 0 / 0.
fn true_mass(labels: &[u32], scores: &[ChoiceScore]) -> f64 {
    let largest = scores
        .iter()
        .map(|score| score.loglikelihood)
        .fold(f64::NEG_INFINITY, f64::max);
    let mass = |score: &ChoiceScore| (score.loglikelihood - largest).exp();
    let right = labels.iter().zip(scores).filter(|(label, _)| **label == 1);
    right.map(|(_, score)| mass(score)).sum::<f64>() / scores.iter().map(mass).sum::<f64>()
}

/// A mean and its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub value: f64,
    /// Its standard error; none of a single question.
    pub stderr: Option<f64>,
    /// Questions.
    pub n: usize,
}

impl Estimate {
    /// Returns mean and standard error of a task's questions, of which there is at least one.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self {
            value: mean,
            stderr: (n > 1).then(|| (squares / (n - 1) as f64 / n as f64).sqrt()),
            n,
        }
    }

    /// Returns the mean of a group's tasks, weighted by their sizes, and the pooled standard error.
    pub fn pooled(tasks: &[Self]) -> Self {
        if let [task] = tasks {
            return *task;
        }
        let n: usize = tasks.iter().map(|task| task.n).sum();
        let mean = tasks
            .iter()
            .map(|task| task.value * task.n as f64)
            .sum::<f64>()
            / n as f64;
        let squares: Option<f64> = tasks
            .iter()
            .map(|task| Some((task.n - 1) as f64 * task.n as f64 * task.stderr?.powi(2)))
            .sum();
        Self {
            value: mean,
            stderr: squares.map(|squares| (squares / (n - tasks.len()) as f64 / n as f64).sqrt()),
            n,
        }
    }
}

/// One figure of a task or group.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What was measured.
    pub metric: Metric,
    /// The base model's.
    pub base: Estimate,
    /// The steered model's and how it differs, where there is a steering.
    pub steered: Option<Comparison>,
}

/// The steered model beside the base model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// The steered model's figure.
    pub estimate: Estimate,
    /// Steered minus base, with the interval of a bootstrap over questions that keeps both scores of one together.
    pub difference: Interval,
    /// The questions that only one of them gets right, the steered model first; none where a question's figure is a
    /// share.
    pub discordance: Option<Discordance>,
}

/// All figures of a task, or of a group of tasks.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// The task or group.
    pub name: String,
    /// Whether it is a group.
    pub is_group: bool,
    /// Questions.
    pub n: usize,
    /// The figures, in the order of [`Metric`].
    pub figures: Vec<Figure>,
}

/// The values of one metric, one entry a question.
struct Values {
    metric: Metric,
    base: Vec<f64>,
    steered: Option<Vec<f64>>,
}

/// Returns the figures of every task, then of every group in the order in which tasks name them.
///
/// `scores` are those of `tasks`, in their order.
///
/// # Errors
/// What the bootstrap returns.
pub fn figures(
    tasks: &[Task],
    scores: &[TaskScores],
    unconditional: bool,
    bootstrap: &Bootstrap,
) -> Result<Vec<Figures>, StatsError> {
    let values: Vec<Vec<Values>> = tasks
        .iter()
        .zip(scores)
        .map(|(task, scores)| values_of(task, scores, unconditional))
        .collect();
    let mut all = Vec::new();
    for (task, values) in tasks.iter().zip(&values) {
        let figures = values.iter().map(|values| figure(&[values], bootstrap));
        all.push(Figures {
            name: task.name.clone(),
            is_group: false,
            n: task.questions.len(),
            figures: figures.collect::<Result<_, _>>()?,
        });
    }
    let mut groups: Vec<&String> = Vec::new();
    for group in tasks.iter().flat_map(|task| &task.groups) {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    for group in groups {
        let members: Vec<usize> = (0..tasks.len())
            .filter(|&index| tasks[index].groups.contains(group))
            .collect();
        // A group has the metrics that all of its tasks have.
        let shared = values[members[0]].iter().filter_map(|first| {
            let of_member = |&member: &usize| {
                let mut values = values[member].iter();
                values.find(|values| values.metric == first.metric)
            };
            members.iter().map(of_member).collect::<Option<Vec<_>>>()
        });
        all.push(Figures {
            name: group.clone(),
            is_group: true,
            n: members
                .iter()
                .map(|&index| tasks[index].questions.len())
                .sum(),
            figures: shared
                .map(|values| figure(&values, bootstrap))
                .collect::<Result<_, _>>()?,
        });
    }
    Ok(all)
}

fn values_of(task: &Task, scores: &TaskScores, unconditional: bool) -> Vec<Values> {
    let of = |metric: Metric, scores: &[Vec<ChoiceScore>]| -> Vec<f64> {
        let questions = task.questions.iter().zip(scores);
        questions
            .filter_map(|(question, scores)| metric.of_question(question, scores))
            .collect()
    };
    let values = |metric: Metric| Values {
        metric,
        base: of(metric, &scores.base),
        steered: scores.steered.as_ref().map(|scores| of(metric, scores)),
    };
    Metric::of(task, unconditional)
        .into_iter()
        .map(values)
        .collect()
}

/// Returns the figure of one metric over the tasks whose values are given.
fn figure(tasks: &[&Values], bootstrap: &Bootstrap) -> Result<Figure, StatsError> {
    let pooled = |tasks: &[&[f64]]| {
        let tasks: Vec<Estimate> = tasks.iter().map(|values| Estimate::of(values)).collect();
        Estimate::pooled(&tasks)
    };
    let base: Vec<&[f64]> = tasks.iter().map(|values| &values.base[..]).collect();
    let steered: Option<Vec<&[f64]>> = tasks
        .iter()
        .map(|values| values.steered.as_deref())
        .collect();
    let metric = tasks[0].metric;
    let hits = |values: &[&[f64]]| -> Vec<bool> {
        let values = values.concat().into_iter();
        values.map(|value| value == 1.0).collect()
    };
    let compare = |steered: Vec<&[f64]>| -> Result<Comparison, StatsError> {
        let discordance = metric
            .is_hit()
            .then(|| Discordance::of(&hits(&steered), &hits(&base)));
        Ok(Comparison {
            estimate: pooled(&steered),
            difference: bootstrap.mean_difference(&steered.concat(), &base.concat())?,
            discordance: discordance.transpose()?,
        })
    };
    Ok(Figure {
        metric,
        base: pooled(&base),
        steered: steered.map(compare).transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(likelihoods: &[f64]) -> Vec<ChoiceScore> {
        let score = |&loglikelihood: &f64| ChoiceScore {
            loglikelihood,
            is_greedy: false,
            tokens: 1,
            cut: 0,
            unconditional: Some(-1.0),
        };
        likelihoods.iter().map(score).collect()
    }

    fn question(choices: &[&str], gold: Option<u32>, labels: Option<&[u32]>) -> ChoicesRow {
        ChoicesRow {
            task: "t".to_owned(),
            groups: vec!["g".to_owned()],
            doc_id: "0".to_owned(),
            split: "test".to_owned(),
            description: None,
            context: String::new(),
            contexts: None,
            choices: choices.iter().map(ToString::to_string).collect(),
            gold,
            labels: labels.map(<[u32]>::to_vec),
            prefix: None,
            target_delimiter: " ".to_owned(),
            fewshot_delimiter: "\n\n".to_owned(),
        }
    }

    fn of(metric: Metric, question: &ChoicesRow, likelihoods: &[f64]) -> f64 {
        metric
            .of_question(question, &scores(likelihoods))
            .expect("defined")
    }

    #[test]
    fn lengths_are_characters_or_bytes_of_the_choice() {
        // Three characters of two bytes each: 3 and 6.
        let question = question(&["abcd", "äöü"], Some(1), None);
        assert_eq!(of(Metric::Acc, &question, &[-4.0, -3.5]), 1.0);
        assert_eq!(of(Metric::AccNorm, &question, &[-4.0, -3.5]), 0.0);
        assert_eq!(of(Metric::AccBytes, &question, &[-4.0, -3.5]), 1.0);
        assert_eq!(of(Metric::AccMutualInfo, &question, &[-4.0, -5.0]), 0.0);
    }

    #[test]
    fn of_equal_choices_the_first_is_taken() {
        let first = question(&["a", "b"], Some(0), None);
        let second = question(&["a", "b"], Some(1), None);
        assert_eq!(of(Metric::Acc, &first, &[-1.0, -1.0]), 1.0);
        assert_eq!(of(Metric::Acc, &second, &[-1.0, -1.0]), 0.0);
    }

    #[test]
    fn mc1_has_no_rivals_among_right_choices() {
        let question = question(&["a", "b", "c"], Some(0), Some(&[1, 1, 0]));
        let likelihoods = [-2.0, -1.0, -3.0];
        assert_eq!(of(Metric::Acc, &question, &likelihoods), 0.0);
        assert_eq!(of(Metric::Mc1, &question, &likelihoods), 1.0);
        assert_eq!(of(Metric::Mc1, &question, &[-4.0, -1.0, -3.0]), 0.0);
    }

    #[test]
    fn mc2_is_a_share_however_unlikely_all_choices_are() {
        let question = question(&["a", "b"], None, Some(&[0, 1]));
        let third = 2.0_f64.ln();
        assert!((of(Metric::Mc2, &question, &[-third, 0.0]) - 2.0 / 3.0).abs() < 1e-15);
        assert!(
            (of(Metric::Mc2, &question, &[-2000.0 - third, -2000.0]) - 2.0 / 3.0).abs() < 1e-12
        );
        assert_eq!(
            Metric::Acc.of_question(&question, &scores(&[0.0, 0.0])),
            None
        );
    }

    #[test]
    fn a_group_has_the_metrics_of_all_its_tasks() {
        let task = |name: &str, questions: Vec<ChoicesRow>| Task {
            name: name.to_owned(),
            groups: vec!["g".to_owned()],
            examples: Vec::new(),
            questions,
        };
        let labelled = question(&["a", "b"], Some(0), Some(&[1, 0]));
        let plain = question(&["a", "b"], Some(0), None);
        let tasks = [task("one", vec![labelled; 2]), task("two", vec![plain; 4])];
        let scores = [
            [[-1.0, -2.0], [-2.0, -1.0]].map(|s| scores(&s)).to_vec(),
            [[-1.0, -2.0], [-2.0, -1.0], [-1.0, -2.0], [-1.0, -2.0]]
                .map(|s| scores(&s))
                .to_vec(),
        ]
        .map(|base| TaskScores {
            base,
            steered: None,
        });
        let all = figures(&tasks, &scores, false, &Bootstrap::seeded(0)).expect("valid");
        let names: Vec<(&str, bool)> = all.iter().map(|f| (f.name.as_str(), f.is_group)).collect();
        assert_eq!(names, [("one", false), ("two", false), ("g", true)]);
        assert_eq!(all[0].figures.len(), 5);
        let metrics: Vec<Metric> = all[2].figures.iter().map(|figure| figure.metric).collect();
        assert_eq!(metrics, [Metric::Acc, Metric::AccNorm, Metric::AccBytes]);
        let pooled = all[2].figures[0].base;
        assert_eq!((pooled.n, all[2].n), (6, 6));
        // Standard errors 1/2 and 1/4: (1·2·1/4 + 3·4·1/16) / (6 − 2) / 6.
        assert!((pooled.value - 4.0 / 6.0).abs() < 1e-15);
        assert!((pooled.stderr.expect("several") - (1.25_f64 / 24.0).sqrt()).abs() < 1e-15);
    }

    #[test]
    fn questions_that_one_model_alone_gets_right_are_counted() {
        let values = |base: &[f64], steered: &[f64]| Values {
            metric: Metric::Acc,
            base: base.to_vec(),
            steered: Some(steered.to_vec()),
        };
        let one = values(&[1.0, 0.0, 0.0], &[1.0, 1.0, 0.0]);
        let other = values(&[0.0, 0.0, 0.0, 1.0], &[1.0, 1.0, 1.0, 0.0]);
        let bootstrap = Bootstrap::seeded(0);
        let of = |tasks: &[&Values]| {
            let compared = figure(tasks, &bootstrap).expect("valid").steered;
            compared.and_then(|compared| compared.discordance)
        };
        let pooled = of(&[&one, &other]).expect("right or wrong");
        assert_eq!((pooled.first_only, pooled.second_only), (4, 1));
        // Of five coins at most one on the rarer side, on either: 2 (1 + 5) / 32.
        assert!((pooled.exact().p_value - 12.0 / 32.0).abs() < 1e-12);
        let share = Values {
            metric: Metric::Mc2,
            ..values(&[0.4], &[0.6])
        };
        assert_eq!(of(&[&share]), None);
    }

    #[test]
    fn one_question_has_no_standard_error() {
        let one = Estimate::of(&[1.0]);
        assert_eq!((one.value, one.stderr), (1.0, None));
        assert_eq!(
            Estimate::pooled(&[one, Estimate::of(&[0.0, 1.0])]).stderr,
            None
        );
    }
}
