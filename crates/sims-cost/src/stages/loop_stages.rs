//! Sampling, extraction, training, and the stages that only handle tables.

use super::{StageInputs, StageWork};
use crate::work::{Table, Work};

/// Every prompt is read once for all its responses.
pub(super) fn sample(inputs: &StageInputs<'_>) -> StageWork {
    let params = inputs.parameters();
    let Some(prompts) = inputs.selected() else {
        return StageWork::without_model(None).note("sample reads prompts of unknown size");
    };
    let draws = params.number("samples");
    let response = inputs.response();
    let mut work = Work::none(params.dtype());
    work.draw(prompts.prompts, prompts.templated, draws, response);
    let output = Table {
        per_prompt: draws,
        response,
        ..prompts
    };
    let sampled = StageWork::of(work, Some(output));
    if inputs.is_fed("examples") {
        sampled.note("examples before every prompt are not counted")
    } else {
        sampled
    }
}

/// Prompt and both responses are teacher-forced; asked again, the prompt stands behind either.
pub(super) fn extract(inputs: &StageInputs<'_>) -> StageWork {
    let params = inputs.parameters();
    let Some(pairs) = inputs.table("pairs") else {
        return StageWork::without_model(None).note("extract reads pairs of unknown number");
    };
    let Table {
        templated: prompt,
        response,
        ..
    } = pairs;
    let one = match params.text("positions") {
        "reask" => response + prompt,
        "end" => response + 1.0,
        "prompt" => 0.0,
        _ => response,
    };
    let mut work = Work::none(params.dtype());
    let count = pairs.prompts * pairs.per_prompt;
    work.read(count * (prompt + 2.0 * one), prompt + one);
    StageWork::of(work, Some(pairs))
}

/// Every epoch learns from the pairs, and scores those held out; the base model scores all of them once.
pub(super) fn train(inputs: &StageInputs<'_>) -> StageWork {
    let params = inputs.parameters();
    let Some(pairs) = inputs.table("pairs") else {
        return StageWork::without_model(None).note("training reads pairs of unknown number");
    };
    // The last token of a response is predicted and not read.
    let rows = pairs.templated + 2.0 * (pairs.response - 1.0);
    let count = pairs.prompts * pairs.per_prompt;
    let held_out = (count * params.number("held-out")).round();
    let epochs = params.number("epochs");
    let learned = epochs * (count - held_out) * rows;
    let scored = (count + epochs * held_out) * rows;
    let mut work = Work::none(params.dtype());
    work.read(learned + scored, pairs.templated + pairs.response);
    work.learned = learned;
    StageWork::of(work, Some(pairs)).note(format!(
        "{} stops after all its epochs, not before",
        inputs.stage
    ))
}

/// Stages that run on the processor.
pub(super) fn of_tables(inputs: &StageInputs<'_>) -> StageWork {
    let first = inputs.first_table();
    match inputs.stage {
        // One response of each prompt is the best.
        "rank" => StageWork::without_model(first),
        "contrast" => {
            let pairs = first.map(|table| Table {
                per_prompt: 1.0,
                ..table
            });
            StageWork::without_model(pairs)
                .note("every prompt gives one contrast pair; none is dropped")
        }
        "fit" => StageWork::without_model(first)
            .note("the time of fit is not estimated: minutes a layer for a rotation with a network on the processor, unknown on a GPU"),
        _ => StageWork::without_model(first),
    }
}
