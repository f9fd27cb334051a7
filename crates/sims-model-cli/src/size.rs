//! `sims-model size`: what a model takes, and how long prompts are in its tokens; weights are not needed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sims_artifact::read_prompts;
use sims_artifact::tables::PromptRow;
use sims_model::gguf::is_gguf;
use sims_model::memory::Footprint;
use sims_model::{ChatMessage, ChatTemplate, Config, Dtype, JudgeTemplate, Tokenizer};

use crate::open::print_json;

/// Print what a model takes on a GPU, and the length of prompts; of the model only config.json must be there
///
/// Without tokenizer.json tokens are guessed, at four characters each. `sims plan --on` asks for this.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sims-model size data/tiny\n  \
                  sims-model size data/tiny --prompts data/toyworld/train.parquet --json")]
pub(crate) struct Args {
    /// Hugging Face directory of the model, or GGUF file
    #[arg(value_name = "DIR")]
    model: PathBuf,
    /// Prompts to measure; may be given several times
    #[arg(long, value_name = "FILE")]
    prompts: Vec<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Characters of a token, where no tokenizer is there to count.
const CHARACTERS_A_TOKEN: usize = 4;
/// Tokens that a chat template adds to a prompt, where it is not there.
const CHAT_TOKENS: usize = 12;
/// Stand for request and answers while the judge's template is cut to pieces: private-use characters.
const HOLES: [&str; 3] = ["\u{E000}", "\u{E001}", "\u{E002}"];

/// What a model takes.
#[derive(Debug, Serialize)]
struct Size {
    /// Distinct weights; a tied head counts once.
    parameters: usize,
    /// Weights that one token meets: of a mixture of experts, those of its experts.
    active_parameters: usize,
    layers: usize,
    hidden: usize,
    /// Longest sequence, in tokens.
    context: usize,
    /// Bytes on a GPU, by the type of the weights.
    footprints: BTreeMap<String, Bytes>,
    /// Whether tokens were counted, not guessed.
    counted: bool,
    /// Tokens of the judge's prompt: before the request, before the first answer, before the second, after it.
    judge: [usize; 4],
    prompts: BTreeMap<String, Vec<PromptLength>>,
}

/// Bytes by what they grow with.
#[derive(Debug, Serialize)]
struct Bytes {
    weights: usize,
    kv_slot: usize,
    row: usize,
    logits_row: usize,
}

/// How long a prompt is. Unit: tokens.
#[derive(Debug, Serialize)]
struct PromptLength {
    id: String,
    split: String,
    /// As the judge reads it.
    request: usize,
    /// As the model answers it, in the chat template.
    templated: usize,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let size = Size::of(&args.model, &args.prompts)?;
    if args.json {
        return print_json(&size);
    }
    print_line!(
        "{} parameters, {} met by a token, in {} layers",
        size.parameters,
        size.active_parameters,
        size.layers
    );
    for (dtype, bytes) in &size.footprints {
        print_line!(
            "{dtype}: {} bytes of weights, {} a token of context",
            bytes.weights,
            bytes.kv_slot
        );
    }
    let counted = if size.counted { "" } else { ", guessed" };
    for (file, prompts) in &size.prompts {
        let tokens: usize = prompts.iter().map(|prompt| prompt.templated).sum();
        print_line!(
            "{file}: {} prompts, {tokens} tokens{counted}",
            prompts.len()
        );
    }
    Ok(())
}

impl Size {
    fn of(model: &Path, files: &[PathBuf]) -> anyhow::Result<Self> {
        let config = Config::open(model)?;
        let ruler = Ruler::open(model)?;
        let mut prompts = BTreeMap::new();
        for file in files {
            let rows = read_prompts(file)?;
            let lengths = rows.iter().map(|row| ruler.prompt(row));
            let lengths = lengths.collect::<anyhow::Result<Vec<_>>>()?;
            prompts.insert(file.display().to_string(), lengths);
        }
        let footprint = |dtype| {
            let footprint = Footprint::on_device(&config, dtype);
            Bytes {
                weights: footprint.weights,
                kv_slot: footprint.kv_slot,
                row: footprint.row,
                logits_row: footprint.logits_row,
            }
        };
        let dtypes = [("f32", Dtype::F32), ("bf16", Dtype::Bf16)];
        Ok(Self {
            parameters: config.parameters(),
            active_parameters: config.parameters() - idle_parameters(&config),
            layers: config.num_hidden_layers,
            hidden: config.hidden_size,
            context: config.max_position_embeddings,
            footprints: dtypes
                .map(|(name, dtype)| (name.to_owned(), footprint(dtype)))
                .into(),
            counted: ruler.tokenizer.is_some(),
            judge: ruler.judge(model)?,
            prompts,
        })
    }
}

/// Weights of the experts that a token does not go to.
fn idle_parameters(config: &Config) -> usize {
    let sparse = config.layers.iter().filter(|layer| layer.sparse).count();
    config.experts.map_or(0, |experts| {
        let idle = experts.count.saturating_sub(experts.per_token);
        sparse * idle * 3 * config.hidden_size * experts.intermediate_size
    })
}

/// Measures texts in tokens.
struct Ruler {
    tokenizer: Option<Tokenizer>,
    chat: Option<ChatTemplate>,
}

impl Ruler {
    fn open(model: &Path) -> anyhow::Result<Self> {
        let there = is_gguf(model) || model.join("tokenizer.json").exists();
        Ok(Self {
            tokenizer: there.then(|| Tokenizer::open(model)).transpose()?,
            chat: if there {
                ChatTemplate::open(model)?
            } else {
                None
            },
        })
    }

