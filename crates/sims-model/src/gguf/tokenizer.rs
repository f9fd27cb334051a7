//! The tokenizer of a GGUF file as the text of a Hugging Face `tokenizer.json`, and its chat template.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value as Json, json};

use super::GgufFile;
use crate::Result;

/// What a token is, by its number in `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    /// Stands for what the vocabulary does not have.
    Unknown,
    /// Special: its text is never in a document.
    Control,
    /// Found as a whole before a text is divided.
    UserDefined,
    /// A row of the embedding that no text has.
    Unused,
    /// One byte.
    Byte,
}

/// A token of the vocabulary; its id is its index.
struct Token<'a> {
    text: &'a str,
    kind: Kind,
}

/// How a byte-level tokenizer divides a text before it merges bytes.
struct PreTokenizer {
    /// Whether the text is put into Unicode's composed form first.
    composed: bool,
    /// The parts that are cut out, one expression after another.
    splits: Vec<Json>,
    /// Whether a part that is in the vocabulary as a whole is a token whatever the merges say.
    ignore_merges: bool,
    /// Whether a document starts with the begin token, unless the file says so itself.
    add_bos: bool,
}

/// GPT-2's expression.
const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3's, which is tiktoken's `cl100k_base`.
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's: that of Llama 3 with digits alone.
const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// That of Mistral's Tekken.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-4o's, tiktoken's `o200k_base`.
const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// DeepSeek V3's last; digits and Chinese and Japanese come before it.
const DEEPSEEK_3: [&str; 3] = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
];
/// What llama.cpp takes for a tokenizer that it does not know.
const DEFAULT: [&str; 4] = [r"[\p{P}\$\+<=>\^~\|]+", GPT_2, r"\p{N}+", "[0-9][0-9][0-9]"];

/// The names of `tokenizer.ggml.pre` that are read.
const PRE_TOKENIZERS: [&str; 23] = [
    "command-r",
    "dbrx",
    "deepseek-r1-qwen",
    "deepseek-v3",
    "default",
    "falcon3",
    "gpt-2",
    "gpt-4o",
    "llama-bpe",
    "llama-v3",
    "llama3",
    "megrez",
    "mpt",
    "olmo",
    "phi-2",
    "pixtral",
    "qwen2",
    "refact",
    "smaug-bpe",
    "smollm",
    "stablelm2",
    "starcoder",
    "tekken",
];

impl PreTokenizer {
    /// Returns the one that llama.cpp has this name for; regular expressions are those of the original tokenizers.
    fn of(name: &str) -> Option<Self> {
        let cut = |expressions: &[&str]| {
            let split = |expression: &&str| json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false});
            expressions.iter().map(split).collect()
        };
        let digits = json!({"type": "Digits", "individual_digits": true});
        let splits = match name {
            "gpt-2" | "phi-2" | "mpt" | "olmo" => cut(&[GPT_2]),
            "smollm" | "starcoder" | "refact" | "command-r" => {
                [vec![digits], cut(&[GPT_2])].concat()
            }
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "pixtral" | "smaug-bpe" | "dbrx" => {
                cut(&[LLAMA_3])
            }
            "qwen2" | "stablelm2" | "deepseek-r1-qwen" | "megrez" => cut(&[QWEN_2]),
            "tekken" => cut(&[TEKKEN]),
            "gpt-4o" => cut(&[GPT_4O]),
            "deepseek-v3" => cut(&DEEPSEEK_3),
            "default" => cut(&DEFAULT),
            _ => return None,
        };
        let llama_3 = matches!(
            name,
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "pixtral" | "tekken"
        );
        Some(Self {
            composed: matches!(name, "qwen2" | "stablelm2" | "olmo" | "mpt" | "command-r"),
            splits,
            ignore_merges: llama_3,
            add_bos: llama_3,
        })
    }
}

impl GgufFile {
    /// Returns the tokenizer as the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`ModelError::Config`](crate::ModelError::Config) with the key that is absent, malformed or not known.
    pub fn tokenizer_json(&self) -> Result<String> {
        if let Some(text) = self.optional_text("tokenizer.huggingface.json")? {
            return Ok(text.to_owned());
        }
        let tokens = self.tokens()?;
        let key = "tokenizer.ggml.model";
        let mut file = match self.text(key)? {
            "gpt2" => self.byte_level(&tokens)?,
            "llama" => self.sentence_pieces(&tokens)?,
            other => {
                return Err(self.refuse(key, format!("`{other}` is not one of gpt2, llama")));
            }
        };
        file["version"] = "1.0".into();
        file["added_tokens"] = self.added_tokens(&tokens)?;
        Ok(file.to_string())
    }

