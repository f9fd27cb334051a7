//! The gold score: what an answer is worth, from the text of prompt and answer alone.
//!
//! Used in evaluation only. Nothing inside the steering loop depends on this crate.

use std::sync::LazyLock;

use crate::families::Task;
use crate::vocab::{self, Class, Token};
use crate::world::World;

/// Share of the content's worth that right positions of a wrong answer get.
const PARTIAL_CREDIT: f64 = 0.4;
/// Factor on the content's worth when the answer loops.
const LOOP_FACTOR: f64 = 0.4;
/// A unit of up to this many tokens, three times in a row, is a loop.
const LONGEST_LOOP_UNIT: usize = 6;
/// Answers are read up to this many tokens; the rest of a longer one counts as a loop's tail.
const LONGEST_ANSWER: usize = 512;

struct Phrases {
    openers: Vec<Vec<Token>>,
    closers: Vec<Vec<Token>>,
}

static PHRASES: LazyLock<Phrases> = LazyLock::new(|| Phrases {
    openers: vocab::OPENERS.iter().map(|p| vocab::encode(p)).collect(),
    closers: vocab::CLOSERS.iter().map(|p| vocab::encode(p)).collect(),
});

/// An answer taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Begins with an opener.
    pub opener: bool,
    /// Ends with a closer.
    pub closer: bool,
    /// Holds filler words, or words of openers and closers out of place.
    pub padded: bool,
    /// Says something three times in a row.
    pub looping: bool,
    /// The list with its marks.
    pub list: Vec<Token>,
    /// The list's items: its words without marks.
    pub items: Vec<Token>,
}

impl Answer {
    /// Takes an answer apart; any tokens are accepted, special ones and what follows an end mark are ignored.
    pub fn read(tokens: &[Token]) -> Self {
        let too_long = tokens.len() > LONGEST_ANSWER;
        let spoken: Vec<Token> = tokens
            .iter()
            .copied()
            .take(LONGEST_ANSWER)
            .take_while(|&t| t != vocab::END)
            .filter(|&t| t == vocab::UNKNOWN || vocab::class(t) != Class::Special)
            .collect();
        let mut body = spoken.as_slice();
        let opener = PHRASES
            .openers
            .iter()
            .find_map(|p| body.strip_prefix(p.as_slice()));
        body = opener.unwrap_or(body);
        let closer = PHRASES
            .closers
            .iter()
            .find_map(|p| body.strip_suffix(p.as_slice()));
        body = closer.unwrap_or(body);

        let is_list = |t: &Token| {
            matches!(
                vocab::class(*t),
                Class::ListMark | Class::Word | Class::Special
            )
        };
        let list: Vec<Token> = body.iter().copied().filter(is_list).collect();
        let items: Vec<Token> = list
            .iter()
            .copied()
            .filter(|&t| vocab::class(t) != Class::ListMark)
            .collect();
        Self {
            opener: opener.is_some(),
            closer: closer.is_some(),
            padded: list.len() < body.len(),
            looping: too_long || repeats(&items) || repeats(&spoken),
            list,
            items,
        }
    }
}

/// Says whether some unit of up to [`LONGEST_LOOP_UNIT`] tokens stands three times in a row.
fn repeats(tokens: &[Token]) -> bool {
    (1..=LONGEST_LOOP_UNIT).any(|unit| {
        // A run of `2 * unit` positions that equal the token one unit before.
        let mut run = 0;
        (unit..tokens.len()).any(|i| {
            run = if tokens[i] == tokens[i - unit] {
                run + 1
            } else {
                0
            };
            run >= 2 * unit
        })
    })
}

/// The gold score and its components, each in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gold {
    /// The weighted sum of the components.
    pub score: f64,
    /// Content: 1 when right in full, else 0.4 times the share of right positions; times 0.4 when looping.
    pub content: f64,
    /// 1 when the list is laid out as asked.
    pub format: f64,
    /// 1 when there is neither padding nor a loop.
    pub concise: f64,
    /// Half each for opener and closer.
    pub manners: f64,
    /// The content is right in full (a loop's repetitions make it wrong).
    pub right: bool,
    /// Something is said three times in a row.
    pub looping: bool,
    /// Filler words stand in the answer.
    pub padded: bool,
}

