//! Decides which rows run next: prompt rows of admitted prompts and one row of every unfinished response.
//!
//! A *group* is one distinct prompt with all samples wanted of it, from however many requests. Its life: waiting →
//! admitted (slots for the prompt and for one response taken together, so that at least one sample can always run
//! to its end and nothing deadlocks) → prefilled (logits of the last prompt row kept) → all samples started → all
//! finished (prompt slots given back).
//!
//! A prefix that all prompts share is computed once, first, and stays in the lowest slots. It never reaches a
//! prompt's last token, so no shared position is one that a hook may edit.

use std::collections::HashMap;
use std::ops::Range;

use rayon::prelude::*;

use super::{BatchLimits, FinishReason, Generation, Progress, Request, SampleKey, SamplingParams};
use crate::prefix_tree::append_range;
use crate::sampler::{Choice, Sampler, SeenTokens};
use crate::slots::SlotAllocator;
use crate::{Batch, ModelError, Result};

/// A shared prefix shorter than this is not worth a second context range.
const MIN_SHARED_PREFIX: usize = 16;

/// Below this many logits a step chooses its tokens on one thread.
const PARALLEL_LOGITS: usize = 1 << 17;

/// One forward pass and what to do with its result.
pub(super) struct Step {
    /// The rows to run.
    pub(super) batch: Batch,
    /// Rows whose logits are wanted: one a running response, in order, then the last row of each finished prompt.
    pub(super) logit_rows: Vec<usize>,
    /// Groups whose prompt is complete with this pass, in the order of their logit rows.
    prefilled: Vec<usize>,
    /// Prompt rows in the batch.
    prompt_rows: usize,
}

/// A sample wanted: where its result goes and what draws its tokens.
#[derive(Clone, Copy)]
struct Sample {
    request: usize,
    index: usize,
    key: SampleKey,
}

/// One distinct prompt and its samples.
struct Group<'a> {
    prompt: &'a [u32],
    /// Samples not started yet, last first.
    pending: Vec<Sample>,
    /// Samples decoding.
    running: usize,
    /// Slots of the prompt beyond the shared prefix.
    slots: Range<usize>,
    /// Slots taken in advance for the first response.
    reserved: Option<Range<usize>>,
    /// Prompt positions computed, the shared prefix included.
    computed: usize,
    /// Logits of the last prompt row, `[vocab]`; kept until every sample has started.
    logits: Option<Vec<f32>>,
}

/// A response that is being decoded.
struct Running {
    group: usize,
    sample: Sample,
    /// Slots of its own tokens; the last sampled token has none yet.
    slots: Range<usize>,
    token_ids: Vec<u32>,
    logprob_sum: f64,
    seen: SeenTokens,
}

/// The state of a run.
pub(super) struct Scheduler<'a> {
    params: &'a SamplingParams,
    limits: BatchLimits,
    allocator: SlotAllocator,
    capacity: usize,
    /// The prefix that all prompts share, and how much of it is computed.
    prefix: &'a [u32],
    prefix_computed: usize,
    groups: Vec<Group<'a>>,
    /// The first group that waits; they are admitted in order.
    next_group: usize,
    /// Admitted groups with samples still to start, in order of admission.
    open: Vec<usize>,
    running: Vec<Running>,
    generations: Vec<Vec<Option<Generation>>>,
    progress: Progress,
}

impl<'a> Scheduler<'a> {
    /// Groups the requests and sizes the cache.
    pub(super) fn new(
        requests: &'a [Request],
        params: &'a SamplingParams,
        limits: &BatchLimits,
    ) -> Result<Self> {
        if limits.max_sequences == 0 || limits.max_prefill_rows == 0 {
            return Err(ModelError::Setting {
                setting: "batch limits",
                message: "at least one sequence and one prompt row must be allowed".into(),
            });
        }
        let groups = group_by_prompt(requests);
        let prefix = shared_prefix(&groups);
        let capacity = cache_slots(&groups, prefix.len(), params.max_new_tokens - 1, limits)?;
        let mut allocator = SlotAllocator::new(capacity);
        allocator.allocate(prefix.len());
        let samples = requests.iter().map(|request| request.samples.len());
        Ok(Self {
            params,
            limits: *limits,
            allocator,
            capacity,
            prefix,
            prefix_computed: 0,
            groups,
            next_group: 0,
            open: Vec::new(),
            running: Vec::new(),
            generations: samples.clone().map(|count| vec![None; count]).collect(),
            progress: Progress {
                total: samples.sum(),
                ..Progress::default()
            },
        })
    }

