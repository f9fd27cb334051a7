//! From the text of a response to a preference.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::verdict::Preference;

/// Log-odds of a verdict that comes without log-probabilities. Unit: nats.
const PARSED: f64 = 1.0;

/// What a server said, as far as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Answered {
    logit: f64,
    coverage: f64,
    prompt_tokens: u64,
    completion_tokens: u64,
}

impl Answered {
    /// Reads a response; the error says what it lacks.
    ///
    /// An answer that is no verdict is one without coverage: asking again would not change it.
    pub(super) fn read(body: &str) -> Result<Self, String> {
        let body: Value =
            serde_json::from_str(body).map_err(|error| format!("the body is no JSON: {error}"))?;
        let choice = body["choices"].get(0).ok_or("the response has no choice")?;
        let text = choice["message"]["content"]
            .as_str()
            .ok_or("the choice has no text")?;
        let tokens = choice["logprobs"]["content"]
            .as_array()
            .filter(|tokens| !tokens.is_empty());
        let preference = match tokens {
            Some(tokens) => from_logprobs(tokens)?,
            None => from_text(text),
        };
        let usage = |name: &str| body["usage"][name].as_u64().unwrap_or(0);
        Ok(Self {
            logit: preference.logit,
            coverage: preference.coverage,
            prompt_tokens: usage("prompt_tokens"),
            completion_tokens: usage("completion_tokens"),
        })
    }

    pub(super) fn preference(&self) -> Preference {
        Preference {
            logit: self.logit,
            coverage: self.coverage,
        }
    }

    pub(super) fn tokens(&self) -> u64 {
        self.prompt_tokens + self.completion_tokens
    }

    /// Tells whether a kept answer is one.
    pub(super) fn is_sound(&self) -> bool {
        self.logit.is_finite() && (0.0..=1.0).contains(&self.coverage)
    }
}

/// Words that follow the letter A, not the article.
const AFTER_A_LETTER: [&str; 10] = [
    "is", "was", "does", "has", "seems", "because", "since", "as", "and", "or",
];

const NO_VERDICT: Preference = Preference {
    logit: 0.0,
    coverage: 0.0,
};

