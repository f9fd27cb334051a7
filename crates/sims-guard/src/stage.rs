//! The stage: a round's tables in, its signals and what follows out.

use std::collections::HashSet;
use std::path::Path;

use sims_artifact::read_table;
use sims_artifact::tables::{
    DecisionRow, HistoryRow, JudgmentRow, MetricRow, PairRow, ResponseRow, SignalRow,
};
use sims_stage::{BadInput, Numerics, Role, Stage, StageIo};
use sims_stats::Bootstrap;
use sims_steering::Steering;

use crate::actions::{self, Action};
use crate::detectors::{self, Signal};
use crate::figures::{Figures, History};
use crate::{Act, GuardParams};

/// The guard stage.
pub struct Guard;

impl Stage for Guard {
    const NAME: &'static str = "guard";
    const ABOUT: &'static str =
        "Watches the loop: detects what goes wrong over rounds and acts on it";
    const EXAMPLES: &'static str = "Examples:
  sims-guard --responses responses.parquet --judgments judgments.parquet --pairs pairs.parquet --decision decision.parquet --metrics metrics.parquet --accepted accepted.safetensors --out guarded
  sims-guard … --history guarded/history.parquet --incumbent guarded/kept.safetensors --champion guarded/champion.safetensors --settings guarded/settings.parquet --round 2 --out guarded-2";
    const BEHAVIOUR: u32 = 1;
    const NUMERICS: Numerics = Numerics::Exact;
    type Params = GuardParams;

    fn inputs() -> Vec<Role> {
        vec![
            Role::required(
                "responses",
                "responses@1",
                "The responses that the round sampled",
            ),
            Role::required("judgments", "judgments@1", "The comparisons of the round"),
            Role::required("pairs", "pairs@1", "The contrast pairs of the round"),
            Role::required("decision", "decision@2", "The gates of steer-eval"),
            Role::required("metrics", "metrics@1", "The figures of steer-eval"),
            Role::required("accepted", "steering@1", "What steer-eval accepted"),
            Role::optional(
                "incumbent",
                "steering@1",
                "What the round before kept; none is the base",
            ),
            Role::optional("champion", "steering@1", "The best of the rounds before"),
            Role::optional("history", "history@1", "The figures of the rounds before"),
            Role::optional("settings", "settings@1", "What the rounds before changed"),
        ]
    }

    fn outputs() -> Vec<Role> {
        vec![
            Role::required(
                "kept",
                "steering@1",
                "The steering that the next round samples with",
            ),
            Role::required(
                "champion",
                "steering@1",
                "The best of all rounds so far: the result of the run",
            ),
            Role::required("signals", "signals@1", "One row a detector"),
            Role::required("history", "history@1", "The figures of all rounds so far"),
            Role::required(
                "settings",
                "settings@1",
                "What the next round does otherwise",
            ),
        ]
    }

    fn run(params: &GuardParams, io: &mut StageIo) -> anyhow::Result<()> {
        params.check()?;
        let accepted = open_steering(io.input("accepted")?)?;
        let incumbent = match io.optional_input("incumbent") {
            Some(path) => open_steering(path)?,
            None => Steering::identity(
                *accepted.model(),
                accepted.hidden_size(),
                accepted.num_hidden_layers(),
            ),
        };
        let before = io
            .settings()?
            .unwrap_or_else(|| actions::initial(params.round));
        let past: Vec<HistoryRow> = match io.optional_input("history") {
            Some(path) => read_table(path)?,
            None => Vec::new(),
        };
        if let Some(row) = past.iter().find(|row| row.round >= params.round) {
            return Err(BadInput::new(format!(
                "the history has round {}, but this is round {}",
                row.round, params.round
            ))
            .into());
        }
        let mut history = History::of(&past);
        let mut figures = measure(params, io)?;

        let acts = params.on_signal == Act::Act;
        let mut signals = detectors::read(&figures, &history, params);
        let was_accepted = figures
            .get("accepted")
            .is_some_and(|figure| figure.value > 0.0);
        let rolled_back = acts && was_accepted && actions::asks_for(&signals, Action::RollBack);
        let mut changes = if acts {
            actions::next(&before, &signals, params)
        } else {
            before
        };
        changes.round = params.round;
        changes.strikes += u32::from(!was_accepted || rolled_back);
        signals.extend(detectors::strikes(changes.strikes, params));

        let kept = if rolled_back { &incumbent } else { &accepted };
        figures.plain("kept", f64::from(u8::from(was_accepted && !rolled_back)));
        figures.plain("strikes", f64::from(changes.strikes));
        let is_best = is_best(&figures, &history);
        history.push(params.round, figures);
        kept.save(&io.output("kept"))?;
        match io.optional_input("champion") {
            Some(path) if !is_best => open_steering(path)?.save(&io.output("champion"))?,
            _ if is_best => kept.save(&io.output("champion"))?,
            _ => incumbent.save(&io.output("champion"))?,
        }
        tell(&signals, acts, io);
        let rows: Vec<SignalRow> = signals
            .iter()
            .map(|signal| signal.row(params.round, acts))
            .collect();
        io.write("signals", &rows)?;
        io.write("history", &history.rows())?;
        io.write("settings", &[changes])
    }
}

