//! Tables in, comparisons out: which responses meet, and what controls may be made of.

use std::collections::{BTreeMap, HashMap};

use sims_artifact::tables::{PromptRow, ResponseRow};
use sims_stage::BadInput;

use crate::JudgeParams;
use crate::comparison::{Answer, Comparison};
use crate::controls::Answered;
use crate::template::request_text;

/// Returns the text of each request.
pub(crate) fn prompts_by_id(prompts: Vec<PromptRow>) -> HashMap<String, String> {
    prompts
        .into_iter()
        .map(|prompt| (prompt.prompt_id, request_text(&prompt.messages)))
        .collect()
}

/// Groups responses by prompt, each group in the order of sample indices.
pub(crate) fn responses_by_prompt(
    responses: Vec<ResponseRow>,
    prompts: &HashMap<String, String>,
) -> Result<BTreeMap<String, Vec<ResponseRow>>, BadInput> {
    let mut groups: BTreeMap<String, Vec<ResponseRow>> = BTreeMap::new();
    for response in responses {
        if !prompts.contains_key(&response.prompt_id) {
            return Err(BadInput::new(format!(
                "response {} answers prompt {}, which is not in the prompts table",
                response.response_id, response.prompt_id
            )));
        }
        groups
            .entry(response.prompt_id.clone())
            .or_default()
            .push(response);
    }
    for group in groups.values_mut() {
        group.sort_by(|a, b| {
            (a.sample_index, &a.response_id).cmp(&(b.sample_index, &b.response_id))
        });
        if let Some(twice) = group
            .windows(2)
            .find(|pair| pair[0].response_id == pair[1].response_id)
        {
            return Err(BadInput::new(format!(
                "response {} occurs more than once",
                twice[0].response_id
            )));
        }
    }
    Ok(groups)
}

/// Returns the latest round that a response comes from, at least 1.
pub(crate) fn round(groups: &BTreeMap<String, Vec<ResponseRow>>) -> u32 {
    let rounds = groups.values().flatten().map(|response| response.round);
    rounds.max().unwrap_or(1).max(1)
}

/// A pair of responses to compare in both orders.
pub(crate) struct Pair<'a> {
    pub(crate) request: &'a str,
    pub(crate) a: &'a ResponseRow,
    pub(crate) b: &'a ResponseRow,
}

impl Pair<'_> {
    /// Returns the lengths in tokens; none where a text has no tokens.
    pub(crate) fn lengths(&self) -> Option<[usize; 2]> {
        let known = |row: &ResponseRow| !row.token_ids.is_empty() || row.text.trim().is_empty();
        let lengths = [self.a.token_ids.len(), self.b.token_ids.len()];
        (known(self.a) && known(self.b)).then_some(lengths)
    }

    /// Returns the comparison in the orders `ab` and `ba`.
    pub(crate) fn comparisons(&self) -> [Comparison<'_>; 2] {
        [(self.a, self.b), (self.b, self.a)].map(|(first, second)| Comparison {
            prompt_id: &self.a.prompt_id,
            request: self.request,
            first: Answer::of(first),
            second: Answer::of(second),
        })
    }
}

/// Plans which responses meet, prompt by prompt.
pub(crate) fn pairs<'a>(
    params: &JudgeParams,
    groups: &'a BTreeMap<String, Vec<ResponseRow>>,
    prompts: &'a HashMap<String, String>,
) -> Result<Vec<Pair<'a>>, BadInput> {
    let mut pairs = Vec::new();
    for (prompt_id, group) in groups {
        let request = prompts.get(prompt_id).map_or("", String::as_str);
        let design =
            params
                .schedule
                .pairs(group.len(), params.meets as usize, params.seed, prompt_id);
        pairs.extend(design.into_iter().map(|(i, j)| Pair {
            request,
            a: &group[i],
            b: &group[j],
        }));
    }
    if pairs.is_empty() {
        return Err(BadInput::new(if groups.is_empty() {
            "the responses table has no rows"
        } else {
            "every prompt has a single response, so there is nothing to compare; sample at least 2 a prompt"
        }));
    }
    Ok(pairs)
}

/// Returns each prompt with the texts of its responses, for controls.
pub(crate) fn answered<'a>(
    groups: &'a BTreeMap<String, Vec<ResponseRow>>,
    prompts: &'a HashMap<String, String>,
) -> Vec<Answered<'a>> {
    let texts = |group: &'a [ResponseRow]| group.iter().map(|row| row.text.as_str()).collect();
    groups
        .iter()
        .map(|(prompt_id, group)| Answered {
            prompt_id,
            request: prompts.get(prompt_id).map_or("", String::as_str),
            texts: texts(group),
        })
        .collect()
}
