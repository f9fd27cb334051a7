//! A model folder with random weights and a tokenizer of words, for tests that run a stage's program.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use sims_artifact::tables::{Message, PromptRow};
use sims_artifact::{TensorData, write_tensors};
use sims_model::generate::SampleKey;

/// The width of the residual stream.
pub const HIDDEN: usize = 32;
/// The number of blocks.
pub const LAYERS: usize = 3;
/// Special tokens, then words.
const SPECIAL: [&str; 5] = [
    "[UNK]",
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
];
const WORDS: usize = 59;

/// A class of tokens that share a direction, in a model whose head is its embedding.
///
/// The members are the last words of the vocabulary. Their embeddings have the same component along
/// [`planted_direction`], and no other token has one; since the head is the embedding, a residual stream with
/// more of the direction raises the odds of the whole class. One attention head of every block reads the
/// direction from the tokens seen so far and writes it at the current position, so that states remember how
/// many members went before, whatever token they stand at. Everything else is random and small.
#[derive(Debug, Clone, Copy)]
pub struct PlantedClass {
    /// How many tokens are members.
    pub members: usize,
    /// Length of the shared component.
    pub component: f32,
    /// Gain of the heads that remember the class.
    pub memory: f32,
    /// Scale of the other components of the embeddings.
    pub embedding: f32,
    /// Scale of the random weights of the blocks.
    pub blocks: f32,
}

impl Default for PlantedClass {
    /// A class with about a sixth of the tokens of a sampled response.
    fn default() -> Self {
        Self {
            members: 6,
            component: 0.45,
            memory: 0.08,
            embedding: 0.2,
            blocks: 0.04,
        }
    }
}

impl PlantedClass {
    /// Returns whether a token is a member.
    pub fn contains(&self, id: u32) -> bool {
        let vocab = vocabulary().len();
        (vocab - self.members..vocab).contains(&(id as usize))
    }
}

/// Returns the unit direction `[HIDDEN]` that the members of a planted class share.
pub fn planted_direction() -> Vec<f32> {
    let draw = random("planted", &[1, HIDDEN], 1.0).values;
    let length = dot(&draw, &draw).sqrt();
    draw.iter().map(|x| x / length).collect()
}

/// What the model is like.
#[derive(Debug, Clone)]
pub struct RandomModel {
    /// Longest sequence, in tokens.
    pub context: usize,
    /// Multiplies the random logits of a model with a head of its own; 0 gives every token the same probability.
    pub head_scale: f32,
    /// Put into one weight.
    pub broken_weight: Option<f32>,
    /// Whether the folder has a judge template of its own.
    pub judge_template: bool,
    /// A class of tokens to steer to, in a model whose head is its embedding; without it the head is its own.
    pub planted: Option<PlantedClass>,
}

impl Default for RandomModel {
    fn default() -> Self {
        Self {
            context: 256,
            head_scale: 1.0,
            broken_weight: None,
            judge_template: true,
            planted: None,
        }
    }
}

impl RandomModel {
    /// Writes the model into the new folder `folder/model` and returns its path.
    pub fn write(&self, folder: &Path) -> PathBuf {
        let directory = folder.join("model");
        fs::create_dir(&directory).expect("the folder is writable");
        let write = |name: &str, value: &Value| {
            fs::write(directory.join(name), value.to_string()).expect("the folder is writable");
        };
        write("config.json", &self.config());
        write("tokenizer.json", &tokenizer());
        write(
            "tokenizer_config.json",
            &json!({"chat_template": CHAT_TEMPLATE}),
        );
        write("generation_config.json", &json!({"eos_token_id": 1}));
        if self.judge_template {
            write("judge_template.json", &judge_template());
        }
        let tensors = self.tensors();
        write_tensors(&directory.join("model.safetensors"), &tensors, &json!({}))
            .expect("the folder is writable");
        directory
    }