    /// Number of KV slots that the run needs.
    pub(super) fn slots(&self) -> usize {
        self.capacity
    }

    /// What has been done so far.
    pub(super) fn progress(&self) -> Progress {
        self.progress
    }

    /// The results; every sample must have finished.
    pub(super) fn into_generations(self) -> Vec<Vec<Generation>> {
        let complete = |generation: Option<Generation>| {
            generation.expect("the run ends when every sample has finished")
        };
        self.generations
            .into_iter()
            .map(|samples| samples.into_iter().map(complete).collect())
            .collect()
    }

    /// Lays out the next forward pass, or `None` when every sample has finished.
    pub(super) fn next_step(&mut self) -> Option<Step> {
        let mut step = Step {
            batch: Batch::default(),
            logit_rows: Vec::new(),
            prefilled: Vec::new(),
            prompt_rows: 0,
        };
        if self.groups.is_empty() {
            return None;
        }
        if self.prefix_computed < self.prefix.len() {
            self.add_prefix_rows(&mut step);
            return Some(step);
        }
        self.admit();
        for running in &self.running {
            self.add_decode_row(running, &mut step);
        }
        self.add_prompt_rows(&mut step);
        if step.batch.tokens.is_empty() {
            None
        } else {
            Some(step)
        }
    }

    /// Takes the logits of the step's `logit_rows` (`[rows, vocab]`, flat): extends the running responses, lets the
    /// finished ones go and starts what fits.
    pub(super) fn accept(
        &mut self,
        step: &Step,
        logits: &[f32],
        sampler: &mut Sampler,
    ) -> Result<()> {
        self.progress.prompt_tokens += step.prompt_rows;
        let vocab = logits.len() / step.logit_rows.len().max(1);
        let (decoded, prefilled) = logits.split_at(self.running.len() * vocab);
        let choices = self.choose(decoded, vocab, sampler)?;
        let responses = std::mem::take(&mut self.running);
        for (response, choice) in responses.into_iter().zip(choices) {
            self.extend(response, choice);
        }
        for (&group, row) in step.prefilled.iter().zip(prefilled.chunks(vocab.max(1))) {
            self.groups[group].logits = Some(row.to_vec());
        }
        self.start_samples(sampler)
    }

    /// Admits waiting groups while sequences and slots allow.
    fn admit(&mut self) {
        // A prefilled group that is still open is short of slots or sequences: those that wait come after it.
        if self
            .open
            .iter()
            .any(|&group| self.groups[group].logits.is_some())
        {
            return;
        }
        let pending = |&group: &usize| self.groups[group].pending.len();
        let mut committed = self.running.len() + self.open.iter().map(pending).sum::<usize>();
        while self.next_group < self.groups.len() && committed < self.limits.max_sequences {
            let prompt_slots = self.groups[self.next_group].prompt.len() - self.prefix.len();
            let Some(slots) = self.allocator.allocate(prompt_slots) else {
                break;
            };
            let Some(reserved) = self.allocator.allocate(self.params.max_new_tokens - 1) else {
                self.allocator.release(slots);
                break;
            };
            let group = &mut self.groups[self.next_group];
            group.slots = slots;
            group.reserved = Some(reserved);
            group.computed = self.prefix.len();
            committed += group.pending.len();
            self.open.push(self.next_group);
            self.next_group += 1;
        }
    }

    /// Adds the next piece of the shared prefix.
    fn add_prefix_rows(&mut self, step: &mut Step) {
        let start = self.prefix_computed;
        let end = self.prefix.len().min(start + self.limits.max_prefill_rows);
        step.batch.push(
            &self.prefix[start..end],
            context(std::slice::from_ref(&(0..start))),
            start,
            usize::MAX,
        );
        step.prompt_rows += end - start;
        self.prefix_computed = end;
    }

