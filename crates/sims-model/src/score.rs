//! Scores given tokens: the next token of many sequences, or a response token by token.
//!
//! Both run through a tree of shared prefixes, so a judge prompt's head, or the prompt of K responses, is computed once.

use std::collections::HashSet;
use std::ops::ControlFlow;

use candle_core::Tensor;

use crate::generate::select_rows;
use crate::prefix_tree::{PlannedBatch, PrefixTree, Sequence, Wanted};
use crate::softmax::{LogSumExp, log_sum_exp};
use crate::{Decoder, Hook, KvCache, ModelError, Result};

/// Most logits that are held at once.
const MAX_LOGITS: usize = 1 << 23;

/// How much may run at once; it changes speed and memory, never a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScoreLimits {
    /// Most rows of one forward pass.
    pub max_rows: usize,
}

impl Default for ScoreLimits {
    /// 1 024 rows.
    fn default() -> Self {
        Self { max_rows: 1024 }
    }
}

impl ScoreLimits {
    /// Halves the rows, after a pass of `rows` with `slots` KV slots found no memory.
    ///
    /// # Errors
    /// [`ModelError::OutOfMemory`] when a single row finds none.
    pub(crate) fn halve(&mut self, rows: usize, slots: usize, cause: &str) -> Result<()> {
        if rows <= 1 {
            let message = format!(
                "{cause}; the smallest batch tried has {rows} row and {slots} KV slots, which one sequence needs"
            );
            return Err(ModelError::OutOfMemory { message });
        }
        self.max_rows = self.max_rows.min(rows) / 2;
        Ok(())
    }
}

/// Tokens computed so far, handed to the callback after every forward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenCount {
    /// Tokens run through the model; each shared prefix counts once.
    pub computed: usize,
    /// Tokens that will have been run at the end.
    pub unique: usize,
    /// Tokens in all sequences together: what running them one by one would take.
    pub total: usize,
    /// How often memory ran out and the limits were halved.
    pub halvings: usize,
}

impl TokenCount {
    /// Adds another run's tokens.
    pub fn add(&mut self, other: Self) {
        self.computed += other.computed;
        self.unique += other.unique;
        self.total += other.total;
        self.halvings += other.halvings;
    }
}

/// The next-token logits of one sequence at the asked tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct NextToken {
    /// Logits of the asked tokens, in their order.
    pub logits: Vec<f32>,
    /// Log-sum-exp over the whole vocabulary: `logit − log_normaliser` is a log-probability.
    pub log_normaliser: f32,
}

/// What the model thinks of one given token.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TokenScore {
    /// Natural log-probability given all tokens before it.
    pub logprob: f32,
    /// Whether it is the most probable token; of several, the one with the lowest id.
    pub is_greedy: bool,
}

/// A sequence whose tail is to be scored.
#[derive(Debug, Clone, Copy)]
pub struct ScoreRequest<'a> {
    /// Prompt and response tokens.
    pub tokens: &'a [u32],
    /// Index of the first response token, at least 1.
    pub response_start: usize,
    /// First position that a hook may edit.
    pub edit_from: usize,
}

impl<'a> ScoreRequest<'a> {
    /// A request with the edit mask of generation: from the last prompt token on.
    pub fn new(tokens: &'a [u32], response_start: usize) -> Self {
        Self {
            tokens,
            response_start,
            edit_from: response_start.saturating_sub(1),
        }
    }
}

/// Returns, for every sequence, the logits of `token_ids` as its next token, and how many tokens that took.
///
/// Runs without a hook: this is how the frozen judge reads its verdict. When memory runs out, what is left runs on in
/// smaller batches.
///
/// # Errors
/// A sequence that is empty or longer than the model's context, a token id outside the vocabulary, logits without a
/// distribution, [`ModelError::OutOfMemory`] when a single sequence does not fit, or [`ModelError::Interrupted`] when
/// `progress` breaks.
pub fn next_token_logits<S: AsRef<[u32]>>(
    decoder: &Decoder,
    sequences: &[S],
    token_ids: &[u32],
    limits: &ScoreLimits,
    progress: &mut dyn FnMut(TokenCount) -> ControlFlow<()>,
) -> Result<(Vec<NextToken>, TokenCount)> {
    let vocab = decoder.config().vocab_size;
    if let Some(token) = token_ids.iter().find(|&&token| token as usize >= vocab) {
        return Err(ModelError::Setting {
            setting: "token ids",
            message: format!("{token} is outside the vocabulary of {vocab}"),
        });
    }
    let sequences: Vec<Sequence> = sequences
        .iter()
        .map(|tokens| Sequence {
            tokens: tokens.as_ref(),
            edit_from: usize::MAX,
        })
        .collect();
    let last = |(sequence, tokens): (usize, &Sequence)| Wanted {
        sequence,
        position: tokens.tokens.len().saturating_sub(1),
    };
    let wanted = sequences.iter().enumerate().map(last).collect();
    let mut scores = vec![None; sequences.len()];
    let count = score_rows(
        decoder,
        sequences,
        wanted,
        limits,
        None,
        progress,
        &mut |row, sums, wanted| {
            scores[wanted.sequence] = Some(NextToken {
                logits: token_ids.iter().map(|&token| row[token as usize]).collect(),
                log_normaliser: sums.log_normaliser() as f32,
            });
        },
    )?;
    Ok((all_scored(scores), count))
}

