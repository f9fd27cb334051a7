//! Did steering help: one round's figures as tiles and as plain sentences.

use crate::data_table::DataTable;
use crate::metrics::Figure;
use crate::number::{count, duration, number, percent, with_interval};
use crate::parts::cost::{StageCost, total};
use crate::parts::curves::{GOLD, JUDGED};
use crate::parts::gates::{Effect, Verdict};
use crate::run::{Round, Run};

/// A figure of the headline.
#[derive(Debug, Clone, PartialEq)]
pub struct Tile {
    /// What it is.
    pub name: &'static str,
    /// The figure as text.
    pub value: String,
    /// Its interval, or what else belongs to it.
    pub detail: String,
    /// The figure, where it is one.
    pub figure: Option<f64>,
    /// Lower end of its 95 % interval.
    pub ci_low: Option<f64>,
    /// Upper end of its 95 % interval.
    pub ci_high: Option<f64>,
}

/// What came out of a run, in short.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Headline {
    /// The round that it is about; none where no round has a win rate.
    pub round: Option<u32>,
    /// Whether steering helped, in three or four words.
    pub verdict: &'static str,
    /// What the verdict rests on.
    pub sentences: Vec<String>,
    /// The figures.
    pub tiles: Vec<Tile>,
}

/// Returns the node whose judged win rate stands for a round: held-out prompts before those of the gate.
pub fn judged_node<'a>(run: &'a Run, round: &'a Round) -> Option<&'a str> {
    let gate = round.gate_node.as_str();
    let found = nodes_with(run, round.number, JUDGED);
    let held_out = found.iter().copied().filter(|node| *node != gate);
    preferred(held_out, "test").or_else(|| found.first().copied())
}

/// Returns the node whose gold win rate stands for a round.
pub fn gold_node(run: &Run, round: u32) -> Option<&str> {
    preferred(nodes_with(run, round, GOLD).into_iter(), "gold")
}

fn nodes_with<'a>(run: &'a Run, round: u32, metric: &str) -> Vec<&'a str> {
    run.figures
        .iter()
        .filter(|figure| figure.round == round && figure.metric == metric)
        .filter(|figure| figure.baseline == "base")
        .map(|figure| figure.node.as_str())
        .collect()
}

/// The node of that name, else the first.
fn preferred<'a>(nodes: impl Iterator<Item = &'a str>, name: &str) -> Option<&'a str> {
    let nodes: Vec<&str> = nodes.collect();
    let named = nodes.iter().find(|node| **node == name);
    named.or(nodes.first()).copied()
}

impl Headline {
    pub(super) fn of(run: &Run, effects: &[Effect], cost: &[StageCost]) -> Self {
        let accepted = run
            .rounds
            .iter()
            .rev()
            .find(|round| round.accepted() == Some(true));
        let measured = || {
            let rounds = run.rounds.iter().rev();
            rounds.into_iter().find(|round| {
                judged_node(run, round).is_some() || gold_node(run, round.number).is_some()
            })
        };
        let mut headline = Self::default();
        let Some(round) = accepted.or_else(measured) else {
            headline.verdict = "Nothing to compare yet";
            headline.sentences.push(
                "No round has a win rate against the base model: the figures below are all there is.".to_owned(),
            );
            headline.cost(run, cost);
            return headline;
        };
        headline.round = Some(round.number);
        let judged =
            judged_node(run, round).and_then(|node| run.figure(round.number, node, JUDGED, "base"));
        let gold = gold_node(run, round.number)
            .and_then(|node| run.figure(round.number, node, GOLD, "base"));
        headline.compare(run, round, judged, gold);
        headline.gains(run, round, judged, gold);
        headline.harm(round.number, effects);
        headline.cost(run, cost);
        headline
    }

    /// Says whether it helped, by the strictest measure there is: gold before the judge.
    fn compare(
        &mut self,
        run: &Run,
        round: &Round,
        judged: Option<&Figure>,
        gold: Option<&Figure>,
    ) {
        let effect = |figure: &Figure| match (figure.ci_low, figure.ci_high) {
            (Some(low), _) if low > 0.5 => 1,
            (_, Some(high)) if high < 0.5 => -1,
            _ => 0,
        };
        let (by_judge, by_gold) = (judged.map(effect), gold.map(effect));
        self.verdict = match (round.accepted(), by_gold.or(by_judge)) {
            (Some(false), _) => "No steering was accepted",
            (_, Some(1)) => "Steering helped",
            (_, Some(-1)) => "Steering did harm",
            _ => "No effect that is certain",
        };
        let which = match round.accepted() {
            Some(true) if run.rounds.len() == 1 => {
                format!("In round {}, which was accepted", round.number)
            }
            Some(true) => format!("In round {}, the last accepted one", round.number),
            Some(false) => format!(
                "In round {}, the last one measured and refused",
                round.number
            ),
            None => format!("In round {}, the last one measured", round.number),
        };
        let share = |figure: &Figure| match (figure.ci_low, figure.ci_high) {
            (Some(low), Some(high)) => format!(
                "{} [{:.1}, {:.1}]",
                percent(figure.value),
                100.0 * low,
                100.0 * high
            ),
            _ => percent(figure.value),
        };
        let mut sentence = match (judged, gold) {
            (Some(judged), Some(gold)) => format!(
                "{which}, steered answers win {} of their comparisons with the base model by the gold score, and {} \
                 as judged in the loop.",
                share(gold),
                share(judged)
            ),
            (Some(judged), None) => format!(
                "{which}, steered answers win {} of their comparisons with the base model, as judged in the loop; \
                 no gold score checks the judge.",
                share(judged)
            ),
            (None, Some(gold)) => format!(
                "{which}, steered answers win {} of their comparisons with the base model by the gold score.",
                share(gold)
            ),
            (None, None) => format!("{which}, no win rate was measured."),
        };
        if let (Some(1), Some(0 | -1)) = (by_judge, by_gold) {
            sentence.push_str(" The judge sees a gain that gold does not confirm.");
        }
        self.sentences.push(sentence);
    }