    fn config(&self) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": vocabulary().len(),
            "hidden_size": HIDDEN,
            "intermediate_size": 48,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": self.context,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": self.planted.is_some(),
            "eos_token_id": 1,
        })
    }

    fn tensors(&self) -> BTreeMap<String, TensorData> {
        let vocab = vocabulary().len();
        let mut tensors = BTreeMap::new();
        let embedding_scale = self.planted.map_or(2.0, |class| class.embedding);
        let block_scale = self.planted.map_or(0.5, |class| class.blocks);
        let mut add = |name: String, shape: &[usize], scale: f32| {
            tensors.insert(name.clone(), random(&name, shape, scale));
        };
        add(
            "model.embed_tokens.weight".to_owned(),
            &[vocab, HIDDEN],
            embedding_scale,
        );
        if self.planted.is_none() {
            add(
                "lm_head.weight".to_owned(),
                &[vocab, HIDDEN],
                self.head_scale,
            );
        }
        add("model.norm.weight".to_owned(), &[HIDDEN], 0.0);
        for layer in 0..LAYERS {
            for (name, shape) in [
                ("input_layernorm", vec![HIDDEN]),
                ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
                ("self_attn.k_proj", vec![HIDDEN / 2, HIDDEN]),
                ("self_attn.v_proj", vec![HIDDEN / 2, HIDDEN]),
                ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
                ("post_attention_layernorm", vec![HIDDEN]),
                ("mlp.gate_proj", vec![48, HIDDEN]),
                ("mlp.up_proj", vec![48, HIDDEN]),
                ("mlp.down_proj", vec![HIDDEN, 48]),
            ] {
                add(
                    format!("model.layers.{layer}.{name}.weight"),
                    &shape,
                    block_scale,
                );
            }
        }
        if let Some(class) = &self.planted {
            class.plant(&mut tensors);
        }
        if let (Some(value), Some(tensor)) = (
            self.broken_weight,
            tensors.get_mut("model.layers.1.mlp.up_proj.weight"),
        ) {
            tensor.values[5] = value;
        }
        tensors
    }
}

impl PlantedClass {
    /// Puts the class into random weights.
    fn plant(&self, tensors: &mut BTreeMap<String, TensorData>) {
        let direction = planted_direction();
        let mut tensor = |name: &str| {
            tensors
                .remove(name)
                .map(|tensor| (name.to_owned(), tensor))
                .expect("the model has this tensor")
        };
        let mut changed = Vec::new();

        let (name, mut embedding) = tensor("model.embed_tokens.weight");
        for (id, row) in embedding.values.chunks_exact_mut(HIDDEN).enumerate() {
            let along = dot(row, &direction);
            let wanted = if self.contains(id as u32) {
                self.component
            } else {
                0.0
            };
            add_scaled(row, wanted - along, &direction);
        }
        changed.push((name, embedding));

        for layer in 0..LAYERS {
            let block = format!("model.layers.{layer}.self_attn");
            let gain = self.memory.sqrt();
            // Value 0 of the first key-value head is how much of the direction a token has.
            let (name, mut value) = tensor(&format!("{block}.v_proj.weight"));
            add_scaled(&mut value.values[..HIDDEN], gain, &direction);
            changed.push((name, value));
            // Both query heads that share it write it back, half each.
            let (name, mut output) = tensor(&format!("{block}.o_proj.weight"));
            for (row, along) in output.values.chunks_exact_mut(HIDDEN).zip(&direction) {
                for head in 0..2 {
                    row[head * HIDDEN / 4] += gain / 2.0 * along;
                }
            }
            changed.push((name, output));
        }
        tensors.extend(changed);
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add_scaled(row: &mut [f32], factor: f32, direction: &[f32]) {
    for (x, along) in row.iter_mut().zip(direction) {
        *x += factor * along;
    }
}

const CHAT_TEMPLATE: &str = "{% for message in messages %}<|{{ message.role }}|> {{ message.content }} \
    <|end|> {% endfor %}{% if add_generation_prompt %}<|assistant|> {% endif %}";

/// Returns the tokens in the order of their ids.
pub fn vocabulary() -> Vec<String> {
    let named = ["A", "B", "first", "second", "sort"];
    let words = (named.len()..WORDS).map(|i| format!("w{i}"));
    SPECIAL
        .iter()
        .chain(&named)
        .map(|&word| word.to_owned())
        .chain(words)
        .collect()
}

fn tokenizer() -> Value {
    let special = |(id, content): (usize, &&str)| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        })
    };
    let ids: BTreeMap<String, usize> = vocabulary()
        .into_iter()
        .enumerate()
        .map(|(id, word)| (word, id))
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": SPECIAL.iter().enumerate().map(special).collect::<Vec<_>>(),
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": "[UNK]"},
    })
}

