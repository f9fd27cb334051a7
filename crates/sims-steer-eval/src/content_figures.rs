//! What the responses say, as far as rules can tell: how alike a prompt's draws are, whether they decline, whether they
//! keep the form that was asked for.

use sims_artifact::tables::ResponseRow;
use sims_stats::bleu::self_bleu;

use crate::answers::{Answers, content};
use crate::constraints::Constraints;
use crate::refusals::is_refusal;

/// Figures of one policy's responses; each list has the mean over a prompt's draws.
#[derive(Debug, Clone, PartialEq)]
pub struct ContentFigures {
    /// BLEU-4 of a response against the prompt's other draws, over the model's tokens; none where a prompt has one draw.
    pub self_bleu: Option<Vec<f64>>,
    /// Share of responses that decline.
    pub refusals: Vec<f64>,
    /// Share of responses that keep all constraints of their prompt; one entry a prompt that has some.
    pub all_kept: Vec<f64>,
    /// Share of the constraints that are kept; the same entries.
    pub each_kept: Vec<f64>,
}

impl ContentFigures {
    /// Measures `answers`.
    #[must_use]
    pub fn of(answers: &Answers, constraints: &Constraints) -> Self {
        let bleu = |draws: &Vec<ResponseRow>| draw_bleu(draws).map(|values| mean(&values));
        let refusals = |draws: &Vec<ResponseRow>| {
            mean_of(draws, |row| f64::from(u8::from(is_refusal(&row.text))))
        };
        let constrained = answers.iter().filter(|draws| {
            let first = draws.first();
            first.is_some_and(|row| !constraints.of(&row.prompt_id).is_empty())
        });
        // Every draw of such a prompt has a share.
        let kept = |row: &ResponseRow| constraints.kept(&row.prompt_id, &row.text).unwrap_or(0.0);
        let shares = constrained.map(|draws| {
            let all = mean_of(draws, |row| f64::from(u8::from(kept(row) == 1.0)));
            (all, mean_of(draws, kept))
        });
        let (all_kept, each_kept) = shares.unzip();
        Self {
            self_bleu: answers.iter().map(bleu).collect(),
            refusals: answers.iter().map(refusals).collect(),
            all_kept,
            each_kept,
        }
    }
}

/// Returns BLEU-4 of each draw against the others, over the model's tokens without the end token.
///
/// None for a single draw.
#[must_use]
pub fn draw_bleu(draws: &[ResponseRow]) -> Option<Vec<f64>> {
    let contents: Vec<&[u32]> = draws.iter().map(content).collect();
    self_bleu(&contents)
}

fn mean_of(draws: &[ResponseRow], figure: impl Fn(&ResponseRow) -> f64) -> f64 {
    let values: Vec<f64> = draws.iter().map(figure).collect();
    mean(&values)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::tests::response;

    fn draw(prompt: &str, index: u32, text: &str, tokens: &[u32]) -> ResponseRow {
        let mut ended = tokens.to_vec();
        ended.push(0);
        ResponseRow {
            text: text.to_owned(),
            ..response(prompt, "base", index, &ended)
        }
    }

    #[test]
    fn figures_are_means_over_draws() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("constraints.jsonl");
        let rows = "{\"prompt_id\": \"q\", \"kind\": \"words\", \"value\": \"2\"}\n\
                    {\"prompt_id\": \"q\", \"kind\": \"lowercase\"}\n\
                    {\"prompt_id\": \"elsewhere\", \"kind\": \"json\"}";
        std::fs::write(&path, rows).expect("written");
        let constraints = Constraints::read(&path).expect("rows");
        let answers = vec![
            vec![
                draw("p", 0, "Sorry, no.", &[1, 2]),
                draw("p", 1, "Sure, here.", &[1, 2]),
            ],
            vec![
                draw("q", 0, "two words", &[1, 2]),
                draw("q", 1, "Two words", &[3, 4]),
            ],
        ];
        let figures = ContentFigures::of(&answers, &constraints);
        assert_eq!(figures.self_bleu, Some(vec![1.0, 0.0]));
        assert_eq!(figures.refusals, [0.5, 0.0]);
        assert_eq!(
            (figures.all_kept, figures.each_kept),
            (vec![0.5], vec![0.75])
        );

        let single = vec![vec![draw("p", 0, "", &[1])]];
        let figures = ContentFigures::of(&single, &Constraints::default());
        assert_eq!((figures.self_bleu, figures.all_kept), (None, Vec::new()));
    }
}
