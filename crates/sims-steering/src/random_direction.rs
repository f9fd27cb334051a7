//! The control for a fitted direction: a random one of the same length.
//!
//! What such a steering changes is what any push of that length does to the model; a fit has to do
//! better.

use crate::random::{NormalDraw, stream};

/// Draws a direction uniformly from the sphere and gives it the length `norm`; `[hidden]`.
///
/// Standard normal components, scaled. `label` names the draw under `seed`: every label has its own
/// stream, so that layers and rounds do not share a direction. Zeros for a length of 0 or no width.
pub fn draw(hidden: usize, norm: f64, seed: u64, label: &str) -> Vec<f64> {
    let mut stream = stream(seed, label);
    let mut direction: Vec<f64> = (0..hidden).map(|_| stream.normal()).collect();
    let length = direction.iter().map(|x| x * x).sum::<f64>().sqrt();
    // All components are zero with probability zero, and then there is nothing to scale.
    if length > 0.0 {
        direction.iter_mut().for_each(|x| *x *= norm / length);
    }
    direction
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn the_length_is_the_one_asked_for() {
        for norm in [1e-6, 1.0, 37.5] {
            let direction = draw(768, norm, 3, "layer 4");
            assert!((product(&direction, &direction).sqrt() / norm - 1.0).abs() < 1e-12);
        }
        assert!(draw(8, 0.0, 3, "layer 4").iter().all(|&x| x == 0.0));
    }

    #[test]
    fn seed_and_label_name_the_direction() {
        let one = draw(512, 1.0, 1, "layer 3");
        assert_eq!(one, draw(512, 1.0, 1, "layer 3"));
        // Cosines of independent directions have standard deviation 1/√512 = 0.044.
        for other in [draw(512, 1.0, 2, "layer 3"), draw(512, 1.0, 1, "layer 4")] {
            assert!(product(&one, &other).abs() < 0.2);
        }
        let given: Vec<f64> = (0..512)
            .map(|i| if i % 3 == 0 { 1.0 } else { -0.5 })
            .collect();
        let cosine = product(&one, &given) / product(&given, &given).sqrt();
        assert!(cosine.abs() < 0.2, "{cosine}");
    }

    #[test]
    fn no_component_is_preferred() {
        let count = 4000;
        let mut means = [0.0; 4];
        for seed in 0..count {
            let direction = draw(4, 1.0, seed, "layer 0");
            means
                .iter_mut()
                .zip(&direction)
                .for_each(|(mean, x)| *mean += x / count as f64);
        }
        // A component has mean 0 and variance 1/4: four standard errors are 0.032.
        assert!(means.iter().all(|mean| mean.abs() < 0.032), "{means:?}");
    }
}