/// Reads the log-odds where the verdict stands: at the first token that is one, else at the first.
fn from_logprobs(tokens: &[Value]) -> Result<Preference, String> {
    let text = |token: &Value| token["token"].as_str().unwrap_or_default().to_owned();
    let texts: Vec<String> = tokens.iter().map(text).collect();
    let is_verdict = |&index: &usize| {
        let (word, next) = (
            &texts[index],
            texts.get(index + 1).map_or("", String::as_str),
        );
        verdict(word).is_some()
            && !next.starts_with(char::is_alphanumeric)
            && !is_article(word.trim(), next.trim())
    };
    let place = (0..texts.len()).find(is_verdict).unwrap_or(0);
    let top = tokens[place]["top_logprobs"]
        .as_array()
        .ok_or("a token has no top_logprobs")?;
    // Probability of A and B, and of the least probable token shown: what is not shown has less.
    let (mut a, mut b, mut least) = (0.0_f64, 0.0_f64, 1.0_f64);
    for candidate in top {
        let logprob = candidate["logprob"].as_f64().filter(|p| *p <= 1e-6);
        let probability = logprob.ok_or("a log-probability is none")?.exp();
        least = least.min(probability);
        match verdict(&text(candidate)) {
            Some(Letter::A) => a += probability,
            Some(Letter::B) => b += probability,
            None => {}
        }
    }
    if a + b == 0.0 {
        return Ok(NO_VERDICT);
    }
    // Probabilities may be as small as a float's, log-odds stay finite.
    let least = least.max(f64::MIN_POSITIVE);
    Ok(Preference {
        logit: a.max(least).ln() - b.max(least).ln(),
        coverage: (a + b).min(1.0),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Letter {
    A,
    B,
}

/// Returns the letter that a token is, whatever stands around it.
fn verdict(token: &str) -> Option<Letter> {
    match token.trim_matches(|sign: char| !sign.is_alphanumeric()) {
        "A" => Some(Letter::A),
        "B" => Some(Letter::B),
        _ => None,
    }
}

/// Tells whether a word that is an A is the article: another word in small letters follows.
fn is_article(word: &str, next: &str) -> bool {
    word.ends_with('A') && next.starts_with(char::is_lowercase) && !AFTER_A_LETTER.contains(&next)
}

/// Reads the verdict of an answer without log-probabilities; one that names both letters is none.
fn from_text(text: &str) -> Preference {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut letters = words.iter().enumerate().filter_map(|(index, word)| {
        let next = words.get(index + 1).copied().unwrap_or_default();
        verdict(word).filter(|_| !is_article(word, next))
    });
    let Some(first) = letters.next() else {
        return NO_VERDICT;
    };
    if letters.any(|other| other != first) {
        return NO_VERDICT;
    }
    Preference {
        logit: match first {
            Letter::A => PARSED,
            Letter::B => -PARSED,
        },
        coverage: 1.0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(text: &str) -> Option<f64> {
        let read = from_text(text);
        (read.coverage > 0.0).then_some(read.logit)
    }

    #[test]
    fn letters_are_found_in_what_models_put_around_them() {
        for text in [
            "A",
            " A.",
            "**A**",
            "(A)",
            "Answer A",
            "Answer: A",
            "\"A\"",
            "A\n\nbecause",
            "The better is A",
            "Answer A is better",
        ] {
            assert_eq!(parsed(text), Some(PARSED), "{text}");
        }
        for text in ["B", "Answer B is better", "[B]", "A better answer is B"] {
            assert_eq!(parsed(text), Some(-PARSED), "{text}");
        }
        for text in [
            "",
            "A or B",
            "neither",
            "a",
            "BA",
            "Both A and B",
            "I cannot say",
            "A good question",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    fn token(token: &str, top: &[(&str, f64)]) -> Value {
        let top: Vec<Value> = top
            .iter()
            .map(|(token, p)| json!({"token": token, "logprob": p.ln()}))
            .collect();
        json!({"token": token, "logprob": 0.0, "top_logprobs": top})
    }

    #[test]
    fn log_odds_are_those_of_all_ways_to_write_a_letter() {
        let top = [("A", 0.3), (" A", 0.3), ("B", 0.2), ("The", 0.1)];
        let read = from_logprobs(&[token("A", &top)]).expect("whole");
        assert!((read.logit - 3.0_f64.ln()).abs() < 1e-12);
        assert!((read.coverage - 0.8).abs() < 1e-12);
    }

    #[test]
    fn a_letter_that_is_not_shown_has_at_most_the_least_probability_shown() {
        let read = from_logprobs(&[token("B", &[("B", 0.99), ("b", 0.01)])]).expect("whole");
        assert!((read.logit - (0.01_f64 / 0.99).ln()).abs() < 1e-12);
    }

    #[test]
    fn the_verdict_is_read_where_it_stands() {
        let tokens = [
            token("Answer", &[("Answer", 0.9), ("A", 0.1)]),
            token(" B", &[(" B", 0.75), (" A", 0.25)]),
        ];
        let read = from_logprobs(&tokens).expect("whole");
        assert!((read.logit + 3.0_f64.ln()).abs() < 1e-12);
        // Without any, the first token says how far the judge is from a verdict.
        let read = from_logprobs(&tokens[..1]).expect("whole");
        assert!((read.coverage - 0.1).abs() < 1e-12);
        let read = from_logprobs(&[token("No", &[("No", 1.0)])]).expect("whole");
        assert_eq!(read, NO_VERDICT);
    }

    #[test]
    fn what_is_no_response_is_said() {
        for (body, expected) in [
            ("{\"choices\": [", "no JSON"),
            ("{}", "no choice"),
            ("{\"choices\": []}", "no choice"),
            ("{\"choices\": [{\"message\": {}}]}", "no text"),
            ("[1]", "no choice"),
        ] {
            let message = Answered::read(body).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