    /// Returns the chat template and the texts of the special tokens that it may name, by their keys in
    /// `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`ModelError::Config`](crate::ModelError::Config) for a template or token that is none.
    pub fn chat_template(&self) -> Result<Option<(String, Map<String, Json>)>> {
        let Some(template) = self.optional_text("tokenizer.chat_template")? else {
            return Ok(None);
        };
        Ok(Some((template.to_owned(), self.named_tokens()?)))
    }

    /// Returns the special tokens under the names that they have in `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`ModelError::Config`](crate::ModelError::Config) for a token that is none.
    pub fn named_tokens(&self) -> Result<Map<String, Json>> {
        let tokens = self.texts("tokenizer.ggml.tokens").unwrap_or_default();
        let mut named = Map::new();
        for (name, key) in [
            ("bos_token", "bos"),
            ("eos_token", "eos"),
            ("unk_token", "unknown"),
            ("pad_token", "padding"),
        ] {
            let id = self.special_token(key)?;
            if let Some(text) = id.and_then(|id| tokens.get(id as usize)) {
                named.insert(name.to_owned(), (*text).into());
            }
        }
        Ok(named)
    }

    /// Returns the tokens that end a response: those that the file names, and the end of a turn by its text.
    pub(super) fn end_tokens(&self) -> Result<Vec<u32>> {
        /// Texts that end a turn in the families that have a chat form; files seldom name them.
        const ENDS: [&str; 7] = [
            "<|eot_id|>",
            "<|eom_id|>",
            "<|im_end|>",
            "<|end|>",
            "<end_of_turn>",
            "<|endoftext|>",
            "<|end_of_text|>",
        ];
        let mut ids = Vec::new();
        for key in ["eos", "eot", "eom"] {
            ids.extend(self.special_token(key)?);
        }
        if self.get("tokenizer.ggml.tokens").is_some() {
            let ends = self
                .tokens()?
                .into_iter()
                .zip(0..)
                .filter(|(token, _)| token.kind == Kind::Control && ENDS.contains(&token.text));
            ids.extend(ends.map(|(_, id)| id));
        }
        let mut known = Vec::new();
        for id in ids {
            if !known.contains(&id) {
                known.push(id);
            }
        }
        Ok(known)
    }

    /// Returns the id of a special token: `bos`, `eos`, `eot`, `eom`, `unknown` or `padding`.
    ///
    /// Those of a SentencePiece vocabulary that the file does not name are where SentencePiece puts them.
    fn special_token(&self, name: &str) -> Result<Option<u32>> {
        let id = self.optional_token(&format!("tokenizer.ggml.{name}_token_id"))?;
        let is_sentence_piece = self.optional_text("tokenizer.ggml.model")? == Some("llama");
        let default = match name {
            "unknown" => Some(0),
            "bos" => Some(1),
            "eos" => Some(2),
            _ => None,
        };
        Ok(id.or(default.filter(|_| is_sentence_piece)))
    }

