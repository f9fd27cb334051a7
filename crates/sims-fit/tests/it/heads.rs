//! The operator iti, on planted states said to be what four heads put out.

use crate::planted::{Bench, HIDDEN, Planted};
use sims_artifact::tables::FitReportRow;

const HEAD_DIM: usize = HIDDEN / 4;
const ITI: [&str; 2] = ["--operator", "iti"];

fn bench() -> Bench {
    let bench = Bench::new(&Planted {
        gap: 1.0,
        ..Planted::default()
    });
    bench.read_from_heads();
    bench
}

fn with<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&ITI[..], arguments].concat()
}

fn accuracy(report: &[FitReportRow], layer: u32, head: usize) -> Option<f64> {
    let name = format!("head-{head}-accuracy");
    let row = report
        .iter()
        .find(|row| row.layer == layer && row.metric == name);
    row.map(|row| row.value)
}

#[test]
fn the_best_heads_are_shifted_along_their_mean_difference() {
    let bench = bench();
    bench.succeeds("all", &with(&["--head-strength", "2"]));
    let all = bench.report("all");
    let mut ranked: Vec<(f64, u32, usize)> = [1, 2]
        .iter()
        .flat_map(|&layer| (0..4).map(move |head| (layer, head)))
        .map(|(layer, head)| (accuracy(&all, layer, head).unwrap(), layer, head))
        .collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));

    bench.succeeds("three", &with(&["--heads", "3", "--head-strength", "2"]));
    let (three, steering) = (bench.report("three"), bench.steering("three"));
    let mut heads = 0;
    for layer in steering.layers() {
        let shift = steering.head_shift(layer).unwrap();
        assert_eq!(shift.head_dim(), HEAD_DIM);
        for head in shift.heads() {
            heads += 1;
            let place = (
                accuracy(&three, layer as u32, head).unwrap(),
                layer as u32,
                head,
            );
            assert!(ranked[..3].contains(&place), "{place:?} of {ranked:?}");
            // Two standard deviations, along the head's part of the planted direction.
            let span = head * HEAD_DIM..(head + 1) * HEAD_DIM;
            let vector = &shift.vector()[span.clone()];
            let name = format!("head-{head}-deviation");
            let row = three
                .iter()
                .find(|row| row.layer == layer as u32 && row.metric == name);
            let norm = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
            let vector: Vec<f64> = vector.iter().map(|&x| f64::from(x)).collect();
            assert!((norm(&vector) / (2.0 * row.unwrap().value) - 1.0).abs() < 1e-5);
            let direction = &bench.direction()[span];
            let product: f64 = vector.iter().zip(direction).map(|(v, d)| v * d).sum();
            assert!(product / (norm(&vector) * norm(direction)) > 0.8);
        }
    }
    assert_eq!(heads, 3);
    let fit = steering.fit().unwrap();
    assert!(!fit.signal.is_low(), "{:?}", fit.signal);
    assert_eq!((steering.operator(), fit.step), ("iti", 2.0));
}

/// The same heads in a narrower model are fitted the same.
#[test]
fn heads_may_be_wider_than_the_residual_stream() {
    let bench = bench();
    bench.succeeds("equal", &with(&["--heads", "2"]));
    bench.read_from_heads_of(HIDDEN / 2);
    bench.succeeds("narrow", &with(&["--heads", "2"]));
    assert_eq!(bench.report("narrow"), bench.report("equal"));
    let vectors = |name: &str| {
        let steering = bench.steering(name);
        let shifts = steering.layers().into_iter();
        let shifts = shifts.filter_map(|layer| Some(steering.head_shift(layer)?.vector().to_vec()));
        shifts.collect::<Vec<_>>()
    };
    assert_eq!(vectors("narrow"), vectors("equal"));
}

#[test]
fn fits_of_heads_repeat_and_stack() {
    let bench = bench();
    for along in ["mean-difference", "probe"] {
        let arguments = ["--heads", "2", "--head-direction", along];
        for out in ["a", "b"] {
            bench.succeeds(out, &with(&arguments));
        }
        for name in ["steering.safetensors", "fit-report.parquet"] {
            let bytes = |out: &str| std::fs::read(bench.out(out).join(name)).unwrap();
            assert!(bytes("a") == bytes("b"), "{along}: {name} differs");
        }
    }
    let shuffled = bench.succeeds("shuffled", &with(&["--labels", "shuffled"]));
    assert!(shuffled[0].starts_with("low signal"), "{shuffled:?}");
}

#[test]
fn operators_and_sites_have_to_fit() {
    let bench = bench();
    let message = bench.refuses(&[]);
    for part in ["site heads", "mean-difference", "site block"] {
        assert!(message.contains(part), "{message}");
    }
    let message = bench.refuses(&with(&["--heads", "0"]));
    assert!(message.contains("heads is 0"), "{message}");
    bench.read_from_base();
    let message = bench.refuses(&ITI);
    assert!(
        message.contains("site block") && message.contains("iti"),
        "{message}"
    );
}