fn judge_template() -> Value {
    json!({
        "version": "words-1",
        "messages": [{
            "role": "user",
            "content": "{{ request }} first {{ first }} second {{ second }}",
        }],
        "assistant_prefix": "",
        "verdict_a": ["A"],
        "verdict_b": ["B"],
    })
}

/// Returns the direction `[HIDDEN]` in which the residual stream raises the odds of token `id` most, in a model with a
/// head of its own.
pub fn head_row(id: usize) -> Vec<f32> {
    let head = random("lm_head.weight", &[vocabulary().len(), HIDDEN], 1.0);
    head.values[id * HIDDEN..(id + 1) * HIDDEN].to_vec()
}

/// Returns numbers between -1 and 1 times `scale`; around 1 for norms.
fn random(name: &str, shape: &[usize], scale: f32) -> TensorData {
    let key = SampleKey::new(3, 0, name, 0);
    let count = shape.iter().product();
    let values = (0..count).map(|i| {
        let uniform = 2.0 * key.uniform(i as u64) as f32 - 1.0;
        if shape.len() == 1 {
            1.0 + 0.2 * uniform
        } else {
            scale * uniform
        }
    });
    TensorData {
        shape: shape.to_vec(),
        values: values.collect(),
    }
}

/// Returns `count` prompts of a few words.
pub fn prompts(count: usize) -> Vec<PromptRow> {
    (0..count)
        .map(|i| {
            let text = format!("sort w{} w{} w{}", 5 + i % 50, 5 + i * 7 % 50, 5 + i / 50);
            PromptRow::new(vec![Message::user(text)], "train", "test")
        })
        .collect()
}

/// Runs `program` with `--model`, `--out` and the other arguments.
pub fn run(program: &str, model: &Path, out: &Path, arguments: &[&str]) -> Output {
    Command::new(program)
        .arg("--model")
        .arg(model)
        .arg("--out")
        .arg(out)
        .args(["--device", "cpu"])
        .args(arguments)
        .output()
        .expect("the program can be started")
}

/// Runs `program` as [`run`] does, interrupts it once it works, and asserts that it left nothing.
pub fn interrupted(program: &str, model: &Path, out: &Path, arguments: &[&str]) {
    let mut child = Command::new(program)
        .arg("--model")
        .arg(model)
        .arg("--out")
        .arg(out)
        .args(["--device", "cpu", "--progress", "json"])
        .args(arguments)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be started");
    let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
    // The first report comes when the work begins, after the handler is in place.
    let first = lines
        .next()
        .expect("the program reports progress")
        .expect("reports are text");
    assert!(first.contains("\"progress\""), "{first}");
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &id])
            .status()
            .expect("kill is there")
            .success()
    );
    let rest: Vec<String> = lines.map(|line| line.expect("messages are text")).collect();
    let code = child.wait().expect("the child is ours").code();
    assert_eq!(code, Some(1), "{rest:?}");
    assert!(
        rest.last().is_some_and(|line| line.contains("interrupted")),
        "{rest:?}"
    );
    let left = fs::read_dir(out).expect("the folder is there");
    assert_eq!(left.count(), 0);
}

/// Asserts that a run succeeded.
pub fn succeeded(output: &Output) {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Asserts that a run refused its input (exit code 2) and left no summary, and returns its message.
pub fn refused(output: &Output, out: &Path) -> String {
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(!out.join("summary.json").exists());
    message
}

/// Reads a run's summary.
pub fn summary(out: &Path) -> Value {
    let text = fs::read_to_string(out.join("summary.json")).expect("the run wrote a summary");
    serde_json::from_str(&text).expect("summaries are JSON")
}
