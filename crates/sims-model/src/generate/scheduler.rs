//! Decides which rows run next: prompt rows of admitted prompts and one row of every unfinished response.
//!
//! A *group* is one distinct prompt with all samples wanted of it, from however many requests. Its life: waiting →
//! admitted (slots for the prompt taken) → prefilled (logits of the last prompt row kept) → all samples started → all
//! finished (prompt slots given back).
//!
//! Responses take blocks of slots as they grow. When none is free, the youngest gives its blocks up: the last group
//! without a running response goes back to waiting, or the last response stops, to resume from the tokens that it has
//! when there is room. Age is the order of groups and of the samples in them; samples start and resume in this
//! order, so the oldest response is never stopped. A cache has blocks for the longest prompt with its response, so the
//! oldest can always run to its end and nothing deadlocks.
//!
//! A prefix that all prompts share is computed once, first, and stays in the lowest slots. It never reaches a
//! prompt's last token, so no shared position is one that a hook may edit.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use rayon::prelude::*;

use super::outcome::Outcome;
use super::{BatchLimits, FinishReason, Generation, Progress, Request, SampleKey, SamplingParams};
use crate::sampler::{Choice, Sampler, SeenTokens};
use crate::slots::{SlotAllocator, SlotList};
use crate::softmax::LogitsError;
use crate::{Batch, ModelError, Result};

/// A shared prefix shorter than this is not worth a second context range.
const MIN_SHARED_PREFIX: usize = 16;

/// Below this many logits a step chooses its tokens on one thread.
const PARALLEL_LOGITS: usize = 1 << 17;

/// One forward pass and what to do with its result.
#[derive(Default)]
pub(super) struct Step {
    /// The rows to run.
    pub(super) batch: Batch,
    /// Rows whose logits are wanted: those of `decoded`, in order, then the last row of each of `prefilled`.
    pub(super) logit_rows: Vec<usize>,
    /// Running responses whose last token is in the batch.
    decoded: Vec<usize>,
    /// Groups whose prompt is complete with this pass.
    prefilled: Vec<usize>,
    /// Rows that `max_prefill_rows` bounds: of prompts and of responses that resume.
    prefill_rows: usize,
    /// Those of prompts.
    prompt_rows: usize,
    /// Rows of responses that ran before.
    repeated_rows: usize,
}

/// A sample wanted: where its result goes and what draws its tokens.
#[derive(Clone, Copy)]
struct Sample {
    request: usize,
    index: usize,
    key: SampleKey,
}

/// A sample that does not run, and what it has so far.
struct Pending {
    sample: Sample,
    /// None for a sample that was never started.
    response: Response,
}

/// The tokens of an unfinished response.
#[derive(Default)]
struct Response {
    token_ids: Vec<u32>,
    logprob_sum: f64,
    seen: SeenTokens,
}

/// One distinct prompt and its samples.
struct Group<'a> {
    prompt: &'a [u32],
    /// Samples to start or resume, last first.
    pending: Vec<Pending>,
    /// Samples decoding.
    running: usize,
    /// Slots of the prompt beyond the shared prefix.
    slots: SlotList,
    /// Slots behind the prompt in its last block, for one response.
    tail: Range<usize>,
    /// Prompt positions computed, the shared prefix included.
    computed: usize,
    /// Prompt positions that were computed at any time.
    counted: usize,
    /// Logits of the last prompt row, `[vocab]`; kept until every sample has started.
    logits: Option<Vec<f32>>,
}

/// A response that is being decoded.
struct Running {
    group: usize,
    sample: Sample,
    /// Slots of its own tokens.
    slots: SlotList,
    /// Its own tokens whose keys and values are in the cache; the last sampled one's never are.
    computed: usize,
    response: Response,
}

