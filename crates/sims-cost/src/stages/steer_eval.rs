//! What evaluating a steering takes.

use super::judge::{Asked, Comparisons, shown};
use super::{StageInputs, StageWork};
use crate::model::ModelSize;
use crate::work::{Table, Work};

/// Draws, judges, and reads neutral texts, as the gate's search does when every strength is safe and the first
/// confirmation passes; without a gate all prompts once.
pub(super) fn stage(inputs: &StageInputs<'_>, model: &ModelSize) -> StageWork {
    let Some(prompts) = inputs.selected() else {
        return StageWork::without_model(None).note("steer-eval reads prompts of unknown size");
    };
    let params = inputs.parameters();
    let draws = params.number("draws");
    let mut evaluation = Evaluation {
        judge: Asked::of(params, params.text("judge")),
        second: Asked::of(params, params.text("second-judge")),
        model,
        prompts,
        draws,
        response: inputs.response(),
        neutral: neutral(inputs, model),
        work: Work::none(params.dtype()),
    };
    let all = prompts.prompts;
    if !inputs.is_fed("base-responses") {
        evaluation.draw(all);
    }
    let incumbent = inputs.is_fed("incumbent");
    let mut note = None;
    if params.text("gate") == "none" {
        evaluation.drift();
        evaluation.trial(all);
        if incumbent {
            evaluation.trial(all);
        }
        evaluation.second(all);
    } else {
        let selection = (all * params.number("selection-share")).round();
        let confirmation = all - selection;
        for _ in 0..params.entries("back-off").max(1) {
            evaluation.drift();
            evaluation.trial(selection);
        }
        evaluation.trial(confirmation);
        if incumbent {
            evaluation.trial(confirmation);
        }
        evaluation.second(confirmation);
        // The base against itself: the one half of its draws against the other.
        evaluation.judged(confirmation, (draws / 2.0).floor());
        let one = "the gate finds every strength safe and confirms the first: the most that a search takes but one \
                   confirmation";
        let runs = "of a search over runs of layers one set is counted";
        note = Some(match params.text("layer-search") {
            "runs" => format!("{one}; {runs}"),
            _ => one.to_owned(),
        });
    }
    let output = Table {
        per_prompt: 2.0 * draws,
        response: evaluation.response,
        ..prompts
    };
    let mut done = StageWork::of(evaluation.work, Some(output));
    done.notes.extend(note);
    done
}

/// Tokens of all neutral texts; none where there are none.
fn neutral(inputs: &StageInputs<'_>, model: &ModelSize) -> f64 {
    let texts = inputs.files.get("neutral").copied().unwrap_or_default();
    texts
        .iter()
        .map(|text| text.request.min(model.context))
        .sum()
}

struct Evaluation<'a> {
    judge: Asked,
    second: Asked,
    model: &'a ModelSize,
    prompts: Table,
    draws: f64,
    response: f64,
    neutral: f64,
    work: Work,
}

impl Evaluation<'_> {
    fn draw(&mut self, prompts: f64) {
        let prompt = self.prompts.templated;
        self.work.draw(prompts, prompt, self.draws, self.response);
    }

    /// A policy draws, and its answers meet others'.
    fn trial(&mut self, prompts: f64) {
        self.draw(prompts);
        self.judged(prompts, self.draws);
    }

    /// Has `pairs` pairs of each prompt compared, in both orders.
    fn judged(&mut self, prompts: f64, pairs: f64) {
        self.compared(self.judge, prompts, pairs);
    }

    fn second(&mut self, prompts: f64) {
        self.compared(self.second, prompts, self.draws);
    }

    fn compared(&mut self, asked: Asked, prompts: f64, pairs: f64) {
        let comparisons = Comparisons {
            prompts,
            request: self.prompts.request,
            answer: shown(self.response),
            answers: 2.0 * pairs,
            asked: 2.0 * pairs,
        };
        comparisons.read(asked, self.model, &mut self.work);
    }

    /// Both the base and the steered model read every neutral text.
    fn drift(&mut self) {
        self.work.read(2.0 * self.neutral, 0.0);
    }
}
