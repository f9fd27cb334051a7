//! The graph of a pipeline: each stage once, and what it reads from which other.

use std::fmt::Write;

use serde::Serialize;

use crate::pipeline::{Repeat, Scope};
use crate::plan::{Feed, Plan};

/// The graph of a pipeline's stages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dag {
    /// The pipeline's name.
    pub pipeline: String,
    /// The stages, in the order of the file.
    pub nodes: Vec<DagNode>,
}

/// One stage of the graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DagNode {
    /// Its name in the pipeline.
    pub name: String,
    /// Its program's stage name.
    pub stage: String,
    /// Whether it runs every round, or once.
    pub each_round: bool,
    /// What it reads, in the order of its roles.
    pub inputs: Vec<DagEdge>,
}

/// One input of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DagEdge {
    /// The role.
    pub role: String,
    /// The stage that makes it; none for a file from outside.
    pub from: Option<String>,
    /// The role in which that stage writes it, or the path of the file.
    pub output: String,
    /// Whether it is that of another round: `previous` or `first`.
    pub round: Option<&'static str>,
}

impl Dag {
    /// Draws up the graph of a plan.
    pub fn of(plan: &Plan) -> Self {
        let workspace = &plan.pipeline.workspace;
        let edge = |role: &str, feed: &Feed| match feed {
            Feed::External(file) => {
                let path = file.path.strip_prefix(workspace).unwrap_or(&file.path);
                DagEdge {
                    role: role.to_owned(),
                    from: None,
                    output: path.display().to_string(),
                    round: None,
                }
            }
            Feed::Output {
                scope,
                node,
                role: output,
            } => DagEdge {
                role: role.to_owned(),
                from: Some(plan.nodes[*node].spec.name.clone()),
                output: output.clone(),
                round: match scope {
                    Scope::Here => None,
                    Scope::Previous => Some("previous"),
                    Scope::First => Some("first"),
                },
            },
        };
        let nodes = plan.nodes.iter().map(|node| DagNode {
            name: node.spec.name.clone(),
            stage: node.program.description.stage.clone(),
            each_round: node.spec.repeat == Repeat::EachRound,
            inputs: node
                .inputs
                .iter()
                .flat_map(|(role, feeds)| feeds.iter().map(move |feed| edge(role, feed)))
                .collect(),
        });
        Self {
            pipeline: plan.pipeline.name.clone(),
            nodes: nodes.collect(),
        }
    }

    /// Returns the graph as lines: each stage, and below it what it reads.
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        for each_round in [false, true] {
            let nodes = self.nodes.iter();
            let nodes: Vec<&DagNode> = nodes.filter(|node| node.each_round == each_round).collect();
            if nodes.is_empty() {
                continue;
            }
            lines.push(if each_round { "each round" } else { "once" }.to_owned());
            for node in nodes {
                let program = match node.name == node.stage {
                    true => String::new(),
                    false => format!(" ({})", node.stage),
                };
                lines.push(format!("  {}{program}", node.name));
                for (number, edge) in node.inputs.iter().enumerate() {
                    let branch = match number + 1 == node.inputs.len() {
                        true => "└",
                        false => "├",
                    };
                    lines.push(format!("  {branch} {} ← {}", edge.role, edge.source()));
                }
            }
        }
        lines.join("\n")
    }

    fn place(&self, edge: &DagEdge) -> Option<usize> {
        let from = edge.from.as_ref()?;
        self.nodes.iter().position(|node| node.name == *from)
    }

    /// Returns the graph as a picture in SVG: stages below one another, arcs on the right for what is read in a round,
    /// dashed ones on the left for what comes from another round.
    ///
    /// It has no colours of its own but grey, so that it reads on light and dark pages, and needs no fonts or network.
    pub fn svg(&self) -> String {
        const WIDTH: usize = 170;
        const HEIGHT: usize = 30;
        const DOWN: usize = 46;
        const MARGIN: usize = 16;
        /// How far an arc leans out for each stage that it spans.
        const LEAN: usize = 16;
        let span = |index: usize, edge: &DagEdge| Some(self.place(edge)?.abs_diff(index));
        let widest = |is_of_round: bool| {
            let edges = self.nodes.iter().enumerate();
            let edges = edges.flat_map(|(index, node)| {
                let edges = node.inputs.iter();
                edges.filter_map(move |edge| Some((edge.round.is_none(), span(index, edge)?)))
            });
            let edges = edges.filter(|(of_round, _)| *of_round == is_of_round);
            // A curve reaches three quarters of the way to its control points.
            edges.map(|(_, span)| (span + 1) * LEAN).max().unwrap_or(0) * 3 / 4
        };
        let left = MARGIN + widest(false);
        let width = left + WIDTH + widest(true) + MARGIN;
        let height = 2 * MARGIN + self.nodes.len().saturating_sub(1) * DOWN + HEIGHT;
        let top = |index: usize| MARGIN + index * DOWN;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\" role=\"img\" aria-label=\"{}\">\n",
            escaped(&format!("stages of {}", self.pipeline))
        );
        for (index, node) in self.nodes.iter().enumerate() {
            for edge in &node.inputs {
                let (Some(from), Some(span)) = (self.place(edge), span(index, edge)) else {
                    continue;
                };
                let lean = ((span + 1) * LEAN) as i64;
                let (x, lean, dashes) = match edge.round {
                    None => (left + WIDTH, lean, ""),
                    Some(_) => (left, -lean, " stroke-dasharray=\"4 4\""),
                };
                // An arc leaves below the middle of a box and arrives above it.
                let (y, to_y) = (top(from) + HEIGHT * 2 / 3, top(index) + HEIGHT / 3);
                let out = x as i64 + lean;
                let _written = writeln!(
                    svg,
                    "<path d=\"M{x} {y} C{out} {y} {out} {to_y} {x} {to_y}\" fill=\"none\" stroke=\"#888\"{dashes}>\
                     <title>{}</title></path>",
                    escaped(&format!("{}: {} ← {}", node.name, edge.role, edge.source()))
                );
            }
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let (often, stroke) = match node.each_round {
                true => ("each round", 2),
                false => ("once", 1),
            };
            let title = escaped(&format!("{} ({}), {often}", node.name, node.stage));
            let (y, middle, line) = (top(index), left + WIDTH / 2, top(index) + HEIGHT / 2 + 5);
            let _written = writeln!(
                svg,
                "<g><title>{title}</title><rect x=\"{left}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"6\" \
                 fill=\"#8882\" stroke=\"#888\" stroke-width=\"{stroke}\"/>\
                 <text x=\"{middle}\" y=\"{line}\" text-anchor=\"middle\" fill=\"currentColor\">{}</text></g>",
                escaped(&node.name)
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}

impl DagEdge {
    /// Returns what is read, as a pipeline file writes it.
    fn source(&self) -> String {
        let round = self
            .round
            .map_or_else(String::new, |round| format!("{round}."));
        match &self.from {
            Some(stage) => format!("{round}{stage}.{}", self.output),
            None => self.output.clone(),
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
