//! The thirteen families of instructions: how they are asked, answered rightly and answered wrongly.
//!
//! A [`Task`] is what a prompt means. [`Task::prompt`] writes it and [`Task::parse`] reads it back, so that
//! whoever holds the text of a prompt alone can check an answer.

use crate::layout::Format;
use crate::random::Random;
use crate::vocab::{self, Token};

/// A family of instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Put two or three numbers in order.
    Sort,
    /// Say three or four words backwards.
    Reverse,
    /// Opposites of one to three adjectives.
    Opposite,
    /// Plurals of one to three nouns.
    Plural,
    /// Pick the members of a category, in the order given.
    Pick,
    /// Count three to eight words.
    Count,
    /// Add two digits.
    Add,
    /// Name one to three members of a category, any of them.
    Name,
    /// The first k words of a list.
    First,
    /// Say each word twice.
    Twice,
    /// Name the kind of each word.
    Kind,
    /// The word that does not fit; kept out of every steering prompt.
    OddOneOut,
    /// The last k words of a list; kept out of every steering prompt.
    Last,
}

impl Family {
    /// All families, held-out ones last.
    pub const ALL: [Family; 13] = [
        Family::Sort,
        Family::Reverse,
        Family::Opposite,
        Family::Plural,
        Family::Pick,
        Family::Count,
        Family::Add,
        Family::Name,
        Family::First,
        Family::Twice,
        Family::Kind,
        Family::OddOneOut,
        Family::Last,
    ];

    /// The families of steering and of the main evaluation.
    pub const SEEN: &'static [Family] = Self::ALL.split_at(11).0;

    /// The families that no steering prompt comes from.
    pub const UNSEEN: &'static [Family] = Self::ALL.split_at(11).1;

    /// Returns the family's name in tables and reports.
    pub fn name(self) -> &'static str {
        match self {
            Family::Sort => "sort",
            Family::Reverse => "reverse",
            Family::Opposite => "opposite",
            Family::Plural => "plural",
            Family::Pick => "pick",
            Family::Count => "count",
            Family::Add => "add",
            Family::Name => "name",
            Family::First => "first",
            Family::Twice => "twice",
            Family::Kind => "kind",
            Family::OddOneOut => "odd_one_out",
            Family::Last => "last",
        }
    }

    /// The two phrasings: words, `{c}` for a category and `{n}` for a number; the list follows.
    pub fn phrasings(self) -> [&'static str; 2] {
        match self {
            Family::Sort => ["sort :", "put in order :"],
            Family::Reverse => ["reverse :", "say backwards :"],
            Family::Opposite => ["opposite of :", "give the opposite :"],
            Family::Plural => ["plural of :", "more than one :"],
            Family::Pick => ["pick each {c} :", "which are {c} :"],
            Family::Count => ["count :", "how many words :"],
            Family::Add => ["add :", "sum of :"],
            Family::Name => ["name {n} {c}", "list {n} {c}"],
            Family::First => ["first {n} of :", "take {n} from the start :"],
            Family::Twice => ["say twice :", "repeat each :"],
            Family::Kind => ["kind of :", "what kind :"],
            Family::OddOneOut => ["odd one out :", "which does not fit :"],
            Family::Last => ["last {n} of :", "take {n} from the end :"],
        }
    }
}

/// What a prompt asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Task {
    /// The family.
    pub family: Family,
    /// Which of the two phrasings asks for it.
    pub phrasing: usize,
    /// The list format asked for.
    pub format: Format,
    /// The category that [`Family::Pick`] and [`Family::Name`] speak of, else 0.
    pub category: usize,
    /// The number that [`Family::Name`], [`Family::First`] and [`Family::Last`] speak of, else 0.
    pub number: usize,
    /// The words of the list; empty for [`Family::Name`].
    pub items: Vec<Token>,
}

impl Task {
    /// Draws a task of one of `families`.
    pub fn draw(families: &[Family], plain_share: f64, random: &mut Random) -> Self {
        let family = *random.pick(families);
        let mut task = Task {
            family,
            phrasing: random.below(2),
            format: Format::Plain,
            category: 0,
            number: 0,
            items: vec![],
        };
        task.draw_content(random);
        if !random.chance(plain_share) {
            let one = task.answer_length() == 1;
            let formats: Vec<Format> = Format::ALL[1..]
                .iter()
                .copied()
                .filter(|f| !one || f.shows_on_one_item())
                .collect();
            task.format = *random.pick(&formats);
        }
        task
    }

