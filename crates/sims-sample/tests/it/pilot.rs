//! A pilot's ranking chooses the prompts.

use sims_artifact::tables::RankingRow;
use sims_artifact::write_table;
use sims_testkit::random_model::{RandomModel, prompts, refused, succeeded, summary};

use super::Bench;

/// Two answers a prompt; the later the prompt, the further apart.
fn pilot(bench: &Bench, count: usize) -> String {
    let rows: Vec<RankingRow> = prompts(count)
        .iter()
        .enumerate()
        .flat_map(|(number, prompt)| {
            [1.0, -1.0].map(|side| RankingRow {
                prompt_id: prompt.prompt_id.clone(),
                response_id: format!("{number} {side}"),
                score: 0.5 + side * 0.01 * number as f64,
                score_se: None,
                rank: if side > 0.0 { 1 } else { 2 },
                comparisons: 2,
                win_probability: 0.5,
                position_bias: 0.0,
                tie: false,
                noise_sigma: 0.1,
            })
        })
        .collect();
    let path = bench.out("pilot.parquet");
    write_table(&path, &rows).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_promising_share_is_answered_as_it_would_be_among_all() {
    let rows = prompts(6);
    let bench = Bench::new(&RandomModel::default(), &rows);
    let (samples, pilot) = (
        ["--samples", "2", "--max-new-tokens", "5"],
        pilot(&bench, 6),
    );
    succeeded(&bench.run("all", &samples));
    let half = [&samples[..], &["--pilot", &pilot]].concat();
    succeeded(&bench.run("half", &half));
    assert_eq!(
        summary(&bench.out("half"))["counts"]["prompts_left_out"],
        3.0
    );
    let kept: Vec<&str> = rows[3..]
        .iter()
        .map(|prompt| prompt.prompt_id.as_str())
        .collect();
    let expected: Vec<_> = bench
        .responses("all")
        .into_iter()
        .filter(|response| kept.contains(&response.prompt_id.as_str()))
        .collect();
    assert_eq!(bench.responses("half"), expected);
}

#[test]
fn a_pilot_of_other_prompts_is_refused() {
    let bench = Bench::new(&RandomModel::default(), &prompts(6));
    let pilot = pilot(&bench, 4);
    let message = refused(&bench.run("out", &["--pilot", &pilot]), &bench.out("out"));
    assert!(
        message.contains("is not in the pilot's ranking"),
        "{message}"
    );
}
