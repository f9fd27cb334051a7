//! What comparisons take the model to read.

use super::parameters::Parameters;
use super::{StageInputs, StageWork};
use crate::model::ModelSize;
use crate::work::{Table, Work};

/// Who is asked, as far as it matters to the model of the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// The model itself, with two answers.
    Compares,
    /// The model itself, with one answer.
    Rates,
    /// The model itself, both ways.
    Both,
    /// Nobody that this model's card computes.
    Elsewhere,
}

impl Asked {
    pub(super) fn of(params: Parameters<'_>, kind: &str) -> Self {
        match kind {
            "self" => Self::Compares,
            "rating" => Self::Rates,
            "noisy" => match params.text("oracle") {
                "" => Self::Compares,
                oracle => Self::of(params, oracle),
            },
            "ensemble" => match (
                params.lists("members", "self"),
                params.lists("members", "rating"),
            ) {
                (true, true) => Self::Both,
                (true, false) => Self::Compares,
                (false, true) => Self::Rates,
                (false, false) => Self::Elsewhere,
            },
            _ => Self::Elsewhere,
        }
    }
}

/// Answers to one prompt that are compared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Comparisons {
    /// Prompts.
    pub(super) prompts: f64,
    /// A request. Unit: tokens.
    pub(super) request: f64,
    /// An answer. Unit: tokens.
    pub(super) answer: f64,
    /// Answers to a prompt, each of which is shown first at least once.
    pub(super) answers: f64,
    /// Comparisons of a prompt, both orders counted.
    pub(super) asked: f64,
}

impl Comparisons {
    /// Adds what the model reads, every shared beginning once.
    pub(super) fn read(&self, asked: Asked, model: &ModelSize, work: &mut Work) {
        let [head, after_request, between, tail] = model.judge;
        let longest = head + self.request + after_request + between + tail + 2.0 * self.answer;
        if matches!(asked, Asked::Compares | Asked::Both) {
            let of_prompt = self.request
                + after_request
                + self.answers * (self.answer + between)
                + self.asked * (self.answer + tail);
            work.read(head + self.prompts * of_prompt, longest);
        }
        if matches!(asked, Asked::Rates | Asked::Both) {
            // The template that rates is about as long as the one that compares, without its middle.
            let of_prompt = self.request + after_request + self.answers * (self.answer + tail);
            work.read(head + self.prompts * of_prompt, longest);
        }
    }
}

/// Tokens of the answers in the controls of a prompt: see [`stage`].
const CONTROL_ANSWERS: f64 = 15.0;
/// Answers shown first in a prompt's controls, and comparisons of them.
const CONTROLS: (f64, f64) = (5.0, 9.0);

/// Every pair in both orders, and controls: one answer against another prompt's, its half, its shuffle, itself said
/// twice, and itself. In units of an answer, 5.5 are read in first place and 9.5 in second.
pub(super) fn stage(inputs: &StageInputs<'_>, model: &ModelSize) -> StageWork {
    let params = inputs.parameters();
    let Some(responses) = inputs.table("responses") else {
        return StageWork::without_model(None).note("judge reads responses of unknown number");
    };
    let kind = params.text("judge");
    let asked = Asked::of(params, kind);
    if asked == Asked::Elsewhere {
        return StageWork::without_model(Some(responses)).note(format!(
            "the judge `{kind}` is not the model: what it takes is not estimated"
        ));
    }
    let mut work = Work::none(params.dtype());
    let of_prompts = |prompts: f64, answers: f64, comparisons: f64| Comparisons {
        prompts,
        request: responses.request,
        answer: shown(responses.response),
        answers,
        asked: comparisons,
    };
    let pairs = pairs(params, responses.per_prompt);
    of_prompts(responses.prompts, responses.per_prompt, 2.0 * pairs).read(asked, model, &mut work);
    let controlled = params.number("controls").min(responses.prompts);
    if controlled > 0.0 && asked != Asked::Rates {
        let [head, after_request, between, tail] = model.judge;
        let of_prompt = responses.request
            + after_request
            + CONTROL_ANSWERS * shown(responses.response)
            + CONTROLS.0 * between
            + CONTROLS.1 * tail;
        work.read(head + controlled * of_prompt, work.longest_read);
    }
    StageWork::of(work, Some(Table { ..responses }))
}

/// Returns what a judge sees of a response: all but the token that ends it. Unit: tokens.
pub(super) fn shown(response: f64) -> f64 {
    (response - 1.0).max(0.0)
}

/// Pairs of a prompt's responses that meet.
fn pairs(params: Parameters<'_>, responses: f64) -> f64 {
    let all = responses * (responses - 1.0) / 2.0;
    match params.text("schedule") {
        "circulant" => {
            let meets = params.number("meets");
            let odd = f64::from(responses % 2.0 == 1.0 && meets % 2.0 == 1.0);
            (responses * (meets + odd) / 2.0).min(all)
        }
        "adaptive" => params.number("budget").min(all),
        _ => all,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ten_responses_that_meet_four_are_twenty_pairs() {
        let count = |params: serde_json::Value, responses| {
            pairs(Parameters(params.as_object().unwrap()), responses)
        };
        let circulant = |meets: u32| json!({"schedule": "circulant", "meets": meets});
        assert_eq!(count(circulant(4), 10.0), 20.0);
        assert_eq!(count(circulant(3), 5.0), 10.0);
        assert_eq!(count(circulant(20), 10.0), 45.0);
        assert_eq!(count(json!({"schedule": "all"}), 10.0), 45.0);
        assert_eq!(
            count(json!({"schedule": "adaptive", "budget": 18}), 10.0),
            18.0
        );
    }
}
