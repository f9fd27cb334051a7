//! Everything that a report shows of one run, read once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sims_artifact::tables::{
    DecisionRow, DroppedRow, PairRow, RankingRow, ResponseRow, ScoreRow, SignalRow,
};
use sims_artifact::{Table, read_prompts, read_table};
use sims_pipeline::RunRecord;
use sims_pipeline::pipeline::Pipeline;

use crate::ReportError;
use crate::metrics::{self, Figure};
use crate::run_folder;

/// A run, as far as it came.
#[derive(Debug)]
pub struct Run {
    /// The pipeline's name.
    pub name: String,
    /// What the user named: a pipeline file or a folder.
    pub target: PathBuf,
    /// The seed that replaced the pipeline's own.
    pub seed: Option<u64>,
    /// The pipeline; none when a folder was named.
    pub pipeline: Option<Pipeline>,
    /// Every figure of every round.
    pub figures: Vec<Figure>,
    /// The rounds from 1, as far as they have files.
    pub rounds: Vec<Round>,
    /// The stages that run once.
    pub once: Vec<StageSummary>,
    /// Keys and digests.
    pub record: RunRecord,
    /// The prompts' texts by id, as far as the pipeline names their files.
    pub prompts: BTreeMap<String, String>,
}

/// One round of a run.
#[derive(Debug)]
pub struct Round {
    /// Its number, from 1.
    pub number: u32,
    folder: PathBuf,
    /// Gates and attempts; none before `steer-eval` is through.
    pub decision: Option<Vec<DecisionRow>>,
    /// The node that decided.
    pub gate_node: String,
    /// What the guard saw; none without a guard.
    pub signals: Option<Vec<SignalRow>>,
    /// The stages' summaries, by node.
    pub stages: Vec<StageSummary>,
}

/// What a stage says of its run.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct StageSummary {
    /// The node of the pipeline.
    #[serde(skip)]
    pub node: String,
    /// The stage's own name.
    pub stage: String,
    /// Wall-clock time. Unit: seconds.
    pub seconds: f64,
    /// Peak resident memory. Unit: bytes.
    #[serde(default)]
    pub peak_memory_bytes: u64,
    /// The device that computed.
    #[serde(default)]
    pub device: String,
    /// Worker threads.
    #[serde(default)]
    pub threads: u32,
    /// GPUs that it computed on.
    #[serde(default)]
    pub gpus: u32,
    /// What was drawn meanwhile, where the machine counts it.
    #[serde(default)]
    pub energy: Option<StageEnergy>,
    /// Named numbers.
    #[serde(default)]
    pub counts: BTreeMap<String, f64>,
    /// What it warned of.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Why no further round ran, if it found so.
    #[serde(default)]
    pub stop: Option<String>,
}

/// What a stage's machine drew. Unit: joules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub struct StageEnergy {
    /// Processors.
    pub cpu_joules: Option<f64>,
    /// GPUs.
    pub gpu_joules: Option<f64>,
}

impl Run {
    /// Reads the run in `folder`.
    ///
    /// # Errors
    /// If it has no metrics, or a table is damaged or of another version.
    pub fn load(
        name: String,
        folder: &Path,
        target: &Path,
        pipeline: Option<Pipeline>,
        seed: Option<u64>,
    ) -> Result<Self, ReportError> {
        let files = run_folder::metrics_files(folder, &target.display().to_string())?;
        let figures = metrics::figures(&metrics::query(&files, None)?)?;
        let mut rounds = Vec::new();
        for (number, path) in run_folder::rounds(folder)? {
            rounds.push(Round::load(number, path)?);
        }
        let once = folder.join("once");
        let once = if once.is_dir() {
            summaries(&once)?
        } else {
            Vec::new()
        };
        let mut prompts = BTreeMap::new();
        for file in pipeline
            .iter()
            .flat_map(|pipeline| pipeline.prompts.values())
        {
            if file.path.is_file() {
                for row in read_prompts(&file.path)? {
                    let text = match &row.messages[..] {
                        [only] => only.content.clone(),
                        turns => {
                            let turn = |turn: &sims_artifact::tables::Message| {
                                format!("{}: {}", turn.role, turn.content)
                            };
                            turns.iter().map(turn).collect::<Vec<_>>().join("\n")
                        }
                    };
                    prompts.insert(row.prompt_id, text);
                }
            }
        }
        Ok(Self {
            name,
            target: target.to_owned(),
            seed,
            pipeline,
            figures,
            rounds,
            once,
            record: RunRecord::load(folder),
            prompts,
        })
    }

    /// Returns the figure of a round, node and metric, against `baseline`.
    pub fn figure(&self, round: u32, node: &str, metric: &str, baseline: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| {
            figure.round == round
                && figure.node == node
                && figure.metric == metric
                && figure.baseline == baseline
        })
    }

    /// Returns every summary with its round; 0 for stages that run once.
    pub fn summaries(&self) -> impl Iterator<Item = (u32, &StageSummary)> {
        let once = self.once.iter().map(|stage| (0, stage));
        let rounds = self
            .rounds
            .iter()
            .flat_map(|round| round.stages.iter().map(|stage| (round.number, stage)));
        once.chain(rounds)
    }
}