    fn draw_content(&mut self, random: &mut Random) {
        match self.family {
            Family::Sort => {
                let numbers: Vec<Token> = (0..=30).map(vocab::number_token).collect();
                let n = random.between(2, 3);
                self.items = random.distinct(&numbers, n);
            }
            Family::Reverse => self.draw_nouns(3, 4, random),
            Family::Opposite => {
                let n = random.between(1, 3);
                self.items = random.distinct(&vocab::adjectives(), n);
            }
            Family::Plural => {
                let n = random.between(1, 3);
                self.items = random.distinct(&vocab::countable_nouns(), n);
            }
            Family::Pick => {
                self.category = random.below(vocab::CATEGORIES.len());
                let members = random.between(1, 3);
                let others = random.between(1, 2);
                self.items = random.distinct(&vocab::members(self.category), members);
                self.items
                    .extend(self.other_nouns(self.category, others, random));
                random.shuffle(&mut self.items);
            }
            Family::Count => self.draw_nouns(3, 8, random),
            Family::Add => {
                self.items = (0..2)
                    .map(|_| vocab::number_token(random.below(10)))
                    .collect();
            }
            Family::Name => {
                self.category = random.below(vocab::CATEGORIES.len());
                self.number = random.between(1, 3);
            }
            Family::First | Family::Last => {
                self.draw_nouns(4, 6, random);
                self.number = random.between(1, 3);
            }
            Family::Twice => self.draw_nouns(1, 3, random),
            Family::Kind => {
                // Three words of one kind would make the right answer look like a loop.
                loop {
                    self.draw_nouns(1, 3, random);
                    let kinds = self.right_answer(random);
                    if kinds.len() < 3 || kinds.iter().any(|&k| k != kinds[0]) {
                        break;
                    }
                }
            }
            Family::OddOneOut => {
                let category = random.below(vocab::CATEGORIES.len());
                self.items = random.distinct(&vocab::members(category), 3);
                self.items.extend(self.other_nouns(category, 1, random));
                random.shuffle(&mut self.items);
            }
        }
    }

    fn draw_nouns(&mut self, low: usize, high: usize, random: &mut Random) {
        let n = random.between(low, high);
        self.items = random.distinct(&vocab::nouns(), n);
    }

    fn other_nouns(&self, category: usize, n: usize, random: &mut Random) -> Vec<Token> {
        let others: Vec<Token> = vocab::nouns()
            .into_iter()
            .filter(|&w| vocab::category(w) != Some(category))
            .collect();
        random.distinct(&others, n)
    }

    /// Writes the prompt.
    pub fn prompt(&self) -> Vec<Token> {
        let mut out = Vec::with_capacity(16);
        for word in self.family.phrasings()[self.phrasing].split(' ') {
            out.push(match word {
                "{c}" => vocab::category_token(self.category),
                "{n}" => vocab::number_token(self.number),
                word => vocab::known(word),
            });
        }
        out.extend_from_slice(&self.items);
        out.extend(vocab::encode(self.format.request()));
        out
    }

    /// Reads a prompt back; `None` if no family asks for anything in these words.
    pub fn parse(prompt: &[Token]) -> Option<Self> {
        let (body, format) = Format::ALL[1..]
            .iter()
            .find_map(|&f| {
                prompt
                    .strip_suffix(vocab::encode(f.request()).as_slice())
                    .map(|body| (body, f))
            })
            .unwrap_or((prompt, Format::Plain));
        Family::ALL
            .into_iter()
            .flat_map(|family| [(family, 0), (family, 1)])
            .find_map(|(family, phrasing)| {
                let mut task = Task {
                    family,
                    phrasing,
                    format,
                    category: 0,
                    number: 0,
                    items: vec![],
                };
                let mut words = body.iter().copied();
                for expected in family.phrasings()[phrasing].split(' ') {
                    let word = words.next()?;
                    match expected {
                        "{c}" => {
                            task.category = vocab::CATEGORY_NAMES
                                .iter()
                                .position(|c| *c == vocab::word(word))?
                        }
                        "{n}" => task.number = vocab::number(word)?,
                        expected if vocab::word(word) == expected => {}
                        _ => return None,
                    }
                }
                task.items = words.collect();
                task.is_answerable().then_some(task)
            })
    }

    /// Reads a prompt's text back.
    pub fn parse_text(prompt: &str) -> Option<Self> {
        Self::parse(&vocab::encode(prompt))
    }