/// The state of a run.
pub(super) struct Scheduler<'a> {
    params: &'a SamplingParams,
    limits: BatchLimits,
    allocator: SlotAllocator,
    /// The prefix that all prompts share, its slots, and how much of it is computed and was at any time.
    prefix: &'a [u32],
    prefix_slots: SlotList,
    prefix_computed: usize,
    prefix_counted: usize,
    groups: Vec<Group<'a>>,
    /// Groups without slots, oldest first.
    waiting: VecDeque<usize>,
    /// Admitted groups with samples pending, oldest first.
    open: Vec<usize>,
    /// Oldest first.
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
        if limits.max_sequences == 0 || limits.max_prefill_rows == 0 || limits.slots_per_block == 0
        {
            return Err(ModelError::Setting {
                setting: "batch limits",
                message:
                    "at least one sequence, one prompt row and one slot a block must be allowed"
                        .into(),
            });
        }
        let mut groups = group_by_prompt(requests);
        let prefix = shared_prefix(&groups);
        for group in &mut groups {
            group.counted = prefix.len();
        }
        let samples = requests.iter().map(|request| request.samples.len());
        let mut scheduler = Self {
            params,
            limits: *limits,
            allocator: SlotAllocator::new(0, limits.slots_per_block),
            prefix,
            prefix_slots: SlotList::default(),
            prefix_computed: 0,
            prefix_counted: 0,
            waiting: (0..groups.len()).collect(),
            groups,
            open: Vec::new(),
            running: Vec::new(),
            generations: samples.clone().map(|count| vec![None; count]).collect(),
            progress: Progress {
                total: samples.sum(),
                ..Progress::default()
            },
        };
        scheduler.check_slots()?;
        scheduler.make_slots();
        Ok(scheduler)
    }

    /// Number of KV slots that the run needs.
    pub(super) fn slots(&self) -> usize {
        self.allocator.slots()
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
        let mut step = Step::default();
        if self.waiting.is_empty() && self.open.is_empty() && self.running.is_empty() {
            return None;
        }
        if self.prefix_computed < self.prefix.len() {
            self.add_prefix_rows(&mut step);
            return Some(step);
        }
        self.admit();
        let mut index = 0;
        while index < self.running.len() {
            if self.make_room(index) {
                self.add_response_rows(index, &mut step);
                index += 1;
            }
        }
        self.add_prompt_rows(&mut step);
        debug_assert!(
            !step.batch.tokens.is_empty(),
            "there is always a row to run"
        );
        Some(step)
    }

    /// Returns the uniform numbers that draw the next tokens of the step's running responses.
    pub(super) fn uniforms(&self, step: &Step) -> Vec<f64> {
        let running = step.decoded.iter().map(|&index| &self.running[index]);
        running
            .map(|running| {
                let drawn = running.response.token_ids.len() as u64;
                running.sample.key.uniform(drawn)
            })
            .collect()
    }

    /// Takes what the step's `logit_rows` came to: extends the running responses, lets the finished ones go and starts
    /// what fits.
    pub(super) fn accept(
        &mut self,
        step: &Step,
        outcome: Outcome,
        sampler: &mut Sampler,
    ) -> Result<()> {
        self.count_rows(step);
        let Outcome { chosen, logits } = outcome;
        let rows = step.logit_rows.len() - chosen.as_ref().map_or(0, Vec::len);
        let vocab = logits.len() / rows.max(1);
        let (choices, prefilled) = match chosen {
            Some(chosen) => (self.checked(&step.decoded, chosen)?, &logits[..]),
            None => {
                let (decoded, prefilled) = logits.split_at(step.decoded.len() * vocab);
                let choices = self.choose(&step.decoded, decoded, vocab, sampler)?;
                (choices, prefilled)
            }
        };
        let mut choices = step.decoded.iter().zip(choices).peekable();
        for (index, mut running) in std::mem::take(&mut self.running).into_iter().enumerate() {
            match choices.next_if(|(decoded, _)| **decoded == index) {
                Some((_, choice)) => {
                    running.computed += 1;
                    self.extend(running, choice);
                }
                None => self.running.push(running),
            }
        }
        for (&group, row) in step.prefilled.iter().zip(prefilled.chunks(vocab.max(1))) {
            self.groups[group].logits = Some(row.to_vec());
        }
        self.start_samples(sampler)
    }

    /// Answers a step that found no memory: halves the limits by what the step used of them, and takes all slots back.
    /// Finished responses and the tokens of the others are kept.
    ///
    /// The slots are halved too if memory for them was part of the step (`made_slots`), or nothing else is left.
    ///
    /// # Errors
    /// [`ModelError::OutOfMemory`] when a single sequence does not fit.
    pub(super) fn shrink(&mut self, step: &Step, made_slots: bool, cause: &str) -> Result<()> {
        let (rows, slots) = (step.batch.tokens.len(), self.slots());
        let size = |limits: &BatchLimits| (limits.max_sequences, limits.max_prefill_rows);
        let before = size(&self.limits);
        let half = |used: usize, limit: usize| match used {
            0 => limit,
            used => limit.min(used / 2).max(1),
        };
        self.limits.max_sequences = half(step.decoded.len(), before.0);
        self.limits.max_prefill_rows = half(step.prefill_rows, before.1);
        if made_slots || rows <= 1 {
            self.limits.max_slots = (slots / 2).max(self.needed_slots().1);
        }
        while self.stop_youngest() {}
        self.prefix_computed = 0;
        self.make_slots();
        if size(&self.limits) == before && self.slots() == slots {
            let message = format!(
                "{cause}; the smallest batch tried has {rows} row and {slots} KV slots, which one sequence needs"
            );
            return Err(ModelError::OutOfMemory { message });
        }
        self.progress.halvings += 1;
        Ok(())
    }

    /// Counts the rows of a step that has run.
    fn count_rows(&mut self, step: &Step) {
        let mut new_rows = self.prefix_computed.saturating_sub(self.prefix_counted);
        self.prefix_counted = self.prefix_counted.max(self.prefix_computed);
        for &index in &self.open {
            let group = &mut self.groups[index];
            new_rows += group.computed.saturating_sub(group.counted);
            group.counted = group.counted.max(group.computed);
        }
        self.progress.prompt_tokens += new_rows;
        self.progress.repeated_tokens += step.prompt_rows - new_rows + step.repeated_rows;
    }

    /// Admits waiting groups while sequences and slots allow.
    fn admit(&mut self) {
        // A prefilled group that is still open is short of slots or sequences: those that wait come after it.
        if self.open.iter().any(|&index| self.is_prefilled(index)) {
            return;
        }
        let pending = |&group: &usize| self.groups[group].pending.len();
        let mut committed = self.running.len() + self.open.iter().map(pending).sum::<usize>();
        while let Some(&index) = self.waiting.front()
            && committed < self.limits.max_sequences
        {
            let own_slots = self.params.max_new_tokens - 1;
            let group = &mut self.groups[index];
            let slots = group.prompt.len() - self.prefix.len();
            // Room for every unfinished response to grow by a block, lest it be stopped at once.
            let spare = if committed == 0 { 0 } else { committed + 1 };
            let blocks = self.allocator.blocks_of(slots);
            if blocks + spare > self.allocator.free_blocks()
                || !self
                    .allocator
                    .grow(&mut group.slots, slots, slots + own_slots)
            {
                break;
            }
            group.tail = group.slots.adjacent_from(slots);
            group.computed = self.prefix.len();
            committed += group.pending.len();
            self.open.push(index);
            self.waiting.pop_front();
        }
    }

    /// Adds the next piece of the shared prefix.
    fn add_prefix_rows(&mut self, step: &mut Step) {
        let start = self.prefix_computed;
        let end = self.prefix.len().min(start + self.limits.max_prefill_rows);
        let tokens = &self.prefix[start..end];
        push_rows(
            &mut step.batch,
            tokens,
            &[],
            (&self.prefix_slots, start),
            usize::MAX,
            self.prefix_counted.saturating_sub(start),
        );
        step.prefill_rows += end - start;
        step.prompt_rows += end - start;
        self.prefix_computed = end;
    }

    /// Makes room for the tokens of running response `index` that are not computed; returns whether it still runs.
    fn make_room(&mut self, index: usize) -> bool {
        let own_slots = self.params.max_new_tokens - 1;
        while let Some(running) = self.running.get_mut(index) {
            let needed = running.response.token_ids.len();
            if self.allocator.grow(&mut running.slots, needed, own_slots) {
                return true;
            }
            self.progress.preemptions += 1;
            self.stop_youngest();
        }
        false
    }

    /// Takes the slots of the youngest: of the last admitted group, if it has no running response, or of its last
    /// response. Returns whether there was one.
    fn stop_youngest(&mut self) -> bool {
        let idle = |&index: &usize| self.groups[index].running == 0;
        if let Some(index) = self.open.pop_if(|index| idle(index)) {
            let group = &mut self.groups[index];
            self.allocator.release(std::mem::take(&mut group.slots));
            (group.computed, group.tail, group.logits) = (0, 0..0, None);
            self.waiting.push_front(index);
            return true;
        }
        let Some(running) = self.running.pop() else {
            return false;
        };
        let Running {
            group: index,
            sample,
            slots,
            response,
            ..
        } = running;
        self.take_back(index, slots);
        let group = &mut self.groups[index];
        group.running -= 1;
        group.pending.push(Pending { sample, response });
        if self.open.last() != Some(&index) {
            self.open.push(index);
        }
        true
    }

    /// Gives a response's slots back to the allocator, and what its prompt lent it to the group.
    fn take_back(&mut self, index: usize, slots: SlotList) {
        let lent = slots.lent_slots();
        if !lent.is_empty() {
            self.groups[index].tail = lent;
        }
        self.allocator.release(slots);
    }

    /// Adds the rows of a running response's tokens that are not computed: the last, and those before it if it was
    /// stopped.
    fn add_response_rows(&mut self, index: usize, step: &mut Step) {
        let running = &mut self.running[index];
        let group = &self.groups[running.group];
        let tokens = &running.response.token_ids;
        let repeated = tokens.len() - 1 - running.computed;
        let room = self.limits.max_prefill_rows - step.prefill_rows;
        let mut context = Vec::new();
        self.prefix_slots.append_to(&mut context, self.prefix.len());
        group
            .slots
            .append_to(&mut context, group.prompt.len() - self.prefix.len());
        let last_prompt = group.prompt.len() - 1;
        let mut add = |tokens: &[u32], from: usize, repeated: usize| {
            push_rows(
                &mut step.batch,
                tokens,
                &context,
                (&running.slots, from),
                last_prompt,
                repeated,
            );
        };
        if repeated > 0 {
            let end = running.computed + repeated.min(room);
            add(&tokens[running.computed..end], running.computed, repeated);
            step.prefill_rows += end - running.computed;
            step.repeated_rows += end - running.computed;
            running.computed = end;
            // The last row is one more of a piece.
            if repeated >= room {
                return;
            }
            step.prefill_rows += 1;
        }
        if running.computed + 1 == tokens.len() {
            add(&tokens[running.computed..], running.computed, 0);
            step.logit_rows.push(step.batch.tokens.len() - 1);
            step.decoded.push(index);
        }
    }

    /// Adds prompt rows of the admitted groups, up to the limit.
    fn add_prompt_rows(&mut self, step: &mut Step) {
        for &index in &self.open {
            let group = &mut self.groups[index];
            let room = self.limits.max_prefill_rows - step.prefill_rows;
            let rows = room.min(group.prompt.len() - group.computed);
            if rows == 0 {
                continue;
            }
            let piece = &group.prompt[group.computed..group.computed + rows];
            let mut context = Vec::new();
            self.prefix_slots.append_to(&mut context, self.prefix.len());
            push_rows(
                &mut step.batch,
                piece,
                &context,
                (&group.slots, group.computed - self.prefix.len()),
                group.prompt.len() - 1,
                group.counted.saturating_sub(group.computed),
            );
            step.prefill_rows += rows;
            step.prompt_rows += rows;
            group.computed += rows;
            if group.computed == group.prompt.len() {
                step.logit_rows.push(step.batch.tokens.len() - 1);
                step.prefilled.push(index);
            }
        }
    }

    /// Returns the tokens that the device chose for the running responses `decoded`, or names the first that it could
    /// not.
    fn checked(
        &self,
        decoded: &[usize],
        chosen: Vec<std::result::Result<Choice, LogitsError>>,
    ) -> Result<Vec<Choice>> {
        let of_running = decoded.iter().map(|&index| &self.running[index]);
        of_running
            .zip(chosen)
            .map(|(running, choice)| {
                choice.map_err(|source| ModelError::Sampling {
                    request: running.sample.request,
                    sample: running.sample.index,
                    step: running.response.token_ids.len(),
                    source,
                })
            })
            .collect()
    }

    /// Chooses the next token of the running responses `decoded` from their rows of logits.
    fn choose(
        &self,
        decoded: &[usize],
        logits: &[f32],
        vocab: usize,
        sampler: &mut Sampler,
    ) -> Result<Vec<Choice>> {
        let choose = |sampler: &mut Sampler, (&index, row): (&usize, &[f32])| {
            let Running {
                sample, response, ..
            } = &self.running[index];
            choose_token(
                sampler,
                row,
                &response.seen,
                *sample,
                response.token_ids.len(),
            )
        };
        if logits.len() < PARALLEL_LOGITS {
            let rows = decoded.iter().zip(logits.chunks(vocab.max(1)));
            return rows.map(|row| choose(sampler, row)).collect();
        }
        let rows = decoded.par_iter().zip(logits.par_chunks(vocab));
        rows.map_init(|| sampler.clone(), choose).collect()
    }

    /// Starts samples of the prefilled groups, strictly in order, while sequences and slots allow.
    fn start_samples(&mut self, sampler: &mut Sampler) -> Result<()> {
        let open = std::mem::take(&mut self.open);
        let mut is_full = false;
        for index in open {
            while !is_full && self.is_prefilled(index) {
                let Some(pending) = self.groups[index].pending.pop() else {
                    break;
                };
                if self.has_room_for(index, &pending) {
                    self.start_sample(index, pending, sampler)?;
                } else {
                    self.groups[index].pending.push(pending);
                    is_full = true;
                }
            }
            is_full |= !self.is_prefilled(index);
            if self.groups[index].pending.is_empty() {
                self.groups[index].logits = None;
                self.close_if_finished(index);
            } else {
                self.open.push(index);
            }
        }
        Ok(())
    }

    /// Returns whether a sample may start or resume now.
    fn has_room_for(&self, index: usize, pending: &Pending) -> bool {
        if self.running.is_empty() {
            return true;
        }
        if self.running.len() >= self.limits.max_sequences {
            return false;
        }
        // Every response that runs may grow by a block before another joins, lest that be stopped at once.
        let own_slots = self.params.max_new_tokens - 1;
        let needed = (pending.response.token_ids.len() + 1).min(own_slots);
        let lent = self.groups[index].tail.len();
        let blocks = self.allocator.blocks_of(needed.saturating_sub(lent));
        blocks == 0 || blocks + self.running.len() <= self.allocator.free_blocks()
    }

    /// Starts or resumes a sample of a prefilled group.
    fn start_sample(
        &mut self,
        index: usize,
        pending: Pending,
        sampler: &mut Sampler,
    ) -> Result<()> {
        let Pending { sample, response } = pending;
        let group = &mut self.groups[index];
        group.running += 1;
        let mut running = Running {
            group: index,
            sample,
            slots: SlotList::lent(std::mem::take(&mut group.tail)),
            computed: 0,
            response,
        };
        if !running.response.token_ids.is_empty() {
            self.running.push(running);
            return Ok(());
        }
        let seen = &mut running.response.seen;
        if self.params.has_repetition_penalty() {
            seen.extend(group.prompt);
        }
        let logits = group.logits.as_deref().unwrap_or_default();
        let choice = choose_token(sampler, logits, seen, sample, 0)?;
        self.extend(running, choice);
        Ok(())
    }

    /// Adds the chosen token to a response, and keeps it running unless that ends it.
    fn extend(&mut self, mut running: Running, choice: Choice) {
        let response = &mut running.response;
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
            self.running.push(running);
            return;
        };
        self.progress.finished += 1;
        let Running {
            group,
            sample,
            slots,
            response,
            ..
        } = running;
        self.take_back(group, slots);
        self.generations[sample.request][sample.index] = Some(Generation {
            token_ids: response.token_ids,
            finish_reason,
            logprob_sum: response.logprob_sum,
        });
        self.groups[group].running -= 1;
        self.close_if_finished(group);
    }

    /// Gives the prompt's slots back once no sample of the group needs them.
    fn close_if_finished(&mut self, index: usize) {
        let group = &mut self.groups[index];
        if group.running == 0 && group.pending.is_empty() {
            self.allocator.release(std::mem::take(&mut group.slots));
        }
    }

    /// Returns whether the prompt of an admitted group is computed.
    fn is_prefilled(&self, index: usize) -> bool {
        self.groups[index].computed == self.groups[index].prompt.len()
    }

    /// Refuses a limit of slots that the longest prompt with its response goes beyond.
    fn check_slots(&self) -> Result<()> {
        let (_, needed) = self.needed_slots();
        if needed > self.limits.max_slots {
            return Err(ModelError::Setting {
                setting: "max_slots",
                message: format!(
                    "{} slots are too few: the longest prompt with its response needs {needed}",
                    self.limits.max_slots
                ),
            });
        }
        Ok(())
    }

    /// Returns the slots that the longest prompt with its response needs, in whole blocks and without.
    fn needed_slots(&self) -> (usize, usize) {
        let prompt_slots = |group: &Group<'_>| group.prompt.len() - self.prefix.len();
        let longest = self.groups.iter().map(prompt_slots).max().unwrap_or(0);
        let parts = [self.prefix.len(), longest, self.params.max_new_tokens - 1];
        let blocks: usize = parts
            .iter()
            .map(|&slots| self.allocator.blocks_of(slots))
            .sum();
        (blocks * self.limits.slots_per_block, parts.iter().sum())
    }

    /// Makes all slots anew, as many as the whole run could use and at most the limit, and takes those of the prefix.
    fn make_slots(&mut self) {
        let blocks_of = |slots| self.allocator.blocks_of(slots);
        let size = self.limits.slots_per_block;
        // At most `max_sequences` responses are held, and as many prompts.
        let samples: usize = self.groups.iter().map(|group| group.pending.len()).sum();
        let responses = samples.min(self.limits.max_sequences);
        let prompt_blocks = |group: &Group<'_>| blocks_of(group.prompt.len() - self.prefix.len());
        let mut prompts: Vec<usize> = self.groups.iter().map(prompt_blocks).collect();
        prompts.sort_unstable_by(|a, b| b.cmp(a));
        // One block more than each can use, so that none waits for another to grow.
        let response = blocks_of(self.params.max_new_tokens - 1) + 1;
        let useful = blocks_of(self.prefix.len())
            + prompts.iter().take(responses).sum::<usize>()
            + responses.saturating_mul(response);
        let needed = self.needed_slots().0 / size;
        let blocks = useful.min(self.limits.max_slots / size).max(needed);
        self.allocator = SlotAllocator::new(blocks, size);
        self.prefix_slots = SlotList::default();
        let prefix = self.prefix.len();
        let fits = self.allocator.grow(&mut self.prefix_slots, prefix, prefix);
        debug_assert!(fits, "the prefix is among the slots needed");
    }
}