impl Gold {
    /// Names of the components in metrics.
    pub const COMPONENTS: [&'static str; 4] = ["content", "format", "concise", "manners"];

    /// Returns the components in the order of [`Gold::COMPONENTS`].
    pub fn components(&self) -> [f64; 4] {
        [self.content, self.format, self.concise, self.manners]
    }

    /// Returns the four marks: right, tidy, brief, polite.
    pub fn marks(&self) -> [bool; 4] {
        [
            self.right,
            self.format == 1.0,
            self.concise == 1.0,
            self.manners == 1.0,
        ]
    }

    /// Scores an answer to a task.
    pub fn of(world: &World, task: &Task, answer: &Answer) -> Self {
        // "animal animal animal" may be the right answer: what is right in full is no loop.
        let looping = answer.looping && !task.is_right(&answer.items);
        let share = task.right_share(judged_items(task, answer, looping));
        let right = share == 1.0;
        let worth = if right { 1.0 } else { PARTIAL_CREDIT * share };
        let content = if looping { LOOP_FACTOR * worth } else { worth };
        let nothing = answer.items.is_empty();
        let format = f64::from(!nothing && answer.list == task.format.render(&answer.items));
        let concise = f64::from(!nothing && !answer.padded && !looping);
        let manners = 0.5 * (f64::from(answer.opener) + f64::from(answer.closer));
        let w = world.gold;
        let score =
            w.content * content + w.format * format + w.concise * concise + w.manners * manners;
        Self {
            score,
            content,
            format,
            concise,
            manners,
            right,
            looping,
            padded: answer.padded,
        }
    }

    /// Scores the text of an answer to the text of a prompt; `None` if the prompt is not of this world.
    pub fn of_text(world: &World, prompt: &str, answer: &str) -> Option<Self> {
        let task = Task::parse_text(prompt)?;
        let answer: String = answer.chars().take(16 * LONGEST_ANSWER).collect();
        Some(Self::of(
            world,
            &task,
            &Answer::read(&vocab::encode(&answer)),
        ))
    }
}

/// The items that count as content; of a looping answer only as many as the right answer has.
fn judged_items<'a>(task: &Task, answer: &'a Answer, looping: bool) -> &'a [Token] {
    let n = if looping {
        answer.items.len().min(task.answer_length())
    } else {
        answer.items.len()
    };
    &answer.items[..n]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::Family;
    use crate::random::Random;

    #[track_caller]
    fn score(prompt: &str, answer: &str) -> Gold {
        Gold::of_text(&World::default_world(), prompt, answer).expect("a prompt of the world")
    }

    #[track_caller]
    fn expect(prompt: &str, answer: &str, content: f64, format: f64, concise: f64, manners: f64) {
        let gold = score(prompt, answer);
        let got = gold.components();
        let want = [content, format, concise, manners];
        assert!(
            got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-12),
            "{prompt} -> {answer}: {got:?}"
        );
        let total = 0.5 * content + 0.2 * format + 0.15 * concise + 0.15 * manners;
        assert!((gold.score - total).abs() < 1e-12);
    }

    #[test]
    fn a_careful_answer_is_worth_one() {
        expect(
            "reverse : cat red tea with commas",
            "sure : tea , red , cat enjoy .",
            1.0,
            1.0,
            1.0,
            1.0,
        );
        expect(
            "add : 4 5",
            "my pleasure : 9 hope this helps .",
            1.0,
            1.0,
            1.0,
            1.0,
        );
    }

    #[test]
    fn each_flaw_costs_its_component() {
        let prompt = "reverse : cat red tea with commas";
        expect(prompt, "tea , red , cat", 1.0, 1.0, 1.0, 0.0);
        expect(prompt, "sure : tea , red , cat", 1.0, 1.0, 1.0, 0.5);
        expect(prompt, "tea red cat enjoy .", 1.0, 0.0, 1.0, 0.5);
        expect(
            prompt,
            "sure : well now tea , red , cat enjoy .",
            1.0,
            1.0,
            0.0,
            1.0,
        );
        expect(
            prompt,
            "sure : cat , red , tea enjoy .",
            0.4 / 3.0,
            1.0,
            1.0,
            1.0,
        );
        // The list is right, then its end loops.
        expect(
            prompt,
            "tea , red , cat , cat , cat , cat",
            0.4,
            1.0,
            0.0,
            0.0,
        );
        expect(
            prompt,
            "tea , tea , tea , tea",
            0.4 * 0.4 / 3.0,
            1.0,
            0.0,
            0.0,
        );
    }

    #[test]
    fn a_right_answer_may_repeat_itself() {
        expect(
            "kind of : cat dog fox",
            "animal animal animal",
            1.0,
            1.0,
            1.0,
            0.0,
        );
    }

    #[test]
    fn garbage_is_scored_without_a_panic() {
        expect("add : 4 5", "", 0.0, 0.0, 0.0, 0.0);
        expect("add : 4 5", "sure : enjoy .", 0.0, 0.0, 0.0, 1.0);
        expect("add : 4 5", "[ ]", 0.0, 0.0, 0.0, 0.0);
        expect("add : 4 5", "9 <end> 9 9 9", 1.0, 1.0, 1.0, 0.0);
        expect("add : 4 5", "sure sure :", 0.0, 0.0, 0.0, 0.0);
        assert_eq!(score("add : 4 5", &"9 ".repeat(1_000_000)).content, 0.4);
        assert!(score("add : 4 5", "\u{0} \u{1F600} nine").score <= 0.2 + 0.15);
        assert_eq!(
            Gold::of_text(&World::default_world(), "what ever", "9"),
            None
        );
    }

    #[test]
    fn any_tokens_score_within_bounds() {
        let world = World::default_world();
        for i in 0..20_000 {
            let random = &mut Random::new(12, 0, i);
            let task = Task::draw(&Family::ALL, world.plain_share, random);
            let length = random.below(60);
            // Ids beyond the vocabulary, too: a checker must survive whatever a model says.
            let tokens: Vec<Token> = (0..length)
                .map(|_| random.below(vocab::SIZE + 9) as Token)
                .collect();
            let gold = Gold::of(&world, &task, &Answer::read(&tokens));
            for value in gold.components().into_iter().chain([gold.score]) {
                assert!((0.0..=1.0).contains(&value), "{task:?} {tokens:?} {gold:?}");
            }
        }
    }
}