    /// Adds the row of a running response's last token.
    fn add_decode_row(&self, running: &Running, step: &mut Step) {
        let group = &self.groups[running.group];
        let written = running.token_ids.len() - 1;
        let next = running.slots.start + written;
        let attended = [
            0..self.prefix.len(),
            group.slots.clone(),
            running.slots.start..next,
        ];
        step.logit_rows.push(step.batch.tokens.len());
        step.batch.push(
            &running.token_ids[written..],
            context(&attended),
            next,
            group.prompt.len() - 1,
        );
    }

    /// Adds prompt rows of the admitted groups, up to the limit.
    fn add_prompt_rows(&mut self, step: &mut Step) {
        for &index in &self.open {
            let group = &mut self.groups[index];
            let room = self.limits.max_prefill_rows - step.prompt_rows;
            let rows = room.min(group.prompt.len() - group.computed);
            if rows == 0 {
                continue;
            }
            let next = group.slots.start + group.computed - self.prefix.len();
            let piece = &group.prompt[group.computed..group.computed + rows];
            let attended = [0..self.prefix.len(), group.slots.start..next];
            step.batch
                .push(piece, context(&attended), next, group.prompt.len() - 1);
            step.prompt_rows += rows;
            group.computed += rows;
            if group.computed == group.prompt.len() {
                step.logit_rows.push(step.batch.tokens.len() - 1);
                step.prefilled.push(index);
            }
        }
    }

    /// Chooses the next token of every running response from its row of logits.
    fn choose(&self, logits: &[f32], vocab: usize, sampler: &mut Sampler) -> Result<Vec<Choice>> {
        let choose = |sampler: &mut Sampler, (response, row): (&Running, &[f32])| {
            choose_token(
                sampler,
                row,
                &response.seen,
                response.sample,
                response.token_ids.len(),
            )
        };
        if logits.len() < PARALLEL_LOGITS {
            let rows = self.running.iter().zip(logits.chunks(vocab.max(1)));
            return rows.map(|row| choose(sampler, row)).collect();
        }
        let rows = self.running.par_iter().zip(logits.par_chunks(vocab));
        rows.map_init(|| sampler.clone(), choose).collect()
    }

    /// Starts samples of the prefilled groups, in order, while sequences and slots allow.
    fn start_samples(&mut self, sampler: &mut Sampler) -> Result<()> {
        for index in std::mem::take(&mut self.open) {
            while self.groups[index].logits.is_some() && self.start_sample(index, sampler)? {}
            let group = &mut self.groups[index];
            if group.pending.is_empty() {
                group.logits = None;
                self.close_if_finished(index);
            } else {
                self.open.push(index);
            }
        }
        Ok(())
    }

    /// Starts one sample of a prefilled group; returns whether there was one and it fitted.
    fn start_sample(&mut self, index: usize, sampler: &mut Sampler) -> Result<bool> {
        let group = &mut self.groups[index];
        let (Some(logits), Some(&sample)) = (&group.logits, group.pending.last()) else {
            return Ok(false);
        };
        if self.running.len() >= self.limits.max_sequences {
            return Ok(false);
        }
        let own_slots = self.params.max_new_tokens - 1;
        let Some(slots) = group
            .reserved
            .take()
            .or_else(|| self.allocator.allocate(own_slots))
        else {
            return Ok(false);
        };
        let mut seen = SeenTokens::default();
        if self.params.has_repetition_penalty() {
            seen.extend(group.prompt);
        }
        let choice = choose_token(sampler, logits, &seen, sample, 0)?;
        group.pending.pop();
        group.running += 1;
        let token_ids = Vec::with_capacity(self.params.max_new_tokens.min(256));
        let response = Running {
            group: index,
            sample,
            slots,
            token_ids,
            logprob_sum: 0.0,
            seen,
        };
        self.extend(response, choice);
        Ok(true)
    }

