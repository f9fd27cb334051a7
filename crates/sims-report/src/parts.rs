//! What the report is about, one subject a file: rows computed from a run, and the table they become.
//!
//! The page, the Markdown summary and the Parquet files all show these rows.

pub mod answers;
pub mod contrast;
pub mod cost;
pub mod curves;
pub mod gain;
pub mod gates;
pub mod headline;
pub mod lineage;
pub mod spent;

use crate::ReportError;
use crate::data_table::DataTable;
use crate::run::Run;

/// Everything that the report shows of a run.
#[derive(Debug)]
pub struct Parts {
    /// What came out, in short.
    pub headline: headline::Headline,
    /// The figures of the loop over rounds.
    pub curves: Vec<curves::CurvePoint>,
    /// What the search over layers and strengths tried.
    pub tried: Vec<gates::Tried>,
    /// Margins and scores of the contrast pairs, and why others were dropped.
    pub contrast: contrast::Contrast,
    /// What the judge says of itself.
    pub reliability: Vec<crate::metrics::Figure>,
    /// The gates of every round at the setting that it ended with.
    pub effects: Vec<gates::Effect>,
    /// Every gate at every attempt.
    pub decisions: Vec<gates::Decision>,
    /// What the guard saw.
    pub signals: Vec<sims_artifact::tables::SignalRow>,
    /// Answers side by side.
    pub answers: answers::Answers,
    /// What every stage took.
    pub cost: Vec<cost::StageCost>,
    /// What the gains cost.
    pub gains: Vec<gain::Gain>,
    /// How many answers that counts.
    pub answers_served: u32,
    /// What the user pays.
    pub prices: spent::Prices,
    /// What the stages warned of.
    pub warnings: Vec<cost::Warning>,
    /// Where every file comes from.
    pub lineage: lineage::Lineage,
}

impl Parts {
    /// Computes them; costs at the user's `prices`, those of gains over making them and `answers_served` answers.
    ///
    /// # Errors
    /// If a table of the run is damaged.
    pub fn of(run: &Run, prices: spent::Prices, answers_served: u32) -> Result<Self, ReportError> {
        let effects = gates::effects(run);
        let cost = cost::stages(run, &prices);
        Ok(Self {
            headline: headline::Headline::of(run, &effects, &cost),
            curves: curves::points(run),
            tried: gates::tried(run),
            contrast: contrast::Contrast::of(run)?,
            reliability: curves::reliability(run),
            effects,
            decisions: gates::decisions(run),
            signals: run
                .rounds
                .iter()
                .filter_map(|round| round.signals.as_ref())
                .flatten()
                .cloned()
                .collect(),
            answers: answers::Answers::of(run)?,
            cost,
            gains: gain::gains(run, gain::metric_of(run), answers_served, &prices),
            answers_served,
            prices,
            warnings: cost::warnings(run),
            lineage: lineage::Lineage::of(run),
        })
    }

    /// Returns the table of every part; `figures` are all figures of the run.
    pub fn tables(&self, run: &Run) -> Vec<DataTable> {
        vec![
            self.headline.table(),
            curves::figures_table("figures", &run.figures),
            curves::table(&self.curves),
            gates::tried_table(&self.tried),
            self.contrast.margins_table(),
            self.contrast.scores_table(),
            self.contrast.dropped_table(),
            curves::figures_table("reliability", &self.reliability),
            gates::effects_table(&self.effects),
            gates::decisions_table(&self.decisions),
            gates::signals_table(&self.signals),
            self.answers.table(),
            cost::table(&self.cost),
            gain::table(&self.gains),
            cost::warnings_table(&self.warnings),
            self.lineage.files_table(),
            self.lineage.parameters_table(),
        ]
    }
}