    /// Returns the vocabulary.
    fn tokens(&self) -> Result<Vec<Token<'_>>> {
        let (list, types) = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type");
        let texts = self.texts(list)?;
        let kinds = self.numbers(types)?;
        if kinds
            .as_ref()
            .is_some_and(|kinds| kinds.len() != texts.len())
        {
            return Err(self.refuse(
                types,
                format!("is not as long as the {} tokens", texts.len()),
            ));
        }
        let kind = |id: usize| match kinds.as_ref().map_or(1, |kinds| kinds[id] as i64) {
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => Kind::Normal,
        };
        let tokens = texts.into_iter().enumerate();
        Ok(tokens
            .map(|(id, text)| Token {
                text,
                kind: kind(id),
            })
            .collect())
    }

    /// Returns the ids of the tokens that a text can have; those of unused tokens stay free.
    fn vocabulary(&self, tokens: &[Token]) -> Result<Map<String, Json>> {
        let mut vocabulary = Map::new();
        for (id, token) in tokens.iter().enumerate() {
            if token.kind != Kind::Unused
                && vocabulary
                    .insert(token.text.to_owned(), id.into())
                    .is_some()
            {
                let message = format!("`{}` is there twice", token.text);
                return Err(self.refuse("tokenizer.ggml.tokens", message));
            }
        }
        Ok(vocabulary)
    }

    /// Returns the tokens that are found before a text is divided.
    fn added_tokens(&self, tokens: &[Token]) -> Result<Json> {
        // Phi 3's special tokens swallow the white space behind them, of which the file says nothing.
        let swallows = self
            .optional_text("general.name")?
            .is_some_and(|name| name.to_lowercase().replace('-', "").contains("phi3"))
            && self.text("tokenizer.ggml.model")? == "llama";
        let added = tokens.iter().enumerate().filter_map(|(id, token)| {
            let special = match token.kind {
                Kind::Control | Kind::Unknown => true,
                Kind::UserDefined => false,
                Kind::Normal | Kind::Unused | Kind::Byte => return None,
            };
            let swallows = swallows && !["<unk>", "<s>", "<|endoftext|>"].contains(&token.text);
            Some(json!({
                "id": id, "content": token.text, "single_word": false, "lstrip": false,
                "rstrip": swallows, "normalized": false, "special": special,
            }))
        });
        Ok(added.collect())
    }

    /// Returns what puts the begin and end tokens around a document.
    fn post_processor(&self, tokens: &[Token], add_bos: bool) -> Result<Json> {
        let add = |key: &str, default| {
            let switch = self.optional_switch(&format!("tokenizer.ggml.add_{key}_token"))?;
            if !switch.unwrap_or(default) {
                return Ok(None);
            }
            let id = self.special_token(key)?;
            let token = id.and_then(|id| Some((id, tokens.get(id as usize)?.text)));
            if switch == Some(true) && token.is_none() {
                let key = format!("tokenizer.ggml.{key}_token_id");
                return Err(self.refuse(&key, "is not the id of a token"));
            }
            Ok(token)
        };
        let (bos, eos) = (add("bos", add_bos)?, add("eos", false)?);
        let mut special = BTreeMap::new();
        let mut piece = |token: Option<(u32, &str)>| {
            token.map(|(id, text)| {
                special.insert(
                    text.to_owned(),
                    json!({"id": text, "ids": [id], "tokens": [text]}),
                );
                json!({"SpecialToken": {"id": text, "type_id": 0}})
            })
        };
        let (bos, eos) = (piece(bos), piece(eos));
        if bos.is_none() && eos.is_none() {
            return Ok(Json::Null);
        }
        let text = |id: &str, type_id: u32| json!({"Sequence": {"id": id, "type_id": type_id}});
        let around = |texts: Vec<Json>| -> Json {
            [
                bos.clone().into_iter().collect(),
                texts,
                eos.clone().into_iter().collect(),
            ]
            .concat()
            .into()
        };
        Ok(json!({
            "type": "TemplateProcessing",
            "single": around(vec![text("A", 0)]),
            "pair": around(vec![text("A", 0), text("B", 1)]),
            "special_tokens": special,
        }))
    }

    /// Returns a tokenizer that merges bytes.
    fn byte_level(&self, tokens: &[Token]) -> Result<Json> {
        let key = "tokenizer.ggml.pre";
        let name = self.text(key)?;
        let pre = PreTokenizer::of(name).ok_or_else(|| {
            let known = PRE_TOKENIZERS.join(", ");
            self.refuse(key, format!("`{name}` is not one of {known}"))
        })?;
        let key = "tokenizer.ggml.merges";
        let merges = self.texts(key)?.into_iter().map(|merge| {
            // A token may itself begin with a space, but not be empty.
            let gap = merge.char_indices().skip(1).find(|(_, c)| *c == ' ');
            let gap = gap.map(|(at, _)| merge.split_at(at));
            gap.map(|(left, right)| json!([left, &right[1..]]))
                .ok_or_else(|| self.refuse(key, format!("`{merge}` is not two tokens")))
        });
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        let parts = [pre.splits, vec![bytes.clone()]].concat();
        let normalizer = match pre.composed {
            true => json!({"type": "NFC"}),
            false => Json::Null,
        };
        Ok(json!({
            "normalizer": normalizer,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": parts},
            "post_processor": self.post_processor(tokens, pre.add_bos)?,
            "decoder": bytes,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": pre.ignore_merges, "vocab": self.vocabulary(tokens)?,
                "merges": merges.collect::<Result<Vec<_>>>()?,
            },
        }))
    }

    /// Returns a tokenizer that merges characters in the order of SentencePiece's scores.
    fn sentence_pieces(&self, tokens: &[Token]) -> Result<Json> {
        let key = "tokenizer.ggml.scores";
        let scores = self.numbers(key)?;
        let scores = scores.filter(|scores| scores.len() == tokens.len());
        let scores =
            scores.ok_or_else(|| self.refuse(key, "is missing, or not as long as the tokens"))?;
        let prefix = self.optional_switch("tokenizer.ggml.add_space_prefix")?;
        let prefix = prefix.unwrap_or(true);
        let merges = merges_by_score(tokens, &scores);
        let normal = || {
            tokens
                .iter()
                .zip(&scores)
                .filter(|(token, _)| token.kind == Kind::Normal)
        };
        let first = normal().map(|(_, score)| *score).next();
        if merges.len() > 1 && normal().all(|(_, score)| Some(*score) == first) {
            return Err(self.refuse(key, "are all alike, so that no merge comes before another"));
        }
        let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let normalizers = match prefix {
            true => vec![json!({"type": "Prepend", "prepend": "▁"}), space],
            false => vec![space],
        };
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let unknown = self.special_token("unknown")?;
        let unknown = unknown.and_then(|id| tokens.get(id as usize));
        Ok(json!({
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": null,
            "post_processor": self.post_processor(tokens, true)?,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": unknown.map(|token| token.text),
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
                "byte_fallback": true, "ignore_merges": false, "vocab": self.vocabulary(tokens)?,
                "merges": merges,
            },
        }))
    }
}