    fn is_answerable(&self) -> bool {
        let items = &self.items;
        let all = |f: fn(Token) -> bool| !items.is_empty() && items.iter().all(|&w| f(w));
        match self.family {
            Family::Sort => all(|w| vocab::number(w).is_some()),
            Family::Reverse | Family::Count | Family::Twice => {
                all(|w| vocab::category(w).is_some()) && items.len() <= 30
            }
            Family::Opposite => all(|w| vocab::opposite(w).is_some()),
            Family::Plural => all(|w| vocab::plural(w).is_some()),
            Family::Pick => {
                all(|w| vocab::category(w).is_some())
                    && !self.chosen(|c| c == self.category).is_empty()
            }
            Family::Add => all(|w| vocab::number(w).is_some_and(|n| n <= 9)) && items.len() == 2,
            Family::Name => items.is_empty() && (1..=10).contains(&self.number),
            Family::First | Family::Last => {
                all(|w| vocab::category(w).is_some()) && (1..=items.len()).contains(&self.number)
            }
            Family::Kind => all(|w| vocab::category(w).is_some()),
            Family::OddOneOut => all(|w| vocab::category(w).is_some()) && self.odd_one().is_some(),
        }
    }

    fn chosen(&self, wanted: impl Fn(usize) -> bool) -> Vec<Token> {
        self.items
            .iter()
            .copied()
            .filter(|&w| vocab::category(w).is_some_and(&wanted))
            .collect()
    }

    fn odd_one(&self) -> Option<Token> {
        let mut alone = self
            .items
            .iter()
            .copied()
            .filter(|&w| self.chosen(|c| Some(c) == vocab::category(w)).len() == 1);
        match (alone.next(), alone.next()) {
            (Some(odd), None) => Some(odd),
            _ => None,
        }
    }

    /// Returns how many items the right answer has.
    pub fn answer_length(&self) -> usize {
        match self.family {
            Family::Sort | Family::Reverse | Family::Opposite | Family::Plural | Family::Kind => {
                self.items.len()
            }
            Family::Pick => self.chosen(|c| c == self.category).len(),
            Family::Count | Family::Add | Family::OddOneOut => 1,
            Family::Name | Family::First | Family::Last => self.number,
            Family::Twice => 2 * self.items.len(),
        }
    }

    /// Returns a right answer's items; only [`Family::Name`] has more than one and draws.
    pub fn right_answer(&self, random: &mut Random) -> Vec<Token> {
        match self.family {
            Family::Name => random.distinct(&vocab::members(self.category), self.number),
            _ => self.expected(),
        }
    }

    /// Returns the one right answer of a family that has one; empty for [`Family::Name`].
    fn expected(&self) -> Vec<Token> {
        let items = &self.items;
        let number = |w: &Token| vocab::number(*w).unwrap_or(0);
        match self.family {
            Family::Sort => {
                let mut sorted = items.clone();
                sorted.sort_by_key(number);
                sorted
            }
            Family::Reverse => items.iter().rev().copied().collect(),
            Family::Opposite => items.iter().filter_map(|&w| vocab::opposite(w)).collect(),
            Family::Plural => items.iter().filter_map(|&w| vocab::plural(w)).collect(),
            Family::Pick => self.chosen(|c| c == self.category),
            Family::Count => vec![vocab::number_token(items.len().min(30))],
            Family::Add => vec![vocab::number_token(
                items.iter().map(number).sum::<usize>().min(30),
            )],
            Family::Name => vec![],
            Family::First => items[..self.number].to_vec(),
            Family::Last => items[items.len() - self.number..].to_vec(),
            Family::Twice => items.iter().flat_map(|&w| [w, w]).collect(),
            Family::Kind => items
                .iter()
                .filter_map(|&w| vocab::category(w))
                .map(vocab::category_token)
                .collect(),
            Family::OddOneOut => self.odd_one().into_iter().collect(),
        }
    }

    /// Says whether `answer` is right in full.
    pub fn is_right(&self, answer: &[Token]) -> bool {
        self.right_share(answer) == 1.0
    }

    /// Returns the share of right positions, in [0, 1]; 1 exactly when the whole answer is right.
    ///
    /// A position is right when it holds the expected item; for [`Family::Name`], a member not said before.
    /// Missing and surplus items count as wrong positions.
    pub fn right_share(&self, answer: &[Token]) -> f64 {
        let longest = self.answer_length().max(answer.len());
        if answer.is_empty() || longest == 0 {
            return 0.0;
        }
        let right = match self.family {
            Family::Name => answer
                .iter()
                .take(self.number)
                .enumerate()
                .filter(|&(i, &w)| {
                    vocab::category(w) == Some(self.category) && !answer[..i].contains(&w)
                })
                .count(),
            _ => self
                .expected()
                .iter()
                .zip(answer)
                .filter(|(a, b)| a == b)
                .count(),
        };
        right as f64 / longest as f64
    }

