//! Controls: comparisons whose better answer is known, because the other was made by damaging it.
//!
//! On a seeded sample of prompts, one response of each stands against damaged ones ([`ControlKind`]).
//! A control whose damage changes no word (half of one word, the shuffle of two equal ones) is left out.

use sims_artifact::tables::MetricRow;
use sims_stats::random::{Stream, key_of};
use sims_stats::{StatsError, proportion::wilson};

use crate::comparison::{Answer, Comparison};
use crate::damage::{first_half, said_twice, same_words, shuffled};
use crate::reliability::{row, single};
use crate::verdict::{BothOrders, Preference};

/// The metric that `min-control-accuracy` limits.
pub const OTHER_PROMPT_ACCURACY: &str = "control_other_prompt_accuracy";
/// The largest preference between a response and itself. Unit: nats.
pub const IDENTICAL_MAX_DIFFERENCE: &str = "control_identical_max_difference";

/// What stands against an intact response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ControlKind {
    /// A response to another prompt.
    OtherPrompt,
    /// The first half of the response's words.
    Half,
    /// The response's sentences, or the words of its only one, in another order.
    Shuffled,
    /// The response said twice: filler in any language and vocabulary.
    Padded,
    /// The response itself: both orders are one transcript, so no preference is left at all.
    Identical,
}

impl ControlKind {
    /// Returns what stands for the id of the damaged answer.
    fn name(self) -> &'static str {
        match self {
            Self::OtherPrompt => "other prompt",
            Self::Half => "half",
            Self::Shuffled => "shuffled",
            Self::Padded => "padded",
            Self::Identical => "identical",
        }
    }
}

/// A prompt with the texts of its responses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered<'a> {
    /// The prompt's id.
    pub prompt_id: &'a str,
    /// The request, as [`request_text`](crate::template::request_text) puts it.
    pub request: &'a str,
    /// The responses, in a fixed order.
    pub texts: Vec<&'a str>,
}

/// A response and what is held against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control<'a> {
    /// What was done.
    pub kind: ControlKind,
    /// The prompt's id.
    pub prompt_id: &'a str,
    /// The request.
    pub request: &'a str,
    /// The response as it is.
    pub intact: &'a str,
    /// The other answer.
    pub damaged: String,
}

impl Control<'_> {
    /// Returns the comparison in both orders, the intact response first and second.
    pub fn comparisons(&self) -> [Comparison<'_>; 2] {
        let forth = Comparison {
            prompt_id: self.prompt_id,
            request: self.request,
            first: Answer::made("intact", self.intact),
            second: Answer::made(self.kind.name(), &self.damaged),
        };
        [forth, forth.swapped()]
    }
}

/// Returns the controls of `count` prompts, in the order of `prompts`.
///
/// `seed` and the prompts' ids choose prompts, responses and shuffles; prompts without a word in any
/// response are passed over.
pub fn plan<'a>(prompts: &[Answered<'a>], count: usize, seed: u64) -> Vec<Control<'a>> {
    let prompts: Vec<Answered<'a>> = prompts.iter().filter_map(with_words).collect();
    let stream = |prompt_id: &str| Stream::new(seed, key_of(&format!("control {prompt_id}")));
    let mut drawn: Vec<(u64, usize)> = prompts
        .iter()
        .enumerate()
        .map(|(index, prompt)| (stream(prompt.prompt_id).next_u64(), index))
        .collect();
    drawn.sort_unstable();
    let mut drawn: Vec<usize> = drawn.into_iter().map(|(_, i)| i).take(count).collect();
    drawn.sort_unstable();
    drawn
        .into_iter()
        .flat_map(|index| of_prompt(&prompts, index, stream(prompts[index].prompt_id)))
        .collect()
}

/// Returns the prompt with its responses that have a word; none where there is none.
fn with_words<'a>(prompt: &Answered<'a>) -> Option<Answered<'a>> {
    let texts = prompt.texts.iter().copied();
    let texts: Vec<&str> = texts.filter(|text| !text.trim().is_empty()).collect();
    (!texts.is_empty()).then(|| Answered {
        texts,
        ..prompt.clone()
    })
}