    fn gains(&mut self, run: &Run, round: &Round, judged: Option<&Figure>, gold: Option<&Figure>) {
        if let Some(figure) = gold {
            self.tiles.push(tile("Win rate, gold", figure));
        }
        if let Some(figure) = judged {
            self.tiles.push(tile("Win rate, judged", figure));
        }
        let score = gold_node(run, round.number).and_then(|node| {
            let score = run.figure(round.number, node, "gold_score", "")?;
            Some((
                score,
                run.figure(round.number, node, "base_gold_score", "")?,
            ))
        });
        if let Some((score, base)) = score {
            self.tiles.push(Tile {
                detail: format!("from {} of the base", number(base.value)),
                ..tile("Gold score", score)
            });
        }
        let texts = judged_node(run, round)
            .into_iter()
            .chain([round.gate_node.as_str()]);
        for (name, metric) in [
            ("Length, ratio", "length_ratio"),
            ("KL on neutral text", "neutral_kl_per_token"),
            ("Perplexity, ratio", "neutral_perplexity_ratio"),
        ] {
            let mut nodes = texts.clone();
            let found = nodes.find_map(|node| run.figure(round.number, node, metric, "base"));
            self.tiles.extend(found.map(|figure| tile(name, figure)));
        }
    }

    /// Says which gates failed or are near their limits at the round's setting.
    fn harm(&mut self, round: u32, effects: &[Effect]) {
        let of_round: Vec<&Effect> = effects
            .iter()
            .filter(|effect| effect.round == round)
            .collect();
        if of_round.is_empty() {
            self.sentences
                .push("No gate was read, so nothing is known of what it broke.".to_owned());
            return;
        }
        let named = |verdict| {
            let found = of_round.iter().filter(|effect| effect.verdict == verdict);
            found.copied().collect::<Vec<&Effect>>()
        };
        let (failed, near) = (named(Verdict::Failed), named(Verdict::Near));
        let mut sentence = if failed.is_empty() {
            format!("All {} gates passed", of_round.len())
        } else {
            let failed: Vec<String> = failed
                .iter()
                .map(|effect| {
                    let row = &effect.row;
                    format!(
                        "{} ({}, limit {})",
                        row.gate,
                        number(row.value),
                        number(row.limit)
                    )
                })
                .collect();
            format!("It failed {}", join(&failed))
        };
        if near.is_empty() {
            sentence.push_str(if failed.is_empty() {
                ", none of them near its limit."
            } else {
                "."
            });
        } else {
            let near: Vec<String> = near
                .iter()
                .map(|effect| {
                    let used = effect.used.unwrap_or(1.0);
                    format!("{} at {:.0} %", effect.row.gate, 100.0 * used)
                })
                .collect();
            sentence.push_str(&format!("; near the limit: {} of the way.", join(&near)));
        }
        self.sentences.push(sentence);
        let passed = of_round.len() - failed.len();
        self.tiles.push(Tile {
            name: "Gates passed",
            value: format!("{passed} of {}", of_round.len()),
            detail: match (failed.len(), near.len()) {
                (0, 0) => "none near its limit".to_owned(),
                (0, near) => format!("{near} near its limit"),
                (failed, _) => format!("{failed} failed"),
            },
            figure: Some(passed as f64 / of_round.len() as f64),
            ci_low: None,
            ci_high: None,
        });
    }

    fn cost(&mut self, run: &Run, cost: &[StageCost]) {
        if cost.is_empty() {
            return;
        }
        let total = total(cost, |_| true);
        let (seconds, tokens) = (total.seconds, total.tokens());
        let flops = total.flops.unwrap_or(0.0);
        let rounds = match run.rounds.len() {
            1 => "One round".to_owned(),
            n => format!("{n} rounds"),
        };
        self.sentences.push(format!(
            "{rounds} took {} of computing, {} tokens and about {}FLOP, measurements included.",
            duration(seconds),
            count(tokens),
            with_space(&count(flops))
        ));
        self.tiles.push(Tile {
            name: "Computing time",
            value: duration(seconds),
            detail: format!("{}FLOP", with_space(&count(flops))),
            figure: Some(seconds),
            ci_low: None,
            ci_high: None,
        });
    }

    pub(super) fn table(&self) -> DataTable {
        DataTable::of("headline", &self.tiles)
            .text("name", |tile| tile.name)
            .text("text", |tile| tile.value.as_str())
            .text("detail", |tile| tile.detail.as_str())
            .number("value", |tile| tile.figure)
            .number("ci_low", |tile| tile.ci_low)
            .number("ci_high", |tile| tile.ci_high)
            .done()
    }
}

/// Sets a unit apart from a number without a prefix; a prefix stands right before it.
fn with_space(count: &str) -> String {
    if count.ends_with(|last: char| last.is_ascii_digit()) {
        format!("{count} ")
    } else {
        count.to_owned()
    }
}

fn tile(name: &'static str, figure: &Figure) -> Tile {
    let whole = with_interval(figure.value, figure.ci_low, figure.ci_high);
    let value = number(figure.value);
    Tile {
        name,
        detail: whole[value.len()..].trim().to_owned(),
        value,
        figure: Some(figure.value),
        ci_low: figure.ci_low,
        ci_high: figure.ci_high,
    }
}

/// `a`, `a and b`, `a, b and c`.
pub(crate) fn join(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