    /// Draws a wrong answer of the kind a careless writer gives in this family; never empty, never right,
    /// and without an item three times in a row (which would be a loop, another flaw).
    pub fn wrong_answer(&self, random: &mut Random) -> Vec<Token> {
        for _ in 0..32 {
            let answer = self.slip(random);
            let stutters = answer.windows(3).any(|w| w[0] == w[1] && w[1] == w[2]);
            if !answer.is_empty() && !stutters && !self.is_right(&answer) {
                return answer;
            }
        }
        // Every slip happened to be right (a palindrome, say): one item too many is always wrong.
        let mut answer = self.right_answer(random);
        answer.push(*random.pick(&vocab::nouns()));
        answer
    }

    fn slip(&self, random: &mut Random) -> Vec<Token> {
        let right = self.right_answer(random);
        match self.family {
            Family::Sort => {
                let mut items = right;
                random.shuffle(&mut items);
                items
            }
            Family::Reverse => match random.below(3) {
                0 => self.items.clone(),
                1 => swap_neighbours(right, random),
                _ => drop_one(right, random),
            },
            Family::Opposite => match random.below(2) {
                0 => self.items.clone(),
                _ => replace_one(right, &vocab::adjectives(), random),
            },
            Family::Plural => match random.below(3) {
                0 => self.items.clone(),
                1 => {
                    let mut items = right;
                    let i = random.below(items.len());
                    items[i] = self.items[i];
                    items
                }
                _ => {
                    let plurals: Vec<Token> = vocab::countable_nouns()
                        .into_iter()
                        .filter_map(vocab::plural)
                        .collect();
                    replace_one(right, &plurals, random)
                }
            },
            Family::Pick => match random.below(3) {
                0 => {
                    let intruder = *random.pick(&self.chosen(|c| c != self.category));
                    self.items
                        .iter()
                        .copied()
                        .filter(|w| right.contains(w) || *w == intruder)
                        .collect()
                }
                1 => replace_one(right, &self.chosen(|c| c != self.category), random),
                _ => drop_one(right, random),
            },
            Family::Count | Family::Add => {
                let value = vocab::number(right[0]).unwrap_or(0) as i64;
                let off = *random.pick(&[-2, -1, -1, 1, 1, 2]);
                vec![vocab::number_token((value + off).clamp(0, 30) as usize)]
            }
            Family::Name => match random.below(3) {
                0 => {
                    let others = self.other_nouns(self.category, 3, random);
                    replace_one(right, &others, random)
                }
                1 if self.number > 1 => drop_one(right, random),
                _ => random.distinct(&vocab::members(self.category), self.number + 1),
            },
            Family::First | Family::Last => {
                let (k, n) = (self.number, self.items.len());
                let (start, end) = (&self.items[..k], &self.items[n - k..]);
                match (random.below(3), self.family) {
                    (0, Family::First) => end.to_vec(),
                    (0, _) => start.to_vec(),
                    (1, Family::First) => self.items[..(k + 1).min(n)].to_vec(),
                    (1, _) => self.items[n - (k + 1).min(n)..].to_vec(),
                    (_, Family::First) => self.items[1..(k + 1).min(n)].to_vec(),
                    _ => self.items[n - (k + 1).min(n)..n - 1].to_vec(),
                }
            }
            Family::Twice => match random.below(2) {
                0 => self.items.clone(),
                _ => drop_one(right, random),
            },
            Family::Kind => match random.below(3) {
                0 => self.items.clone(),
                _ => {
                    let kinds: Vec<Token> = (0..vocab::CATEGORIES.len())
                        .map(vocab::category_token)
                        .collect();
                    replace_one(right, &kinds, random)
                }
            },
            Family::OddOneOut => vec![*random.pick(&self.items)],
        }
    }
}

fn drop_one(mut items: Vec<Token>, random: &mut Random) -> Vec<Token> {
    items.remove(random.below(items.len()));
    items
}

fn swap_neighbours(mut items: Vec<Token>, random: &mut Random) -> Vec<Token> {
    if items.len() > 1 {
        let i = random.below(items.len() - 1);
        items.swap(i, i + 1);
    }
    items
}