/// Returns the natural log-probability of every response token of every request, given all tokens before it.
///
/// Teacher-forced, with `hook` applied from each request's `edit_from` on: with the default mask these are the
/// log-probabilities that generation saw.
///
/// # Errors
/// As [`next_token_logits`]; also a `response_start` of 0 or beyond the tokens, and whatever the hook returns.
pub fn response_logprobs(
    decoder: &Decoder,
    requests: &[ScoreRequest<'_>],
    limits: &ScoreLimits,
    hook: Option<&mut dyn Hook>,
    progress: &mut dyn FnMut(TokenCount) -> ControlFlow<()>,
) -> Result<(Vec<Vec<f32>>, TokenCount)> {
    let sequences = requests.iter().map(|request| request.tokens).collect();
    score_responses(
        decoder,
        requests,
        sequences,
        limits,
        hook,
        progress,
        &|row, sums, token| sums.log_probability(row[token]) as f32,
    )
}

/// Returns the score of every response token of every request, given all tokens before it.
///
/// As [`response_logprobs`]; but a request may have one token more than fits the context, because its last one is not
/// run: nothing after it is predicted.
///
/// # Errors
/// As [`response_logprobs`].
pub fn response_scores(
    decoder: &Decoder,
    requests: &[ScoreRequest<'_>],
    limits: &ScoreLimits,
    hook: Option<&mut dyn Hook>,
    progress: &mut dyn FnMut(TokenCount) -> ControlFlow<()>,
) -> Result<(Vec<Vec<TokenScore>>, TokenCount)> {
    let sequences = requests
        .iter()
        .map(|request| match request.tokens {
            [head @ .., _] if !head.is_empty() => head,
            tokens => tokens,
        })
        .collect();
    score_responses(
        decoder,
        requests,
        sequences,
        limits,
        hook,
        progress,
        &|row, sums, token| TokenScore {
            logprob: sums.log_probability(row[token]) as f32,
            is_greedy: row[token] == sums.max && !row[..token].contains(&sums.max),
        },
    )
}

/// Runs `sequences`, each the beginning of its request up to the last predictive position or further, and returns what
/// `read` makes of each response token's row of logits.
fn score_responses<T: Clone + Default>(
    decoder: &Decoder,
    requests: &[ScoreRequest<'_>],
    sequences: Vec<&[u32]>,
    limits: &ScoreLimits,
    hook: Option<&mut dyn Hook>,
    progress: &mut dyn FnMut(TokenCount) -> ControlFlow<()>,
    read: &dyn Fn(&[f32], LogSumExp, usize) -> T,
) -> Result<(Vec<Vec<T>>, TokenCount)> {
    check_requests(requests, decoder.config().vocab_size)?;
    let sequences = requests
        .iter()
        .zip(sequences)
        .map(|(request, tokens)| Sequence {
            tokens,
            edit_from: request.edit_from,
        })
        .collect();
    // The row at position p predicts the token at p + 1.
    let wanted = requests.iter().enumerate().flat_map(|(sequence, request)| {
        let predictive = request.response_start - 1..request.tokens.len() - 1;
        predictive.map(move |position| Wanted { sequence, position })
    });
    let wanted = wanted.collect();
    let mut scores: Vec<Vec<T>> = requests
        .iter()
        .map(|request| vec![T::default(); request.tokens.len() - request.response_start])
        .collect();
    let count = score_rows(
        decoder,
        sequences,
        wanted,
        limits,
        hook,
        progress,
        &mut |row, sums, wanted| {
            let request = &requests[wanted.sequence];
            let token = request.tokens[wanted.position + 1] as usize;
            let index = wanted.position + 1 - request.response_start;
            scores[wanted.sequence][index] = read(row, sums, token);
        },
    )?;
    Ok((scores, count))
}

/// Checks that every response starts within its request, and that every token exists.
fn check_requests(requests: &[ScoreRequest<'_>], vocab: usize) -> Result<()> {
    for (index, request) in requests.iter().enumerate() {
        let tokens = request.tokens.len();
        if request.response_start == 0 || request.response_start > tokens {
            return Err(ModelError::Setting {
                setting: "response_start",
                message: format!(
                    "{} of sequence {index} is not within 1..={tokens}",
                    request.response_start
                ),
            });
        }
        if let Some(token) = request
            .tokens
            .iter()
            .find(|&&token| token as usize >= vocab)
        {
            return Err(ModelError::Setting {
                setting: "token ids",
                message: format!(
                    "{token} of sequence {index} is outside the vocabulary of {vocab}"
                ),
            });
        }
    }
    Ok(())
}

/// Runs the sequences and hands `take` the logits row and its sums for every wanted position.
///
/// When memory runs out, the sequences whose results are not all taken run again, in batches half as large.
fn score_rows(
    decoder: &Decoder,
    sequences: Vec<Sequence<'_>>,
    mut wanted: Vec<Wanted>,
    limits: &ScoreLimits,
    mut hook: Option<&mut dyn Hook>,
    progress: &mut dyn FnMut(TokenCount) -> ControlFlow<()>,
    take: &mut dyn FnMut(&[f32], LogSumExp, Wanted),
) -> Result<TokenCount> {
    let context = decoder.config().max_position_embeddings;
    let mut limits = *limits;
    let mut count = TokenCount {
        total: sequences.iter().map(|sequence| sequence.tokens.len()).sum(),
        ..TokenCount::default()
    };
    // The sequences that run, by their index among all.
    let mut left: Vec<usize> = (0..sequences.len()).collect();
    loop {
        let running = left.iter().map(|&index| sequences[index]).collect();
        let place = |entry: &Wanted| Wanted {
            // `left` is ascending and has every sequence of which something is wanted.
            sequence: left.partition_point(|&index| index < entry.sequence),
            ..*entry
        };
        let tree = PrefixTree::new(running, wanted.iter().map(place), limits.max_rows, context)?;
        count.unique = count.computed + tree.unique_tokens();
        let mut cache = KvCache::new(decoder, tree.slots());
        let mut rows = 0;
        let mut taken = HashSet::new();
        let run = tree.for_each_batch(&mut |mut planned| {
            for (_, entry) in &mut planned.wanted {
                entry.sequence = left[entry.sequence];
            }
            rows = planned.batch.tokens.len();
            let borrowed = hook.as_mut().map(|hook| &mut **hook as &mut dyn Hook);
            let hidden = decoder.forward(&planned.batch, &mut cache, borrowed)?;
            read_logits(decoder, &hidden, &planned, &mut |row, sums, entry| {
                taken.insert(entry);
                take(row, sums, entry);
            })?;
            count.computed += rows;
            if progress(count).is_break() {
                Err(ModelError::Interrupted)
            } else {
                Ok(())
            }
        });
        match run {
            Ok(()) => return Ok(count),
            Err(ModelError::OutOfMemory { message }) => {
                limits.halve(rows, cache.slots(), &message)?;
                count.halvings += 1;
            }
            Err(error) => return Err(error),
        }
        wanted.retain(|entry| !taken.contains(entry));
        left = wanted.iter().map(|entry| entry.sequence).collect();
        left.sort_unstable();
        left.dedup();
    }
}

/// Computes the logits of a batch's wanted rows, a bounded number at a time.
fn read_logits(
    decoder: &Decoder,
    hidden: &Tensor,
    planned: &PlannedBatch,
    take: &mut dyn FnMut(&[f32], LogSumExp, Wanted),
) -> Result<()> {
    let vocab = decoder.config().vocab_size;
    // A row that several sequences want is listed once for each, one after another.
    let same_row = |a: &(usize, Wanted), b: &(usize, Wanted)| a.0 == b.0;
    let rows: Vec<&[(usize, Wanted)]> = planned.wanted.chunk_by(same_row).collect();
    for rows in rows.chunks((MAX_LOGITS / vocab).max(1)) {
        let indices: Vec<usize> = rows.iter().map(|wanted| wanted[0].0).collect();
        let logits = decoder.logits(&select_rows(hidden, &indices)?)?;
        let logits = logits.flatten_all()?.to_vec1::<f32>()?;
        for (&wanted, row) in rows.iter().zip(logits.chunks(vocab)) {
            let sums = log_sum_exp(row).map_err(|source| ModelError::Scoring {
                sequence: wanted[0].1.sequence,
                position: wanted[0].1.position,
                source,
            })?;
            wanted.iter().for_each(|&(_, entry)| take(row, sums, entry));
        }
    }
    Ok(())
}

/// Unwraps the scores of a finished run.
fn all_scored(scores: Vec<Option<NextToken>>) -> Vec<NextToken> {
    scores
        .into_iter()
        .map(|score| score.expect("every sequence's last position is wanted"))
        .collect()
}
