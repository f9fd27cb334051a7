//! Outputs from responses.

use std::fs;

use serde_json::json;
use sims_artifact::tables::{Message, PromptRow, ResponseRow};
use sims_artifact::write_table;

use crate::{json, refused, run};

fn response(prompt: &PromptRow, sample_index: u32, text: &str) -> ResponseRow {
    ResponseRow {
        prompt_id: prompt.prompt_id.clone(),
        response_id: format!("{}-{sample_index}", prompt.prompt_id),
        round: 1,
        sample_index,
        policy: "base".to_owned(),
        text: text.to_owned(),
        token_ids: vec![1],
        prompt_tokens: 1,
        finish_reason: "stop".to_owned(),
        logprob_sum: -1.0,
        seed: 0,
    }
}

#[test]
fn responses_become_outputs_in_the_order_of_the_prompts() {
    let folder = tempfile::tempdir().unwrap();
    let prompts = [
        PromptRow::new(vec![Message::user("second?")], "eval", "koala"),
        PromptRow::new(
            vec![
                Message::new("system", "be brief"),
                Message::user("no"),
                Message::assistant("yes"),
                Message::user("first?"),
            ],
            "eval",
            "vicuna",
        ),
    ];
    let names = ["prompts.parquet", "responses.parquet", "outputs.json"];
    let [at_prompts, at_responses, out] =
        names.map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    write_table(at_prompts.as_ref(), &prompts).unwrap();
    let write = |rows: &[ResponseRow]| write_table(at_responses.as_ref(), rows).unwrap();
    let arguments = [
        "alpaca-outputs",
        "--prompts",
        &at_prompts,
        "--responses",
        &at_responses,
        "--generator",
        "mine",
        "--out",
        &out,
    ];
    let good = [
        response(&prompts[1], 1, "other"),
        response(&prompts[1], 0, "one"),
        response(&prompts[0], 0, "two"),
    ];
    write(&good);
    assert!(run(&arguments).status.success());
    assert_eq!(
        json(&fs::read_to_string(&out).unwrap()),
        json!([
            {"instruction": "second?", "output": "two", "generator": "mine", "dataset": "koala"},
            {"instruction": "first?", "output": "one", "generator": "mine", "dataset": "vicuna"},
        ])
    );

    write(&good[..2]);
    let message = refused(&arguments);
    assert!(
        message.contains("no response to prompt") && message.contains("responses.parquet"),
        "{message}"
    );
    write(&[good[1].clone(), good[2].clone(), good[2].clone()]);
    let message = refused(&arguments);
    assert!(message.contains("two responses to prompt"), "{message}");
}