fn replace_one(mut items: Vec<Token>, by: &[Token], random: &mut Random) -> Vec<Token> {
    if !items.is_empty() && !by.is_empty() {
        let i = random.below(items.len());
        items[i] = *random.pick(by);
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(prompt: &str, right: &str, wrong: &str, share: f64) {
        let task = Task::parse_text(prompt).unwrap_or_else(|| panic!("{prompt} is not understood"));
        assert!(task.is_right(&vocab::encode(right)), "{prompt} -> {right}");
        assert_eq!(task.answer_length(), right.split(' ').count(), "{prompt}");
        let measured = task.right_share(&vocab::encode(wrong));
        assert!(
            (measured - share).abs() < 1e-12,
            "{prompt} -> {wrong}: {measured}"
        );
    }

    #[test]
    fn every_family_knows_right_from_wrong() {
        check("sort : 12 3 20", "3 12 20", "3 20 12", 1.0 / 3.0);
        check("put in order : 7 2", "2 7", "7 2", 0.0);
        check(
            "reverse : cat red tea",
            "tea red cat",
            "cat red tea",
            1.0 / 3.0,
        );
        check(
            "say backwards : cat red tea with bars",
            "tea red cat",
            "tea red",
            2.0 / 3.0,
        );
        check("opposite of : big wet", "small dry", "big dry", 0.5);
        check("give the opposite : sad in brackets", "happy", "sad", 0.0);
        check(
            "plural of : wolf knife",
            "wolves knives",
            "wolves knife",
            0.5,
        );
        check("more than one : shoe", "shoes", "hats", 0.0);
        check(
            "pick each animal : cat tea dog",
            "cat dog",
            "cat tea dog",
            1.0 / 3.0,
        );
        check("which are drink : cat tea dog", "tea", "cat", 0.0);
        check("count : cat tea dog", "3", "4", 0.0);
        check("how many words : cat tea dog red", "4", "5 4", 0.0);
        check("add : 9 8", "17", "16", 0.0);
        check("sum of : 0 0", "0", "1", 0.0);
        check("name 2 fruit", "fig plum", "fig fig", 0.5);
        check(
            "list 3 tool with commas",
            "saw axe rake",
            "saw axe rake drill",
            0.75,
        );
        check("first 2 of : cat tea dog red", "cat tea", "tea dog", 0.0);
        check(
            "take 1 from the start : cat tea dog red",
            "cat",
            "cat tea",
            0.5,
        );
        check("say twice : cat tea", "cat cat tea tea", "cat tea", 0.25);
        check("repeat each : cat", "cat cat", "cat", 0.5);
        check("kind of : cat tea", "animal drink", "animal tea", 0.5);
        check("what kind : sofa", "furniture", "tool", 0.0);
        check("odd one out : cat tea dog fox", "tea", "cat", 0.0);
        check(
            "which does not fit : red blue axe pink with dashes",
            "axe",
            "pink",
            0.0,
        );
        check("last 2 of : cat tea dog red", "dog red", "cat tea", 0.0);
        check(
            "take 3 from the end : cat tea dog red",
            "tea dog red",
            "tea dog",
            2.0 / 3.0,
        );
    }

    #[test]
    fn nonsense_is_not_a_task() {
        for text in [
            "",
            "hello",
            "sort :",
            "sort : cat",
            "name 0 fruit",
            "first 9 of : cat tea",
            "odd one out : cat dog",
        ] {
            assert_eq!(Task::parse_text(text), None, "{text}");
        }
    }

    #[test]
    fn prompts_read_back_as_what_was_asked() {
        for i in 0..10_000 {
            let task = Task::draw(&Family::ALL, 0.35, &mut Random::new(1, 0, i));
            let text = vocab::decode(&task.prompt());
            assert_eq!(Task::parse_text(&text).as_ref(), Some(&task), "{text}");
        }
    }

    #[test]
    fn answers_are_right_or_wrong_as_meant() {
        for i in 0..10_000 {
            let mut random = Random::new(2, 0, i);
            let task = Task::draw(&Family::ALL, 0.35, &mut random);
            let right = task.right_answer(&mut random);
            assert!(task.is_right(&right), "{task:?}");
            assert_eq!(right.len(), task.answer_length(), "{task:?}");
            let wrong = task.wrong_answer(&mut random);
            assert!(!task.is_right(&wrong) && !wrong.is_empty(), "{task:?}");
        }
    }
}
