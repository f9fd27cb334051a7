//! Why a stage would run, or why it would not.

use serde_json::Value;
use sims_artifact::store::{ActionKey, Store};

use crate::action::{EndOfLoop, Lookup, Resolver, look_up};
use crate::plan::{InstanceName, Plan};
use crate::run::RunOptions;
use crate::run_record::RunRecord;
use crate::{Outlook, PipelineError};

/// A field of the action document that differs from last time.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Difference {
    /// The field: `params.samples`, `inputs.prompts[0].digest`.
    pub field: String,
    /// Its value last time; `None` when it was absent.
    pub before: Option<Value>,
    /// Its value this time; `None` when it is absent.
    pub after: Option<Value>,
}

/// What a run would do with a stage, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The stage and its round.
    pub name: InstanceName,
    /// Whether it is done, ready to run, or waits for others.
    pub state: Outlook,
    /// The action's key, where the inputs are known.
    pub key: Option<ActionKey>,
    /// The key that it is compared with.
    pub compared_with: Option<ActionKey>,
    /// The fields that differ from it; none when it never ran before.
    pub differences: Vec<Difference>,
    /// The stages that have to run first.
    pub waits_for: Vec<InstanceName>,
    /// What is wrong with a stored result, when that is why it runs.
    pub damage: Option<String>,
    /// Where the loop ended, when that is why it does not run.
    pub end: Option<EndOfLoop>,
}

/// Explains the stage `name` (of one round, or of all) of a plan.
///
/// A stage that would run is compared with the last action it had. One that is done is
/// compared with the action before its key last changed, which is why it last ran.
///
/// # Errors
/// If no stage has that name, or the store cannot be read.
pub fn explain(
    plan: &Plan,
    store: &Store,
    options: &RunOptions,
    name: &str,
    round: Option<u32>,
) -> Result<Vec<Explanation>, PipelineError> {
    let record = RunRecord::load(&options.run_folder(plan));
    let mut resolver = Resolver::new(plan, store);
    resolver.check_inputs()?;
    let mut explanations = Vec::new();
    let mut unfinished = Vec::new();
    for index in 0..plan.len() {
        let instance = plan.name(index);
        let wanted = instance.stage == name && (round.is_none() || instance.round == round);
        let mut explanation = Explanation {
            name: instance,
            state: Outlook::Waiting,
            key: None,
            compared_with: None,
            differences: Vec::new(),
            waits_for: Vec::new(),
            damage: None,
            end: None,
        };
        if resolver.is_beyond_end(index) {
            explanation.state = Outlook::LeftOut;
            explanation.end = resolver.end().cloned();
        } else if resolver.is_ready(index) {
            let action = resolver.action(index)?;
            explanation.key = Some(action.key);
            explanation.state = match look_up(store, &action.key)? {
                Lookup::Hit(result) => {
                    resolver.finish(index, result);
                    Outlook::Done
                }
                Lookup::Miss => Outlook::Ready,
                Lookup::Damaged { message, .. } => {
                    explanation.damage = Some(message);
                    Outlook::Ready
                }
            };
            if wanted {
                compare(&mut explanation, &action.document, &record, store)?;
            }
        } else {
            let waits_for = plan.instances[index].depends.iter();
            explanation.waits_for = waits_for
                .filter(|before| unfinished.contains(*before))
                .map(|before| plan.name(*before))
                .collect();
        }
        if explanation.state != Outlook::Done {
            unfinished.push(index);
        }
        if wanted {
            explanations.push(explanation);
        }
    }
    if explanations.is_empty() {
        return Err(unknown_stage(plan, name, round));
    }
    Ok(explanations)
}

fn unknown_stage(plan: &Plan, name: &str, round: Option<u32>) -> PipelineError {
    let names: Vec<&str> = plan
        .nodes
        .iter()
        .map(|node| node.spec.name.as_str())
        .collect();
    let message = match (names.contains(&name), round) {
        (true, Some(round)) => format!("`{name}` does not run in round {round}"),
        _ => match crate::yaml::nearest(name, names.iter().copied()) {
            Some(near) => format!("the pipeline has no stage `{name}`; did you mean `{near}`?"),
            None => format!(
                "the pipeline has no stage `{name}`; it has {}",
                names.join(", ")
            ),
        },
    };
    PipelineError::Usage(message)
}

fn compare(
    explanation: &mut Explanation,
    document: &Value,
    record: &RunRecord,
    store: &Store,
) -> Result<(), PipelineError> {
    let Some(last) = record.get(&explanation.name) else {
        return Ok(());
    };
    let same = explanation.key == Some(last.key);
    let Some(other) = (if same {
        last.key_before
    } else {
        Some(last.key)
    }) else {
        return Ok(());
    };
    let before = match store.action_document(&other) {
        Ok(Some(before)) => before,
        // A document that is gone or damaged cannot be compared with; that is all.
        _ => return Ok(()),
    };
    explanation.compared_with = Some(other);
    differ(
        "",
        Some(&before),
        Some(document),
        &mut explanation.differences,
    );
    Ok(())
}

/// Collects the leaves in which two JSON values differ.
pub(crate) fn differ(
    field: &str,
    before: Option<&Value>,
    after: Option<&Value>,
    out: &mut Vec<Difference>,
) {
    match (before, after) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let added = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(added) {
                let name = if field.is_empty() {
                    key.clone()
                } else {
                    format!("{field}.{key}")
                };
                differ(&name, a.get(key), b.get(key), out);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            for index in 0..a.len().max(b.len()) {
                differ(
                    &format!("{field}[{index}]"),
                    a.get(index),
                    b.get(index),
                    out,
                );
            }
        }
        _ if before == after => {}
        _ => out.push(Difference {
            field: field.to_owned(),
            before: before.cloned(),
            after: after.cloned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_leaves_that_differ_are_listed() {
        let before =
            json!({"params": {"samples": 4, "top-p": 1.0}, "inputs": {"a": [{"digest": "x"}]}});
        let after = json!({"params": {"samples": 6, "top-p": 1.0}, "inputs": {"a": [{"digest": "x"}], "b": []}});
        let mut differences = Vec::new();
        differ("", Some(&before), Some(&after), &mut differences);
        let fields: Vec<_> = differences.iter().map(|d| d.field.as_str()).collect();
        assert_eq!(fields, ["params.samples", "inputs.b"]);
        assert_eq!(differences[0].after, Some(json!(6)));
    }
}
