//! Small rounds for tests.

use sims_artifact::tables::{JudgmentRow, Message, PairRow, PromptRow, RankingRow, ResponseRow};

use crate::Tables;

/// A round whose ranking is given; responses are clean, distinct and of one length.
#[derive(Clone)]
pub(crate) struct Round {
    pub(crate) prompts: Vec<PromptRow>,
    pub(crate) responses: Vec<ResponseRow>,
    pub(crate) ranking: Vec<RankingRow>,
    pub(crate) judgments: Vec<JudgmentRow>,
}

impl Round {
    /// One prompt an entry, with the scores of its responses; response i of prompt p is `p-i`.
    pub(crate) fn new(prompts: &[(&str, &[f64])]) -> Self {
        let mut round = Self {
            prompts: Vec::new(),
            responses: Vec::new(),
            ranking: Vec::new(),
            judgments: vec![judgment("nobody", "no one", "ab", 0.0)],
        };
        for &(prompt_id, scores) in prompts {
            round.prompts.push(PromptRow {
                prompt_id: prompt_id.into(),
                messages: vec![Message::user(format!("please answer {prompt_id}"))],
                split: "train".into(),
                source: "test".into(),
            });
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|&l, &r| scores[r].total_cmp(&scores[l]));
            for (index, &score) in scores.iter().enumerate() {
                let rank = order
                    .iter()
                    .position(|&other| other == index)
                    .expect("all are there");
                round.add(prompt_id, index as u32, score, rank as u32 + 1);
            }
        }
        round
    }

    fn add(&mut self, prompt_id: &str, index: u32, score: f64, rank: u32) {
        let response_id = format!("{prompt_id}-{index}");
        let start = 1000 * (self.responses.len() as u32 + 1);
        let mut token_ids: Vec<u32> = (start..start + 20).collect();
        token_ids.push(2);
        self.responses.push(ResponseRow {
            prompt_id: prompt_id.into(),
            response_id: response_id.clone(),
            round: 1,
            sample_index: index,
            policy: "base".into(),
            text: format!("a clean answer with the number {response_id}"),
            token_ids,
            prompt_tokens: 5,
            finish_reason: "stop".into(),
            logprob_sum: -1.0,
            seed: 0,
        });
        self.ranking.push(RankingRow {
            prompt_id: prompt_id.into(),
            response_id,
            score,
            score_se: None,
            rank,
            comparisons: 6,
            win_probability: 0.5,
            position_bias: 0.0,
            tie: false,
            noise_sigma: 0.0,
        });
    }

    /// Gives a response these content tokens; an end token follows.
    pub(crate) fn set_tokens(&mut self, response: usize, content: &[u32]) {
        self.responses[response].token_ids = content.iter().copied().chain([2]).collect();
    }

    /// Gives a response this text.
    pub(crate) fn set_text(&mut self, response: usize, text: &str) {
        self.responses[response].text = text.into();
    }

    /// The round with a bank.
    pub(crate) fn tables<'a>(&'a self, bank: &'a [PairRow]) -> Tables<'a> {
        Tables {
            prompts: &self.prompts,
            responses: &self.responses,
            ranking: &self.ranking,
            judgments: &self.judgments,
            bank,
        }
    }
}

/// The judge finds `a` better than `b` by `raw` nats in this order.
pub(crate) fn judgment(a: &str, b: &str, order: &str, raw: f64) -> JudgmentRow {
    JudgmentRow {
        prompt_id: "p".into(),
        response_a: a.into(),
        response_b: b.into(),
        order: order.into(),
        judge: "stub".into(),
        p_a: 0.5,
        verdict: if raw > 0.0 { "a" } else { "b" }.into(),
        raw,
        coverage: 1.0,
    }
}

/// A pair for the bank.
pub(crate) fn pair(pair_id: &str, prompt_id: &str, z: f64, origin_round: u32) -> PairRow {
    PairRow {
        pair_id: pair_id.into(),
        prompt_id: prompt_id.into(),
        chosen_id: "chosen".into(),
        rejected_id: "rejected".into(),
        chosen: "better".into(),
        rejected: "worse".into(),
        chosen_token_ids: vec![1],
        rejected_token_ids: vec![2],
        margin: 1.0,
        z,
        weight: 1.0,
        origin_round,
        judge: "stub".into(),
    }
}

/// A numbered list of `items`: "line break, number, dot, item".
pub(crate) fn numbered(items: u32) -> Vec<u32> {
    (0..items)
        .flat_map(|item| [1, 100 + item, 3, 200 + item])
        .collect()
}

/// A text of `count` different words.
pub(crate) fn words(count: usize) -> String {
    let syllables = [
        "ba", "ko", "mi", "tu", "re", "sal", "pen", "dor", "fi", "gu",
    ];
    let word = |n: usize| {
        let mixed = n * 7919 + 13;
        [mixed % 10, mixed / 10 % 10, mixed / 100 % 10]
            .map(|digit| syllables[digit])
            .concat()
    };
    (0..count).map(word).collect::<Vec<_>>().join(" ")
}
