//! Figures of one pipeline over its seeds.

use sims_stats::seeds::over_seeds;

use crate::ReportError;
use crate::metrics::Figure;

/// Returns the mean of every figure that at least two of the runs have, with Student's 95 % interval; the spread
/// between seeds is in `method`, `n` is the number of seeds.
///
/// # Errors
/// If a figure is not finite.
pub fn mean_over_seeds(runs: &[&[Figure]]) -> Result<Vec<Figure>, ReportError> {
    let mut means: Vec<Figure> = Vec::new();
    for figure in runs.iter().flat_map(|figures| figures.iter()) {
        let same = |other: &&Figure| {
            (
                other.round,
                &other.node,
                &other.metric,
                kind(&other.baseline),
            ) == (
                figure.round,
                &figure.node,
                &figure.metric,
                kind(&figure.baseline),
            )
        };
        if means.iter().any(|mean| same(&mean)) {
            continue;
        }
        let values: Vec<f64> = runs
            .iter()
            .filter_map(|figures| figures.iter().find(same))
            .map(|figure| figure.value)
            .collect();
        if values.len() < 2 {
            continue;
        }
        let over = over_seeds(&values, 0.95).map_err(|source| ReportError::Seeds {
            metric: figure.metric.clone(),
            source,
        })?;
        means.push(Figure {
            value: over.mean.estimate,
            ci_low: Some(over.mean.low),
            ci_high: Some(over.mean.high),
            n: over.seeds as u64,
            method: format!(
                "mean over {} seeds, Student's t; standard deviation between them {:.4}",
                over.seeds, over.between_seeds
            ),
            baseline: kind(&figure.baseline).to_owned(),
            ..figure.clone()
        });
    }
    means.sort_by_key(|mean| mean.round);
    Ok(means)
}

/// A policy's name without its digest, which is another with every seed: `steered`.
fn kind(policy: &str) -> &str {
    policy.split_once('-').map_or(policy, |(kind, _)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(node: &str, round: u32, value: f64) -> Figure {
        Figure {
            round,
            node: node.into(),
            metric: "gold_win_rate".into(),
            value,
            ci_low: None,
            ci_high: None,
            n: 805,
            method: "paired-bootstrap".into(),
            baseline: "base".into(),
        }
    }

    #[test]
    fn each_figure_is_averaged_over_the_runs_that_have_it() {
        let runs = [
            vec![figure("gold", 1, 0.5), figure("gold", 2, 0.7)],
            vec![figure("gold", 1, 0.6), figure("other", 1, 0.1)],
            vec![figure("gold", 1, 0.7), figure("gold", 2, 0.7)],
        ];
        let runs: Vec<&[Figure]> = runs.iter().map(Vec::as_slice).collect();
        let means = mean_over_seeds(&runs).unwrap();
        let found: Vec<_> = means.iter().map(|m| (m.round, m.n, m.value)).collect();
        assert_eq!(means.len(), 2);
        assert_eq!((found[0].0, found[0].1), (1, 3));
        assert!((found[0].2 - 0.6).abs() < 1e-12);
        // t(2, .975) = 4.3027, and the standard error is 0.1 / sqrt 3.
        assert!((means[0].ci_high.unwrap() - 0.6 - 4.302_652_73 * 0.1 / 3f64.sqrt()).abs() < 1e-6);
        assert_eq!((found[1].0, found[1].1, found[1].2), (2, 2, 0.7));
    }

    #[test]
    fn steered_baselines_are_one_kind_whatever_their_digest() {
        let against = |digest: &str, value| Figure {
            baseline: format!("steered-{digest}"),
            ..figure("gold", 1, value)
        };
        let runs = [vec![against("1a", 0.4)], vec![against("2b", 0.6)]];
        let runs: Vec<&[Figure]> = runs.iter().map(Vec::as_slice).collect();
        let means = mean_over_seeds(&runs).unwrap();
        assert_eq!(means.len(), 1);
        assert_eq!(
            (means[0].baseline.as_str(), means[0].value),
            ("steered", 0.5)
        );
    }
}
