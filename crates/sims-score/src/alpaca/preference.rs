//! From the judge's log-probabilities to a preference.

/// The judge's name for the output shown first.
pub const FIRST: &str = "m";
/// The judge's name for the output shown second.
pub const SECOND: &str = "M";

/// Returns the preference, from 1 (the baseline's output) to 2 (the model's).
///
/// `top` are the likeliest tokens at the judge's only position with their log-probabilities. `switched`
/// tells that the model's output was shown first. None if neither name is among the tokens.
pub fn preference<'a>(
    top: impl IntoIterator<Item = (&'a str, f64)>,
    switched: bool,
) -> Option<f64> {
    let (mut first, mut second) = (0.0, 0.0);
    for (token, logprob) in top {
        match token {
            FIRST => first = logprob.exp(),
            SECOND => second = logprob.exp(),
            _ => {}
        }
    }
    let first = first / (first + second);
    let preference = if switched { 1.0 + first } else { 2.0 - first };
    preference.is_finite().then_some(preference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_names_count() {
        let tokens = [("m", -1.0), (" m", -0.1), ("M", -1.0), ("The", -0.2)];
        assert_eq!(preference(tokens, false), Some(1.5));
        assert_eq!(preference([("m", -3.0)], false), Some(1.0));
        assert_eq!(preference([("m", -3.0)], true), Some(2.0));
        assert_eq!(preference([("M", -3.0)], false), Some(2.0));
        assert_eq!(preference([("The", 0.0)], false), None);
    }
}
