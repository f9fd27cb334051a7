//! The order in which stages can run, over all rounds.

use super::{Feed, Instance, InstanceFeed, PlannedNode};
use crate::pipeline::{InputSpec, Repeat, Scope, Source};
use crate::yaml::{Diagnostic, Location};

/// Refuses stages of one round that wait for each other.
pub(super) fn refuse_cycles(nodes: &[PlannedNode]) -> Result<(), Diagnostic> {
    let order = sorted(nodes);
    let Some(start) = (0..nodes.len()).find(|node| !order.contains(node)) else {
        return Ok(());
    };
    // Every node left over waits for another one that is left over: walking back finds the circle.
    let mut walk = vec![start];
    loop {
        let last = walk[walk.len() - 1];
        let next = needs(&nodes[last])
            .find(|node| !order.contains(node))
            .expect("a node that cannot run waits for another");
        if let Some(first) = walk.iter().position(|node| *node == next) {
            let mut names: Vec<&str> = walk[first..]
                .iter()
                .map(|node| nodes[*node].spec.name.as_str())
                .collect();
            names.reverse();
            names.push(names[0]);
            let spec = &nodes[walk[first]].spec;
            let needed = walk.get(first + 1).unwrap_or(&walk[first]);
            let at = reference_to(&spec.inputs, &nodes[*needed].spec.name).unwrap_or(&spec.at);
            return Err(Diagnostic::new(
                at,
                format!("stages wait for each other: {}", names.join(" -> ")),
            )
            .help("use `previous.STAGE.ROLE` for what the round before made"));
        }
        walk.push(next);
    }
}

/// Returns where the inputs of a stage name another stage.
fn reference_to<'a>(inputs: &'a [InputSpec], name: &str) -> Option<&'a Location> {
    inputs
        .iter()
        .flat_map(|input| &input.sources)
        .find_map(|(source, at)| match source {
            Source::Output { node, .. } if node == name => Some(at),
            _ => None,
        })
}

/// Returns the stages that a stage needs in the same round, or that run once.
fn needs(node: &PlannedNode) -> impl Iterator<Item = usize> {
    node.inputs
        .iter()
        .flat_map(|(_, feeds)| feeds)
        .filter_map(|feed| match feed {
            Feed::Output {
                scope: Scope::Here | Scope::First,
                node,
                ..
            } => Some(*node),
            _ => None,
        })
}

/// Sorts the stages so that each comes after those it needs, and otherwise as they were written.
///
/// Stages that wait for each other are left out.
fn sorted(nodes: &[PlannedNode]) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::new();
    while let Some(next) = (0..nodes.len()).find(|index| {
        !order.contains(index) && needs(&nodes[*index]).all(|before| order.contains(&before))
    }) {
        order.push(next);
    }
    order
}

/// Lists every run of every stage in an order in which they can run.
pub(super) fn expand(nodes: &[PlannedNode], rounds: u32) -> Vec<Instance> {
    let order = sorted(nodes);
    let mut instances: Vec<Instance> = Vec::new();
    let repeated = |repeat| {
        order
            .iter()
            .copied()
            .filter(move |node| nodes[*node].spec.repeat == repeat)
    };
    for node in repeated(Repeat::Once) {
        let instance = instance(nodes, &instances, node, None);
        instances.push(instance);
    }
    for round in 1..=rounds {
        for node in repeated(Repeat::EachRound) {
            let instance = instance(nodes, &instances, node, Some(round));
            instances.push(instance);
        }
    }
    instances
}

fn instance(
    nodes: &[PlannedNode],
    before: &[Instance],
    node: usize,
    round: Option<u32>,
) -> Instance {
    let find = |target: usize, round: Option<u32>| {
        before
            .iter()
            .position(|instance| instance.node == target && instance.round == round)
    };
    let mut inputs = Vec::new();
    let mut depends = Vec::new();
    for (role, feeds) in &nodes[node].inputs {
        let mut here = Vec::new();
        for feed in feeds {
            match feed {
                Feed::External(file) => here.push(InstanceFeed::External(file.clone())),
                Feed::Output {
                    scope,
                    node: target,
                    role,
                } => {
                    let wanted = match (nodes[*target].spec.repeat, scope) {
                        (Repeat::Once, _) => None,
                        (Repeat::EachRound, Scope::Here) => round,
                        (Repeat::EachRound, Scope::First) => Some(1),
                        // Round 0 does not exist, so that round 1 finds nothing.
                        (Repeat::EachRound, Scope::Previous) => round.map(|round| round - 1),
                    };
                    if let Some(instance) = find(*target, wanted) {
                        depends.push(instance);
                        here.push(InstanceFeed::Output {
                            instance,
                            role: role.clone(),
                        });
                    }
                }
            }
        }
        if !here.is_empty() {
            inputs.push((role.clone(), here));
        }
    }
    depends.sort_unstable();
    depends.dedup();
    Instance {
        node,
        round,
        inputs,
        depends,
    }
}
