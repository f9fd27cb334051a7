//! The responses of one policy to the prompts, several draws each.

use std::collections::HashMap;

use sims_artifact::tables::ResponseRow;
use sims_sample::BASE_POLICY;
use sims_stage::BadInput;

/// Draws of one policy: for each prompt, in the order of the prompts, its responses by sample index.
pub type Answers = Vec<Vec<ResponseRow>>;

/// Takes the base model's draws for `prompt_ids` from a table of responses.
///
/// Rows of other policies and prompts are ignored; of each prompt the `draws` first samples are taken.
///
/// # Errors
/// A prompt with fewer base draws than that.
pub fn base_answers(
    responses: Vec<ResponseRow>,
    prompt_ids: &[String],
    draws: usize,
) -> Result<Answers, BadInput> {
    let mut by_prompt: HashMap<String, Vec<ResponseRow>> = HashMap::new();
    for response in responses {
        if response.policy == BASE_POLICY {
            by_prompt
                .entry(response.prompt_id.clone())
                .or_default()
                .push(response);
        }
    }
    let answers_to = |prompt_id: &String| {
        let mut rows = by_prompt.remove(prompt_id).unwrap_or_default();
        rows.sort_by_key(|row| row.sample_index);
        if rows.len() < draws {
            return Err(BadInput::new(format!(
                "base-responses has {} responses with policy `{BASE_POLICY}` to prompt {prompt_id}, \
                 but {draws} draws are asked for",
                rows.len()
            )));
        }
        rows.truncate(draws);
        Ok(rows)
    };
    prompt_ids.iter().map(answers_to).collect()
}

/// Returns the tokens of a response without the one that ended it.
pub fn content(response: &ResponseRow) -> &[u32] {
    match (
        response.finish_reason.as_str(),
        response.token_ids.split_last(),
    ) {
        ("stop", Some((_, content))) => content,
        _ => &response.token_ids,
    }
}

/// Returns the answers to the prompts at `indices`.
pub fn at(answers: &Answers, indices: &[usize]) -> Answers {
    indices
        .iter()
        .map(|&index| answers[index].clone())
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn response(
        prompt: &str,
        policy: &str,
        sample_index: u32,
        token_ids: &[u32],
    ) -> ResponseRow {
        ResponseRow {
            prompt_id: prompt.into(),
            response_id: format!("{prompt}-{policy}-{sample_index}"),
            round: 1,
            sample_index,
            policy: policy.into(),
            text: String::new(),
            token_ids: token_ids.to_vec(),
            prompt_tokens: 3,
            finish_reason: "stop".into(),
            logprob_sum: 0.0,
            seed: 0,
        }
    }

    #[test]
    fn base_draws_are_found_by_policy_and_ordered_by_index() {
        let rows = vec![
            response("p", "base", 2, &[1]),
            response("p", "base", 0, &[2]),
            response("p", "steered-1", 1, &[3]),
            response("q", "base", 0, &[4]),
            response("p", "base", 1, &[5]),
        ];
        let answers = base_answers(rows.clone(), &["p".to_owned()], 2).unwrap();
        let indices: Vec<u32> = answers[0].iter().map(|row| row.sample_index).collect();
        assert_eq!(indices, [0, 1]);
        let error = base_answers(rows, &["p".to_owned(), "q".to_owned()], 2).unwrap_err();
        assert_eq!(
            error.to_string(),
            "base-responses has 1 responses with policy `base` to prompt q, but 2 draws are asked for"
        );
    }

    #[test]
    fn the_end_token_is_no_content() {
        let mut row = response("p", "base", 0, &[7, 8, 2]);
        assert_eq!(content(&row), [7, 8]);
        row.finish_reason = "length".into();
        assert_eq!(content(&row), [7, 8, 2]);
    }
}