fn of_prompt<'a>(prompts: &[Answered<'a>], index: usize, mut stream: Stream) -> Vec<Control<'a>> {
    let prompt = &prompts[index];
    stream.next_u64(); // Drew the prompt.
    let intact = prompt.texts[stream.below(prompt.texts.len())];
    let mut damaged = Vec::new();
    if prompts.len() > 1 {
        let other = stream.below(prompts.len() - 1);
        let other = &prompts[other + usize::from(other >= index)].texts;
        let text = other[stream.below(other.len())];
        damaged.push((ControlKind::OtherPrompt, text.to_owned()));
    }
    damaged.push((ControlKind::Half, first_half(intact).to_owned()));
    damaged.push((ControlKind::Shuffled, shuffled(intact, &mut stream)));
    damaged.push((ControlKind::Padded, said_twice(intact)));
    damaged.retain(|(_, text)| !same_words(text, intact));
    damaged.push((ControlKind::Identical, intact.to_owned()));
    let control = |(kind, damaged)| Control {
        kind,
        prompt_id: prompt.prompt_id,
        request: prompt.request,
        intact,
        damaged,
    };
    damaged.into_iter().map(control).collect()
}

/// Returns one row a kind: the share of controls in which the intact response is preferred over both
/// orders, or for identical ones the largest preference.
///
/// `judged` has two entries a control. Invalid controls count in no accuracy.
///
/// # Errors
/// None as long as `judged` has preferences for all controls.
pub fn rows(
    controls: &[Control<'_>],
    judged: &[Preference],
    min_coverage: f64,
) -> Result<Vec<MetricRow>, StatsError> {
    let judged = || {
        let orders = judged.chunks_exact(2).map(|orders| BothOrders {
            ab: orders[0],
            ba: orders[1],
        });
        controls.iter().zip(orders)
    };
    let mut rows = Vec::new();
    for (kind, metric) in [
        (ControlKind::OtherPrompt, OTHER_PROMPT_ACCURACY),
        (ControlKind::Half, "control_half_accuracy"),
        (ControlKind::Shuffled, "control_shuffled_accuracy"),
        (ControlKind::Padded, "control_padded_accuracy"),
    ] {
        let valid: Vec<f64> = judged()
            .filter(|(control, orders)| control.kind == kind && orders.is_valid(min_coverage))
            .map(|(_, orders)| orders.preference())
            .collect();
        if !valid.is_empty() {
            let right = valid.iter().filter(|&&preference| preference > 0.0).count();
            let interval = wilson(right as f64, valid.len() as u64, 0.95)?;
            rows.push(row(metric, interval, valid.len(), "wilson"));
        }
    }
    let identical: Vec<f64> = judged()
        .filter(|(control, _)| control.kind == ControlKind::Identical)
        .map(|(_, orders)| orders.preference().abs())
        .collect();
    if let Some(largest) = identical.iter().copied().reduce(f64::max) {
        let n = identical.len();
        rows.push(single(IDENTICAL_MAX_DIFFERENCE, largest, n, "maximum"));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered<'a>(prompt_id: &'a str, texts: &[&'a str]) -> Answered<'a> {
        Answered {
            prompt_id,
            request: "do it",
            texts: texts.to_vec(),
        }
    }

    fn kinds(controls: &[Control<'_>]) -> Vec<ControlKind> {
        controls.iter().map(|control| control.kind).collect()
    }

    #[test]
    fn damage_that_changes_no_word_is_left_out() {
        let controls = plan(&[answered("p", &["yes"]), answered("q", &["yes"])], 9, 1);
        let own = [ControlKind::Padded, ControlKind::Identical];
        assert_eq!(kinds(&controls), [own, own].concat());
        let controls = plan(&[answered("p", &["yes yes"])], 9, 1);
        let left = [
            ControlKind::Half,
            ControlKind::Padded,
            ControlKind::Identical,
        ];
        assert_eq!(kinds(&controls), left);
        assert_eq!(controls[0].damaged, "yes");
        assert_eq!(controls[1].damaged, "yes yes\n\nyes yes");
    }

    #[test]
    fn responses_without_a_word_are_passed_over() {
        assert!(plan(&[answered("p", &["", " \n"])], 9, 1).is_empty());
        let prompts = [answered("p", &["", "a b"]), answered("q", &[" "])];
        let controls = plan(&prompts, 9, 1);
        assert!(controls.iter().all(|control| control.intact == "a b"));
        assert!(!kinds(&controls).contains(&ControlKind::OtherPrompt));
    }

    #[test]
    fn seed_and_ids_choose_the_controls() {
        let ids: Vec<String> = (0..20).map(|i| format!("p{i:02}")).collect();
        let texts: Vec<[String; 2]> = (0..20)
            .map(|i| [format!("w{i} a b c d"), format!("w{i} e f g h")])
            .collect();
        let prompts: Vec<Answered<'_>> = ids
            .iter()
            .zip(&texts)
            .map(|(id, texts)| answered(id, &[&texts[0], &texts[1]]))
            .collect();
        let controls = plan(&prompts, 8, 3);
        assert_eq!(controls.len(), 8 * 5);
        assert_eq!(controls, plan(&prompts, 8, 3));
        assert_ne!(controls, plan(&prompts, 8, 4));
        assert!(controls.is_sorted_by_key(|control| control.prompt_id));
        assert!(plan(&prompts, 0, 3).is_empty());
        // More controls keep those of the prompts that were drawn already.
        let more = plan(&prompts, 12, 3);
        assert!(controls.iter().all(|control| more.contains(control)));
        for control in controls {
            let own = control.intact.split(' ').next().expect("it has words");
            let of_own = control.damaged.split_whitespace().any(|word| word == own);
            assert_eq!(of_own, control.kind != ControlKind::OtherPrompt);
        }
    }

    #[test]
    fn the_intact_response_is_shown_first_and_then_second() {
        let controls = plan(&[answered("p", &["a b"])], 1, 1);
        let [forth, back] = controls[0].comparisons();
        assert_eq!((forth.first.text, forth.second.text), ("a b", "a"));
        assert_eq!((back.first.text, back.second.text), ("a", "a b"));
    }

    #[test]
    fn accuracy_is_the_share_in_which_the_intact_response_wins_over_both_orders() {
        let control = |kind| Control {
            kind,
            prompt_id: "p",
            request: "",
            intact: "a b",
            damaged: "a".to_owned(),
        };
        let controls = [
            control(ControlKind::Half),
            control(ControlKind::Half),
            control(ControlKind::Half),
            control(ControlKind::Half),
            control(ControlKind::Identical),
        ];
        // Won against the bias, lost, tied, and not answered in one order; the last is bias alone.
        let logits = [(3.0, 1.0), (-1.0, 0.0), (2.0, 2.0), (5.0, -5.0), (2.0, 2.0)];
        let judged: Vec<Preference> = logits
            .iter()
            .enumerate()
            .flat_map(|(index, &(forth, back))| {
                let of = |logit, coverage| Preference { logit, coverage };
                [of(forth, 0.9), of(back, if index == 3 { 0.1 } else { 0.9 })]
            })
            .collect();
        let rows = rows(&controls, &judged, 0.5).expect("a few controls");
        let read = |row: &MetricRow| (row.metric.clone(), row.value, row.n);
        assert_eq!(
            rows.iter().map(read).collect::<Vec<_>>(),
            [
                ("control_half_accuracy".to_owned(), 1.0 / 3.0, 3),
                ("control_identical_max_difference".to_owned(), 0.0, 1),
            ]
        );
        let wilson = wilson(1.0, 3, 0.95).expect("three trials");
        assert_eq!(rows[0].ci_low, Some(wilson.low));
        assert_eq!(rows[1].ci_low, None);
    }
}
