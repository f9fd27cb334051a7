//! How many comparisons it takes to find the best and the worst response: replays designs on judgments of all pairs.
//!
//! ```text
//! sims-judge --schedule all --prompts … --responses responses.parquet --model … --out judged
//! cargo run --release -p sims-judge --example budget -- judged/judgments.parquet responses.parquet curve.parquet
//! ```
//!
//! Reference is the mean win probability over all pairs. "Same" means that a design's best (worst) response has the
//! reference's best (worst) score; "noise" that it is within √2 of the noise of a score, the deviation of a difference.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use sims_artifact::tables::{JudgmentRow, MetricRow, ResponseRow};
use sims_artifact::{read_table, write_table};
use sims_judge::Schedule;
use sims_judge::adaptive::Contest;
use sims_rank::matrix::{PromptComparisons, collect};
use sims_rank::{ComparisonMatrix, RankMethod, Scorer, rank};
use sims_stats::Bootstrap;
use sims_stats::completion::Completion;
use sims_stats::least_squares::Preference;
use sims_stats::random::{Stream, key_of};

const SEED: u64 = 0;
/// Scores closer than this are one.
const TIE: f64 = 1e-9;

type Pairs = BTreeSet<(usize, usize)>;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Design {
    Circulant,
    Random,
    Swiss,
    Adaptive,
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [judgments, responses, curve] = &arguments[..] else {
        bail!(
            "usage: budget JUDGMENTS RESPONSES CURVE: judgments of all pairs, their responses, the table to write"
        );
    };
    let judgments: Vec<JudgmentRow> = read_table(Path::new(judgments))?;
    let responses: Vec<ResponseRow> = read_table(Path::new(responses))?;
    let round = collect(&responses, &judgments)?;
    let prompts: Vec<&PromptComparisons> = round
        .prompts
        .iter()
        .filter(|prompt| prompt.matrix.is_complete())
        .collect();
    ensure!(
        !prompts.is_empty(),
        "no prompt has judgments of all pairs; judge with `--schedule all`"
    );
    let all_pairs = prompts
        .iter()
        .map(|prompt| prompt.matrix.pairs().count())
        .max()
        .unwrap_or(0);
    let mean_win = scorer(RankMethod::MeanWin);
    let noise = rank(&responses, &judgments, &mean_win, 0, &mut |_| ())?
        .diagnostics
        .noise_sigma;
    println!(
        "{} prompts with all {all_pairs} pairs, noise of a score {noise:.4}",
        prompts.len()
    );
    println!("design     pairs ranking             same best, worst, both   within noise: both");

    let mut rows = Vec::new();
    for budget in [10, 12, 15, 18, 20, 25, 30, 35] {
        for design in [
            Design::Circulant,
            Design::Random,
            Design::Swiss,
            Design::Adaptive,
        ] {
            // Each response of ten meets an even number of others in 10, 20 or 30 pairs, an odd one in the others.
            if design == Design::Circulant && budget % 5 != 0 {
                continue;
            }
            let designs: Vec<Pairs> = prompts
                .iter()
                .map(|prompt| pairs(design, budget, prompt))
                .collect::<anyhow::Result<_>>()?;
            for method in [
                RankMethod::MeanWin,
                RankMethod::BradleyTerry,
                RankMethod::LeastSquares,
                RankMethod::MeanWinCompleted,
            ] {
                let agreements: Vec<Agreement> = prompts
                    .iter()
                    .zip(&designs)
                    .map(|(prompt, pairs)| agreement(prompt, pairs, method, noise))
                    .collect::<anyhow::Result<_>>()?;
                rows.extend(report(design, budget, method, &agreements)?);
            }
        }
    }
    write_table(Path::new(curve), &rows)?;
    Ok(())
}

fn scorer(method: RankMethod) -> Scorer {
    Scorer {
        method,
        tau: 1.0,
        ridge: 0.1,
    }
}

fn known(prompt: &PromptComparisons, (first, second): (usize, usize)) -> Option<Preference> {
    let by = prompt.matrix.preference(first, second)?;
    Some(Preference { first, second, by })
}

fn pairs(design: Design, budget: usize, prompt: &PromptComparisons) -> anyhow::Result<Pairs> {
    let count = prompt.matrix.size();
    let budget = budget.min(count * (count - 1) / 2);
    match design {
        Design::Circulant => {
            let meets = 2 * budget / count;
            Ok(Schedule::Circulant
                .pairs(count, meets, SEED, prompt.prompt_id)
                .into_iter()
                .collect())
        }
        Design::Random => Ok(random(count, budget, prompt.prompt_id)),
        Design::Swiss => swiss(count, budget, prompt),
        Design::Adaptive => {
            let mut contest = Contest::new(count, SEED, prompt.prompt_id);
            let mut asked = Pairs::new();
            while asked.len() < budget {
                let next = contest.next_pairs((budget - asked.len()).min(4))?;
                for pair in next {
                    contest.record(pair, known(prompt, pair).map(|preference| preference.by));
                    asked.insert(pair);
                }
            }
            Ok(asked)
        }
    }
}

/// A path through all responses, which connects them, and random pairs.
fn random(count: usize, budget: usize, prompt_id: &str) -> Pairs {
    let mut stream = Stream::new(SEED, key_of(prompt_id));
    let mut path: Vec<usize> = (0..count).collect();
    stream.shuffle(&mut path);
    let mut pairs: Pairs = path.windows(2).map(|two| ordered(two[0], two[1])).collect();
    let mut others: Vec<_> = Schedule::All.pairs(count, 0, SEED, prompt_id);
    stream.shuffle(&mut others);
    for pair in others {
        if pairs.len() < budget {
            pairs.insert(pair);
        }
    }
    pairs
}