/// Returns every way to put a token together from two, those of the highest score first.
///
/// The order among equals is that of transformers' `generate_merges`.
fn merges_by_score<'a>(tokens: &[Token<'a>], scores: &[f64]) -> Vec<[&'a str; 2]> {
    let usable = |token: &Token| matches!(token.kind, Kind::Normal | Kind::UserDefined);
    let ids: HashMap<&str, usize> = tokens
        .iter()
        .enumerate()
        .filter(|(_, token)| usable(token))
        .map(|(id, token)| (token.text, id))
        .collect();
    let mut merges = Vec::new();
    for (token, score) in tokens.iter().zip(scores) {
        if !usable(token) {
            continue;
        }
        let splits = token.text.char_indices().skip(1);
        let halves = splits.map(|(at, _)| token.text.split_at(at));
        let mut of_token: Vec<_> = halves
            .filter_map(|(left, right)| Some((ids.get(left)?, ids.get(right)?, [left, right])))
            .collect();
        of_token.sort_by_key(|(left, right, _)| (*left, *right));
        merges.extend(of_token.into_iter().map(|(.., halves)| (*score, halves)));
    }
    let lengths = |halves: &[&str; 2]| halves.map(|half| half.chars().count());
    merges.sort_by(|(score_a, a), (score_b, b)| {
        let by_score = score_b.total_cmp(score_a);
        by_score.then_with(|| lengths(b).cmp(&lengths(a)))
    });
    merges.into_iter().map(|(_, halves)| halves).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pre_tokenizer_that_is_named_is_read() {
        for name in PRE_TOKENIZERS {
            assert!(PreTokenizer::of(name).is_some(), "{name}");
        }
        assert!(PreTokenizer::of("bert").is_none());
    }

    #[test]
    fn merges_come_in_the_order_of_scores() {
        let texts = ["<unk>", "a", "b", "ab", "ba", "aba", "éa", "é"];
        let scores = [0.0, -8.0, -9.0, -1.0, -2.0, -3.0, -1.0, -10.0];
        let tokens: Vec<_> = texts
            .iter()
            .map(|&text| Token {
                text,
                kind: if text == "<unk>" {
                    Kind::Unknown
                } else {
                    Kind::Normal
                },
            })
            .collect();
        let merges = merges_by_score(&tokens, &scores);
        let expected = [["a", "b"], ["é", "a"], ["b", "a"], ["ab", "a"], ["a", "ba"]];
        assert_eq!(merges, expected);
    }
}