impl Round {
    fn load(number: u32, folder: PathBuf) -> Result<Self, ReportError> {
        let decision = find(&folder, "decision.parquet")?;
        let gate_node = match &decision {
            Some(path) => node_of(path, &folder),
            None => None,
        };
        Ok(Self {
            number,
            decision: decision.as_deref().map(read_table).transpose()?,
            gate_node: gate_node.unwrap_or_else(|| "steer-eval".to_owned()),
            signals: find(&folder, "signals.parquet")?
                .as_deref()
                .map(read_table)
                .transpose()?,
            stages: summaries(&folder)?,
            folder,
        })
    }

    /// Tells whether a candidate was accepted; none before the decision.
    pub fn accepted(&self) -> Option<bool> {
        let rows = self.decision.as_ref()?;
        Some(rows.iter().any(|row| row.action == "accept"))
    }

    /// Reads the contrast pairs; none without a stage that makes them.
    ///
    /// # Errors
    /// If the table is damaged.
    pub fn pairs(&self) -> Result<Option<Vec<PairRow>>, ReportError> {
        self.table("pairs.parquet")
    }

    /// Reads the pairs that filters dropped.
    ///
    /// # Errors
    /// If the table is damaged.
    pub fn dropped(&self) -> Result<Option<Vec<DroppedRow>>, ReportError> {
        self.table("dropped.parquet")
    }

    /// Reads the scores of the sampled responses.
    ///
    /// # Errors
    /// If the table is damaged.
    pub fn ranking(&self) -> Result<Option<Vec<RankingRow>>, ReportError> {
        self.table("ranking.parquet")
    }

    /// Reads the responses of a node that answered with several policies; none where there is none.
    ///
    /// # Errors
    /// If a table is damaged.
    pub fn answers(
        &self,
        preferred: &[&str],
    ) -> Result<Option<(String, Vec<ResponseRow>)>, ReportError> {
        let mut nodes: Vec<String> = preferred.iter().map(|node| (*node).to_owned()).collect();
        for node in run_folder::nodes(&self.folder)? {
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        for node in nodes {
            let path = self.folder.join(&node).join("responses.parquet");
            if path.is_file() {
                let rows: Vec<ResponseRow> = read_table(&path)?;
                let base = rows.iter().any(|row| row.policy == "base");
                if base && rows.iter().any(|row| row.policy != "base") {
                    return Ok(Some((node, rows)));
                }
            }
        }
        Ok(None)
    }

    /// Reads the scores by prompt of every node.
    ///
    /// # Errors
    /// If a table is damaged.
    pub fn scores(&self) -> Result<Vec<ScoreRow>, ReportError> {
        let mut rows = Vec::new();
        let nodes = run_folder::nodes(&self.folder)?;
        let own = std::iter::once(self.folder.clone());
        for folder in own.chain(nodes.iter().map(|node| self.folder.join(node))) {
            let path = folder.join("scores.parquet");
            if path.is_file() {
                rows.extend(read_table::<ScoreRow>(&path)?);
            }
        }
        Ok(rows)
    }

    fn table<T: Table>(&self, name: &str) -> Result<Option<Vec<T>>, ReportError> {
        let path = find(&self.folder, name)?;
        Ok(path.as_deref().map(read_table).transpose()?)
    }
}

/// Finds a table of the round: its stage's own, else that of the first node that has one.
fn find(folder: &Path, name: &str) -> Result<Option<PathBuf>, ReportError> {
    let own = folder.join(name);
    if own.is_file() {
        return Ok(Some(own));
    }
    let nodes = run_folder::nodes(folder)?;
    let paths = nodes.iter().map(|node| folder.join(node).join(name));
    Ok(paths.into_iter().find(|path| path.is_file()))
}

/// Returns the node in whose folder a view lies.
fn node_of(view: &Path, round: &Path) -> Option<String> {
    let folder = view.parent()?;
    let name = folder.strip_prefix(round).ok()?.to_str()?;
    (!name.is_empty()).then(|| name.to_owned())
}

fn summaries(folder: &Path) -> Result<Vec<StageSummary>, ReportError> {
    let folder = folder.join("summaries");
    let mut stages = Vec::new();
    if !folder.is_dir() {
        return Ok(stages);
    }
    for (name, path) in run_folder::entries(&folder)? {
        let Some(node) = name.strip_suffix(".json") else {
            continue;
        };
        let bytes = std::fs::read(&path).map_err(|source| ReportError::Io {
            path: path.clone(),
            source,
        })?;
        let mut stage: StageSummary = serde_json::from_slice(&bytes)
            .map_err(|source| ReportError::Summary { path, source })?;
        node.clone_into(&mut stage.node);
        stages.push(stage);
    }
    Ok(stages)
}