/// In every round, each response meets the nearest in rank that it has not met.
fn swiss(count: usize, budget: usize, prompt: &PromptComparisons) -> anyhow::Result<Pairs> {
    let mut stream = Stream::new(SEED, key_of(prompt.prompt_id));
    let mut order: Vec<usize> = (0..count).collect();
    stream.shuffle(&mut order);
    let mut pairs = Pairs::new();
    while pairs.len() < budget {
        let mut busy = vec![false; count];
        let before = pairs.len();
        for (place, &one) in order.iter().enumerate() {
            let free = |other: usize| !busy[other] && !pairs.contains(&ordered(one, other));
            let opponent = order[place + 1..]
                .iter()
                .copied()
                .find(|&other| free(other));
            if let (false, Some(other)) = (busy[one], opponent)
                && pairs.len() < budget
            {
                (busy[one], busy[other]) = (true, true);
                pairs.insert(ordered(one, other));
            }
        }
        if pairs.len() == before {
            break;
        }
        let preferences: Vec<Preference> = pairs
            .iter()
            .filter_map(|&pair| known(prompt, pair))
            .collect();
        let completion = Completion::of(count, &preferences, 1.0, 0.01)?;
        order.sort_by(|&l, &r| {
            completion
                .win_probability(r)
                .total_cmp(&completion.win_probability(l))
                .then(l.cmp(&r))
        });
    }
    connect(count, &mut pairs);
    Ok(pairs)
}

/// Adds neighbours until all are connected, which small Swiss designs may not be.
fn connect(count: usize, pairs: &mut Pairs) {
    let mut group: Vec<usize> = (0..count).collect();
    let mut join = |i: usize, j: usize| {
        let (from, to) = (group[i], group[j]);
        group
            .iter_mut()
            .filter(|g| **g == from)
            .for_each(|g| *g = to);
        from != to
    };
    for &(i, j) in pairs.iter() {
        join(i, j);
    }
    for i in 1..count {
        if join(i - 1, i) {
            pairs.insert((i - 1, i));
        }
    }
}

fn ordered(i: usize, j: usize) -> (usize, usize) {
    (i.min(j), i.max(j))
}

/// Whether best and worst are those of all pairs: exactly, and within the noise.
#[derive(Debug, Clone, Copy)]
struct Agreement {
    same: [bool; 2],
    within_noise: [bool; 2],
}

fn agreement(
    prompt: &PromptComparisons,
    pairs: &Pairs,
    method: RankMethod,
    noise: f64,
) -> anyhow::Result<Agreement> {
    let count = prompt.matrix.size();
    let mut partial = ComparisonMatrix::new(count);
    for &(i, j) in pairs {
        for (first, second) in [(i, j), (j, i)] {
            let logit = prompt
                .matrix
                .logit(first, second)
                .context("the design asks for pairs that are there")?;
            partial.set(first, second, logit);
        }
    }
    let values = |method, matrix: &ComparisonMatrix| -> anyhow::Result<Vec<f64>> {
        let scores = scorer(method).scores(matrix)?;
        scores
            .iter()
            .map(|score| Ok(score.context("all met")?.value))
            .collect()
    };
    let reference = values(RankMethod::MeanWin, &prompt.matrix)?;
    let found = values(method, &partial)?;
    let place = |better: fn(f64, f64) -> bool| {
        (1..count).fold(0, |best, i| {
            if better(found[i], found[best]) {
                i
            } else {
                best
            }
        })
    };
    let highest = reference.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let lowest = reference.iter().copied().fold(f64::INFINITY, f64::min);
    let short = [
        highest - reference[place(|l, r| l > r)],
        reference[place(|l, r| l < r)] - lowest,
    ];
    Ok(Agreement {
        same: short.map(|short| short <= TIE),
        within_noise: short.map(|short| short <= TIE + std::f64::consts::SQRT_2 * noise),
    })
}

/// Prints a line of the table and returns its rows.
fn report(
    design: Design,
    budget: usize,
    method: RankMethod,
    agreements: &[Agreement],
) -> anyhow::Result<Vec<MetricRow>> {
    let share = |hit: &dyn Fn(&Agreement) -> bool| -> Vec<f64> {
        agreements
            .iter()
            .map(|one| f64::from(u8::from(hit(one))))
            .collect()
    };
    let figures: [(&str, Vec<f64>); 4] = [
        ("same_best", share(&|one| one.same[0])),
        ("same_worst", share(&|one| one.same[1])),
        ("same_best_and_worst", share(&|one| one.same == [true; 2])),
        (
            "best_and_worst_within_noise",
            share(&|one| one.within_noise == [true; 2]),
        ),
    ];
    let mut rows = Vec::new();
    for (metric, values) in figures {
        let interval = Bootstrap::seeded(SEED).mean(&values)?;
        rows.push(MetricRow {
            metric: metric.to_owned(),
            value: interval.estimate,
            ci_low: Some(interval.low),
            ci_high: Some(interval.high),
            n: values.len() as u64,
            method: format!("{design:?}, {budget} pairs, {method}").to_lowercase(),
            baseline: "all pairs, mean-win".to_owned(),
        });
    }
    let [best, worst, both, near] = [&rows[0], &rows[1], &rows[2], &rows[3]].map(|row| row.value);
    let name = format!("{design:?}").to_lowercase();
    println!(
        "{name:10} {budget:5} {method:20} {best:.3}  {worst:.3}  {both:.3}            {near:.3}",
        method = method.to_string()
    );
    Ok(rows)
}