    fn text(&self, text: &str) -> anyhow::Result<usize> {
        Ok(match &self.tokenizer {
            Some(tokenizer) => tokenizer.encode(text)?.len(),
            None => text.chars().count().div_ceil(CHARACTERS_A_TOKEN),
        })
    }

    fn prompt(&self, row: &PromptRow) -> anyhow::Result<PromptLength> {
        let texts: Vec<&str> = row
            .messages
            .iter()
            .map(|turn| turn.content.as_str())
            .collect();
        let request = self.text(&texts.join("\n\n"))?;
        let chat: Vec<ChatMessage> = row
            .messages
            .iter()
            .map(|turn| ChatMessage::new(turn.role.clone(), turn.content.clone()))
            .collect();
        let templated = match &self.chat {
            Some(template) => self.text(&template.render(&chat, true)?)?,
            None => request + CHAT_TOKENS,
        };
        Ok(PromptLength {
            id: row.prompt_id.clone(),
            split: row.split.clone(),
            request,
            templated,
        })
    }

    /// Measures the judge's prompt without request and answers.
    fn judge(&self, model: &Path) -> anyhow::Result<[usize; 4]> {
        let template = JudgeTemplate::open(model)?.unwrap_or_else(JudgeTemplate::ab_1);
        let [request, first, second] = HOLES;
        let text = template.prompt(self.chat.as_ref(), request, first, second);
        // A chat template that refuses a system message gets it in the user's; its length is much the same.
        let text = match text {
            Ok(text) => text,
            Err(_) => template.prompt(None, request, first, second)?,
        };
        let mut pieces = [0; 4];
        for (piece, text) in pieces.iter_mut().zip(text.split(HOLES.map(hole))) {
            *piece = self.text(text)?;
        }
        Ok(pieces)
    }
}

/// Returns the only character of a hole.
fn hole(text: &str) -> char {
    text.chars().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(config: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        folder
    }

    #[test]
    fn the_config_alone_is_enough() {
        // Llama-3-8B, whose model card says 8.03 billion parameters.
        let folder = folder_with(
            r#"{"model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 8192, "rope_theta": 500000.0, "tie_word_embeddings": false}"#,
        );
        let size = Size::of(folder.path(), &[]).unwrap();
        assert_eq!(size.parameters, 8_030_261_248);
        assert_eq!(size.active_parameters, size.parameters);
        // Keys and values of 8 heads of 128 in 32 layers.
        assert_eq!(size.footprints["bf16"].kv_slot, 2 * 2 * 32 * 8 * 128);
        assert!(!size.counted);
        assert!(size.judge.iter().all(|piece| *piece > 0));
    }

    #[test]
    fn of_experts_a_token_meets_its_own() {
        // Mixtral 8x7B: 46.7 billion parameters, of which a token meets 12.9.
        let folder = folder_with(
            r#"{"model_type": "mixtral", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 32768, "rope_theta": 1000000.0, "num_local_experts": 8,
            "num_experts_per_tok": 2, "sliding_window": null, "tie_word_embeddings": false}"#,
        );
        let size = Size::of(folder.path(), &[]).unwrap();
        assert_eq!((size.parameters as f64 / 1e8).round(), 467.0);
        assert_eq!((size.active_parameters as f64 / 1e8).round(), 129.0);
    }
}
