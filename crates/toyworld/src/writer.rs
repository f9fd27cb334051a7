//! Writers and the answers they give.

use crate::families::Task;
use crate::gold::Answer;
use crate::random::Random;
use crate::vocab::{self, Token};
use crate::world::{FLAWS, Flaw, LATENTS, World};

/// Which flaws one answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flaws(pub [bool; FLAWS]);

impl Flaws {
    /// Says whether the answer has this flaw.
    pub fn has(&self, flaw: Flaw) -> bool {
        self.0[flaw as usize]
    }

    /// Returns the same flaws but for one.
    #[must_use]
    pub fn with(mut self, flaw: Flaw, present: bool) -> Self {
        self.0[flaw as usize] = present;
        self
    }
}

/// A writer: latents that are never stated, and habits.
#[derive(Debug, Clone, PartialEq)]
pub struct Writer {
    /// One number for each latent of the world, standard normal among writers.
    pub latents: [f64; LATENTS],
    /// A liking for each flaw, as a logit.
    pub habits: [f64; FLAWS],
}

impl Writer {
    /// Draws a writer of the world.
    pub fn draw(world: &World, random: &mut Random) -> Self {
        let latents = std::array::from_fn(|_| random.normal());
        let habits = std::array::from_fn(|_| world.habit * random.normal());
        Self { latents, habits }
    }

    /// Returns a writer of given latents and no habits.
    pub fn with_latents(latents: [f64; LATENTS]) -> Self {
        Self {
            latents,
            habits: [0.0; FLAWS],
        }
    }

    /// Returns the probability that an answer of this writer has the flaw.
    pub fn flaw_probability(&self, world: &World, flaw: Flaw) -> f64 {
        let law = world.law(flaw);
        let care: f64 = law
            .slopes
            .iter()
            .zip(self.latents)
            .map(|(s, z)| s * z)
            .sum();
        let logit = law.bias - care + self.habits[flaw as usize];
        1.0 / (1.0 + (-logit).exp())
    }

    /// Draws the flaws of one answer.
    pub fn draw_flaws(&self, world: &World, random: &mut Random) -> Flaws {
        let all = [
            Flaw::Wrong,
            Flaw::OffFormat,
            Flaw::Padded,
            Flaw::Loop,
            Flaw::Curt,
        ];
        Flaws(all.map(|flaw| random.chance(self.flaw_probability(world, flaw))))
    }

    /// Answers a task.
    pub fn answer(&self, world: &World, task: &Task, random: &mut Random) -> Written {
        let flaws = self.draw_flaws(world, random);
        Written::compose(task, flaws, random)
    }
}

/// An answer as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The answer's tokens, without the end mark.
    pub tokens: Vec<Token>,
    /// Which tokens are content words said for the first time (not marks, manners, padding or repetition).
    pub content: Vec<bool>,
}

impl Written {
    /// Writes an answer that has exactly these flaws.
    pub fn compose(task: &Task, flaws: Flaws, random: &mut Random) -> Self {
        let mut out = Self {
            tokens: Vec::with_capacity(16),
            content: Vec::with_capacity(16),
        };
        let items = if flaws.has(Flaw::Wrong) {
            task.wrong_answer(random)
        } else {
            task.right_answer(random)
        };
        let format = if flaws.has(Flaw::OffFormat) {
            *random.pick(&task.format.others(items.len()))
        } else {
            task.format
        };
        if !flaws.has(Flaw::Curt) {
            out.say(random.pick::<&str>(&vocab::OPENERS));
        }
        // One filler phrase, or two: before the list, after it, or both.
        let (before, after) = match (flaws.has(Flaw::Padded), random.below(5)) {
            (false, _) => (false, false),
            (true, 0..=1) => (true, false),
            (true, 2) => (false, true),
            (true, _) => (true, true),
        };
        if before {
            out.say(random.pick::<&str>(&vocab::FILLERS));
        }
        let repeated = if flaws.has(Flaw::Loop) {
            loop_tail(&items, random)
        } else {
            vec![]
        };
        let total: Vec<Token> = items.iter().chain(&repeated).copied().collect();
        let mut words_left = items.len();
        for token in format.render(&total) {
            let is_word = vocab::class(token) == vocab::Class::Word;
            out.push(token, is_word && words_left > 0);
            words_left = words_left.saturating_sub(usize::from(is_word));
        }
        if after {
            out.say(random.pick::<&str>(&vocab::FILLERS));
        }
        if !flaws.has(Flaw::Curt) {
            out.say(random.pick::<&str>(&vocab::CLOSERS));
        }
        out
    }

    fn say(&mut self, phrase: &str) {
        vocab::encode(phrase)
            .into_iter()
            .for_each(|token| self.push(token, false));
    }

    fn push(&mut self, token: Token, content: bool) {
        self.tokens.push(token);
        self.content.push(content);
    }

    /// Returns the answer as the gold checker reads it.
    pub fn read(&self) -> Answer {
        Answer::read(&self.tokens)
    }
}

/// Repeats the last item, or the last two, until they stand there four to six (three to four) times.
fn loop_tail(items: &[Token], random: &mut Random) -> Vec<Token> {
    let unit = if items.len() >= 2 && random.chance(0.3) {
        2
    } else {
        1
    };
    let tail = &items[items.len() - unit..];
    let times = if unit == 1 {
        random.between(3, 5)
    } else {
        random.between(2, 3)
    };
    tail.repeat(times)
}
