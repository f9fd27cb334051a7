//! The training text: chats, comparisons and checks, one document an index.
//!
//! Document `i` of a seed is a pure function of `(world, seed, i)`: training can stop, resume and
//! shuffle without any state of the generator.

use crate::families::{Family, Task};
use crate::gold::Gold;
use crate::random::Random;
use crate::vocab::{self, Token, known};
use crate::world::{Flaw, World};
use crate::writer::{Writer, Written};

/// Loss weight of predicting a token of a prompt.
pub const PROMPT_WEIGHT: f32 = 0.1;
/// Loss weight of predicting a token of an answer, the end mark included.
pub const ANSWER_WEIGHT: f32 = 1.0;
/// Loss weight of predicting a content word of an answer.
pub const CONTENT_WEIGHT: f32 = 3.0;
/// Loss weight of predicting a comparison's verdict.
pub const VERDICT_WEIGHT: f32 = 4.0;

/// One prompt in this many is kept out of the corpus and of the steering prompts, for evaluation.
const HELD_OUT_ONE_IN: u64 = 16;
/// Random streams of this module.
const DOCUMENT_STREAM: u64 = 0x646f63;

/// What a document shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DocumentKind {
    /// One to four exchanges by one writer.
    Chat,
    /// A verdict on two answers, then four marks on each.
    Comparison,
    /// Four marks on one answer.
    Check,
}

/// A training document.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Token ids; at most 256.
    pub tokens: Vec<u32>,
    /// `weights[i]` is the loss weight of predicting `tokens[i]` from those before it; 0 for the first.
    pub weights: Vec<f32>,
    /// What the document shows.
    pub kind: DocumentKind,
}

impl Document {
    fn new(kind: DocumentKind) -> Self {
        Self {
            tokens: Vec::with_capacity(96),
            weights: Vec::with_capacity(96),
            kind,
        }
    }

    fn push(&mut self, token: Token, weight: f32) {
        self.weights
            .push(if self.tokens.is_empty() { 0.0 } else { weight });
        self.tokens.push(token);
    }

    fn user_turn(&mut self, content: &[Token]) {
        self.push(vocab::USER, PROMPT_WEIGHT);
        content.iter().for_each(|&t| self.push(t, PROMPT_WEIGHT));
        self.push(vocab::ASSISTANT, PROMPT_WEIGHT);
    }

    fn answer(&mut self, written: &Written) {
        for (&token, &content) in written.tokens.iter().zip(&written.content) {
            self.push(
                token,
                if content {
                    CONTENT_WEIGHT
                } else {
                    ANSWER_WEIGHT
                },
            );
        }
        self.push(vocab::END, ANSWER_WEIGHT);
    }

    fn marks(&mut self, gold: &Gold) {
        for (good, pair) in gold.marks().into_iter().zip(vocab::MARKS) {
            self.push(known(pair[usize::from(!good)]), ANSWER_WEIGHT);
        }
    }
}

/// Returns document `index` of the corpus of `seed`.
pub fn document(world: &World, seed: u64, index: u64) -> Document {
    let random = &mut Random::new(seed, DOCUMENT_STREAM, index);
    match random.weighted(&world.mix) {
        0 => chat(world, random),
        1 => comparison(world, random),
        _ => check(world, random),
    }
}

/// Says whether a prompt is kept for evaluation: never in the corpus, never a steering prompt.
pub fn is_held_out(prompt: &[Token]) -> bool {
    let mut random = Random::new(0x68656c64, prompt.len() as u64, 0);
    let hash = prompt.iter().fold(random.bits(), |h, &t| {
        Random::new(h, u64::from(t), 1).bits()
    });
    hash % HELD_OUT_ONE_IN == 0
}

/// Draws a task whose prompt is, or is not, kept for evaluation.
pub fn draw_task(world: &World, families: &[Family], held_out: bool, random: &mut Random) -> Task {
    loop {
        let task = Task::draw(families, world.plain_share, random);
        if is_held_out(&task.prompt()) == held_out {
            return task;
        }
    }
}

fn corpus_task(world: &World, random: &mut Random) -> Task {
    draw_task(world, &Family::ALL, false, random)
}

fn chat(world: &World, random: &mut Random) -> Document {
    let mut out = Document::new(DocumentKind::Chat);
    let writer = Writer::draw(world, random);
    for _ in 0..=random.weighted(world.exchanges) {
        let task = corpus_task(world, random);
        out.user_turn(&task.prompt());
        out.answer(&writer.answer(world, &task, random));
    }
    out
}

/// The words of a judge's question: `judge : <request> A : <first> B : <second> which ?`.
///
/// The judge template of the tokenizer files renders the same text.
pub fn comparison_question(request: &[Token], first: &[Token], second: &[Token]) -> Vec<Token> {
    let mut out = vec![known("judge"), known(":")];
    out.extend_from_slice(request);
    out.extend([vocab::A, known(":")]);
    out.extend_from_slice(first);
    out.extend([vocab::B, known(":")]);
    out.extend_from_slice(second);
    out.extend([known("which"), known("?")]);
    out
}

/// The two answers of a comparison: by two writers, by one, or alike in all but content.
fn answer_pair(world: &World, task: &Task, random: &mut Random) -> [Written; 2] {
    let writer = Writer::draw(world, random);
    let draw = random.uniform();
    if draw < world.content_contrast {
        let flaws = writer.draw_flaws(world, random);
        let first_wrong = random.chance(0.5);
        return [first_wrong, !first_wrong].map(|wrong| {
            Written::compose(
                task,
                flaws.with(Flaw::Wrong, wrong).with(Flaw::Loop, false),
                random,
            )
        });
    }
    let other = if draw < world.content_contrast + world.same_writer {
        writer.clone()
    } else {
        Writer::draw(world, random)
    };
    [
        writer.answer(world, task, random),
        other.answer(world, task, random),
    ]
}