/// Appends rows of a sequence to a batch, a segment for each run of adjacent slots.
///
/// `context` holds what precedes the list's first position; the rows go to `slots` from the position given with it.
/// The first `repeated` rows ran before.
fn push_rows(
    batch: &mut Batch,
    mut tokens: &[u32],
    context: &[Range<usize>],
    (slots, mut from): (&SlotList, usize),
    edit_from: usize,
    mut repeated: usize,
) {
    while !tokens.is_empty() {
        let place = slots.adjacent_from(from);
        assert!(!place.is_empty(), "the list was grown to hold the tokens");
        let is_repeated = repeated > 0;
        let most = if is_repeated { repeated } else { usize::MAX };
        let (piece, rest) = tokens.split_at(place.len().min(tokens.len()).min(most));
        let mut attended = context.to_vec();
        slots.append_to(&mut attended, from);
        batch.push(piece, attended, place.start, edit_from);
        if let Some(segment) = batch.segments.last_mut() {
            segment.is_repeated = is_repeated;
        }
        repeated = repeated.saturating_sub(piece.len());
        from += piece.len();
        tokens = rest;
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
                slots: SlotList::default(),
                tail: 0..0,
                computed: 0,
                counted: 0,
                logits: None,
            });
            groups.len() - 1
        });
        let wanted = samples.iter().enumerate();
        groups[index]
            .pending
            .extend(wanted.map(|(index, &key)| Pending {
                sample: Sample {
                    request,
                    index,
                    key,
                },
                response: Response::default(),
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