fn open_steering(path: &Path) -> Result<Steering, BadInput> {
    Steering::load(path).map_err(|error| BadInput::new(format!("{:#}", anyhow::Error::new(error))))
}

/// Condenses the round's tables.
fn measure(params: &GuardParams, io: &StageIo) -> anyhow::Result<Figures> {
    let bootstrap = Bootstrap {
        resamples: params.resamples as usize,
        ..Bootstrap::seeded(params.seed)
    };
    let responses: Vec<ResponseRow> = io.read("responses")?;
    if responses.is_empty() {
        return Err(BadInput::new("the responses table has no rows").into());
    }
    let judgments: Vec<JudgmentRow> = io.read("judgments")?;
    let pairs: Vec<PairRow> = io.read("pairs")?;
    let decision: Vec<DecisionRow> = io.read("decision")?;
    let metrics: Vec<MetricRow> = io.read("metrics")?;
    let prompts: HashSet<&str> = responses.iter().map(|row| row.prompt_id.as_str()).collect();
    let mut figures = Figures::default();
    figures.add_responses(&responses, &params.loop_rule(), &bootstrap)?;
    figures.add_judgments(&judgments, &responses, &bootstrap)?;
    figures.add_pairs(&pairs, prompts.len(), params.round, &bootstrap)?;
    figures.add_metrics(&metrics);
    figures.add_decision(&decision);
    Ok(figures)
}

/// Tells whether this round's steering was kept and has the best lower bound of the win rate so far.
fn is_best(now: &Figures, history: &History) -> bool {
    let bound = |round: &Figures| {
        let kept = round.get("kept").is_some_and(|kept| kept.value > 0.0);
        round
            .get("win_rate")
            .filter(|_| kept)
            .map(|rate| rate.low())
    };
    let best_before = history
        .backwards()
        .filter_map(bound)
        .fold(f64::NEG_INFINITY, f64::max);
    bound(now).is_some_and(|bound| bound > best_before)
}

/// Says what fired, and ends the loop if something asks for it.
fn tell(signals: &[Signal], acts: bool, io: &mut StageIo) {
    let mut reasons = Vec::new();
    for signal in signals.iter().filter(|signal| signal.fired) {
        let words = format!(
            "{}: {} is {:.3}, limit {:.3}",
            signal.signature, signal.detector, signal.figure.value, signal.limit
        );
        let actions: Vec<&str> = signal.actions.iter().map(|action| action.name()).collect();
        let follows = if acts {
            actions.join(", ")
        } else {
            "only observed".to_owned()
        };
        io.warn(format!("{words} ({follows})"));
        if acts && signal.actions.contains(&Action::Stop) {
            reasons.push(words);
        }
    }
    io.count(
        "signals_fired",
        signals.iter().filter(|signal| signal.fired).count() as f64,
    );
    if !reasons.is_empty() {
        io.stop_after_this_round(reasons.join("; "));
    }
}