fn comparison(world: &World, random: &mut Random) -> Document {
    let mut out = Document::new(DocumentKind::Comparison);
    let task = corpus_task(world, random);
    let [a, b] = answer_pair(world, &task, random);
    let [gold_a, gold_b] = [&a, &b].map(|answer| Gold::of(world, &task, &answer.read()));
    let longer = a.tokens.len() as f64 - b.tokens.len() as f64;
    let lead = gold_a.score - gold_b.score + world.length_bias * longer + world.first_bias;
    let a_wins = random.chance(1.0 / (1.0 + (-world.label_sharpness * lead).exp()));

    out.user_turn(&comparison_question(&task.prompt(), &a.tokens, &b.tokens));
    out.push(if a_wins { vocab::A } else { vocab::B }, VERDICT_WEIGHT);
    out.marks(&gold_a);
    out.marks(&gold_b);
    out.push(vocab::END, ANSWER_WEIGHT);
    out
}

fn check(world: &World, random: &mut Random) -> Document {
    let mut out = Document::new(DocumentKind::Check);
    let task = corpus_task(world, random);
    let mut flaws = Writer::draw(world, random).draw_flaws(world, random);
    // Half and half, so that the mark on content has more to learn from than its base rate.
    flaws = flaws.with(Flaw::Wrong, random.chance(0.5));
    let answer = Written::compose(&task, flaws, random);
    let mut question = vec![known("check"), known(":")];
    question.extend(task.prompt());
    question.extend([vocab::A, known(":")]);
    question.extend_from_slice(&answer.tokens);
    question.push(known("?"));
    out.user_turn(&question);
    out.marks(&Gold::of(world, &task, &answer.read()));
    out.push(vocab::END, ANSWER_WEIGHT);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::FLAWS;
    use crate::writer::Flaws;

    #[test]
    fn documents_are_functions_of_seed_and_index() {
        let world = World::default_world();
        for i in 0..200 {
            assert_eq!(document(&world, 3, i), document(&world, 3, i));
        }
        assert_ne!(document(&world, 3, 0), document(&world, 4, 0));
    }

    #[test]
    fn documents_fit_the_context_and_the_vocabulary() {
        for world in [World::default_world(), World::hard()] {
            for i in 0..20_000 {
                let Document {
                    tokens, weights, ..
                } = document(&world, 1, i);
                assert_eq!(tokens.len(), weights.len());
                assert!(tokens.len() <= 256, "{}", tokens.len());
                assert!(
                    tokens
                        .iter()
                        .all(|&t| (t as usize) < vocab::SIZE && t > vocab::UNKNOWN)
                );
                assert_eq!(weights[0], 0.0);
                assert_eq!(tokens.last(), Some(&vocab::END));
            }
        }
    }

    #[test]
    fn kinds_come_in_the_stated_shares() {
        let world = World::default_world();
        let n = 20_000;
        let mut counts = [0.0; 3];
        for i in 0..n {
            counts[document(&world, 1, i).kind as usize] += 1.0 / n as f64;
        }
        for (count, share) in counts.iter().zip(world.mix) {
            assert!((count - share).abs() < 0.02, "{counts:?}");
        }
    }

    #[test]
    fn the_average_writer_scores_about_0_58() {
        let world = World::default_world();
        let n = 20_000;
        let mean: f64 = (0..n)
            .map(|i| {
                let random = &mut Random::new(5, 0, i);
                let task = corpus_task(&world, random);
                let answer = Writer::draw(&world, random).answer(&world, &task, random);
                Gold::of(&world, &task, &answer.read()).score / n as f64
            })
            .sum();
        assert!((mean - 0.58).abs() < 0.02, "{mean}");
    }

    #[test]
    fn flaws_show_as_their_marks() {
        let world = World::default_world();
        for i in 0..5_000 {
            let random = &mut Random::new(6, 0, i);
            let task = corpus_task(&world, random);
            let flaws = Writer::draw(&world, random).draw_flaws(&world, random);
            let written = Written::compose(&task, flaws, random);
            let gold = Gold::of(&world, &task, &written.read());
            let text = vocab::decode(&written.tokens);
            assert_eq!(
                gold.format == 0.0,
                flaws.has(Flaw::OffFormat),
                "{task:?} {text}"
            );
            assert_eq!(gold.manners == 0.0, flaws.has(Flaw::Curt), "{text}");
            assert_eq!(gold.padded, flaws.has(Flaw::Padded), "{text}");
            assert_eq!(gold.looping, flaws.has(Flaw::Loop), "{task:?} {text}");
            if !flaws.has(Flaw::Loop) {
                assert_eq!(gold.right, !flaws.has(Flaw::Wrong), "{task:?} {text}");
            }
            if flaws == Flaws([false; FLAWS]) {
                assert_eq!(gold.score, 1.0, "{task:?} {text}");
            }
        }
    }

    #[test]
    fn one_prompt_in_sixteen_is_held_out() {
        let held = (0..16_000)
            .filter(|&i| {
                is_held_out(&Task::draw(&Family::ALL, 0.35, &mut Random::new(9, 0, i)).prompt())
            })
            .count();
        assert!((800..1200).contains(&held), "{held}");
    }
}