    /// Adds the chosen token to a response, and keeps it running unless that ends it.
    fn extend(&mut self, mut response: Running, choice: Choice) {
        response.token_ids.push(choice.token);
        response.logprob_sum += choice.log_probability;
        self.progress.new_tokens += 1;
        let finish_reason = if self.params.stop_tokens.contains(&choice.token) {
            FinishReason::Stop
        } else if response.token_ids.len() == self.params.max_new_tokens {
            FinishReason::Length
        } else {
            if self.params.has_repetition_penalty() {
                response.seen.insert(choice.token);
            }
            self.running.push(response);
            return;
        };
        self.progress.finished += 1;
        self.allocator.release(response.slots);
        self.generations[response.sample.request][response.sample.index] = Some(Generation {
            token_ids: response.token_ids,
            finish_reason,
            logprob_sum: response.logprob_sum,
        });
        self.groups[response.group].running -= 1;
        self.close_if_finished(response.group);
    }

    /// Gives the prompt's slots back once no sample of the group needs them.
    fn close_if_finished(&mut self, index: usize) {
        let group = &mut self.groups[index];
        if group.running == 0 && group.pending.is_empty() {
            self.allocator.release(std::mem::take(&mut group.slots));
        }
    }
}

/// Chooses token number `step` of a sample's response.
fn choose_token(
    sampler: &mut Sampler,
    logits: &[f32],
    seen: &SeenTokens,
    sample: Sample,
    step: usize,
) -> Result<Choice> {
    let uniform = sample.key.uniform(step as u64);
    sampler
        .choose(logits, seen, uniform)
        .map_err(|source| ModelError::Sampling {
            request: sample.request,
            sample: sample.index,
            step,
            source,
        })
}

/// One group a distinct prompt, in the order of first appearance.
fn group_by_prompt(requests: &[Request]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut index_of: HashMap<&[u32], usize> = HashMap::new();
    for (request, Request { prompt, samples }) in requests.iter().enumerate() {
        if samples.is_empty() {
            continue;
        }
        let index = *index_of.entry(prompt).or_insert_with(|| {
            groups.push(Group {
                prompt,
                pending: Vec::new(),
                running: 0,
                slots: 0..0,
                reserved: None,
                computed: 0,
                logits: None,
            });
            groups.len() - 1
        });
        let wanted = samples.iter().enumerate();
        groups[index]
            .pending
            .extend(wanted.map(|(index, &key)| Sample {
                request,
                index,
                key,
            }));
    }
    for group in &mut groups {
        group.pending.reverse();
    }
    groups
}

/// The longest prefix of all prompts that reaches no prompt's last token; empty when it is not worth sharing.
fn shared_prefix<'a>(groups: &[Group<'a>]) -> &'a [u32] {
    let Some((first, rest)) = groups.split_first() else {
        return &[];
    };
    let mut length = first.prompt.len() - 1;
    for group in rest {
        let equal = first
            .prompt
            .iter()
            .zip(group.prompt)
            .take_while(|(a, b)| a == b)
            .count();
        length = length.min(equal).min(group.prompt.len() - 1);
    }
    if rest.is_empty() || length < MIN_SHARED_PREFIX {
        &[]
    } else {
        &first.prompt[..length]
    }
}

/// Number of slots to allocate: what the whole run could use, at most the limit.
fn cache_slots(
    groups: &[Group<'_>],
    prefix: usize,
    own_slots: usize,
    limits: &BatchLimits,
) -> Result<usize> {
    let prompt_slots = |group: &Group<'_>| group.prompt.len() - prefix;
    let longest = groups.iter().map(prompt_slots).max().unwrap_or(0);
    let needed = prefix + longest + own_slots;
    if needed > limits.max_slots {
        return Err(ModelError::Setting {
            setting: "max_slots",
            message: format!(
                "{} slots are too few: the longest prompt with its response needs {needed}",
                limits.max_slots
            ),
        });
    }
    // At most `max_sequences` responses and as many prompts are held, and one reservation more for each open group.
    let samples: usize = groups.iter().map(|group| group.pending.len()).sum();
    let responses = samples.min(limits.max_sequences);
    let mut prompts: Vec<usize> = groups.iter().map(prompt_slots).collect();
    prompts.sort_unstable_by(|a, b| b.cmp(a));
    let useful = prefix + prompts.iter().take(responses).sum::<usize>() + responses * own_slots;
    Ok(useful.clamp(needed, limits.max_slots))
}

/// The ranges as a segment's context.
fn context(ranges: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut context = Vec::with_capacity(ranges.len());
    ranges
        .iter()
        .for_each(|range| append_range(&mut context, range));
    context
}
