//! The model families: what each one's keys mean, and what it calls its tensors.
//!
//! A family is one entry of [`FAMILIES`]: its `model_type`, its [`WeightNames`] and a function from its keys to a
//! [`Config`]. The functions start from [`common`], which reads what all families have, and set what differs.
//! Defaults are those of the family's class in transformers 5.23. `docs/adding-a-family.md` goes through one.

use super::reader::Reader;
use super::rotary;
use super::weight_names::{
    GEMMA_NAMES, GEMMA3_NAMES, LLAMA_NAMES, MIXTRAL_NAMES, OLMO2_NAMES, PHI3_NAMES,
    QWEN3_MOE_NAMES, WeightNames,
};
use super::{Activation, Config, ExpertsConfig, LayerConfig, QkNorm};
use crate::Result;
use crate::rope::RopeConfig;

/// A model family.
struct Family {
    /// What `model_type` says.
    model_type: &'static str,
    names: &'static WeightNames,
    read: fn(&Reader, &Family) -> Result<Config>,
}

const fn family(
    model_type: &'static str,
    names: &'static WeightNames,
    read: fn(&Reader, &Family) -> Result<Config>,
) -> Family {
    Family {
        model_type,
        names,
        read,
    }
}

/// Every family that the decoder serves, by name.
const FAMILIES: [Family; 13] = [
    family("gemma2", &GEMMA_NAMES, gemma2),
    family("gemma3", &GEMMA3_NAMES, gemma3_with_vision),
    family("gemma3_text", &GEMMA_NAMES, gemma3),
    family("granite", &LLAMA_NAMES, granite),
    family("llama", &LLAMA_NAMES, llama),
    family("mistral", &LLAMA_NAMES, mistral),
    family("mixtral", &MIXTRAL_NAMES, mixtral),
    family("olmo2", &OLMO2_NAMES, olmo2),
    family("phi3", &PHI3_NAMES, phi3),
    family("qwen2", &LLAMA_NAMES, qwen2),
    family("qwen3", &LLAMA_NAMES, qwen3),
    family("qwen3_moe", &QWEN3_MOE_NAMES, qwen3_moe),
    family("smollm3", &LLAMA_NAMES, smollm3),
];

/// Returns the `model_type` of every family that the decoder serves.
pub fn known_families() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|family| family.model_type)
}

/// Reads the config of whichever family `model_type` names.
pub(super) fn read(reader: &Reader) -> Result<Config> {
    let model_type = reader.text("model_type")?;
    let Some(family) = FAMILIES
        .iter()
        .find(|family| family.model_type == model_type)
    else {
        let known: Vec<&str> = known_families().collect();
        let message = format!("`{model_type}` is not one of {}", known.join(", "));
        return Err(reader.refuse("model_type", message));
    };
    if reader.get("quantization_config").is_some() {
        return Err(reader.refuse(
            "quantization_config",
            "quantized weights are read from GGUF files only",
        ));
    }
    let config = (family.read)(reader, family)?;
    reader.refuse_unread(model_type)?;
    Ok(config)
}

/// What a class takes for keys that are absent; `None` where they are refused.
#[derive(Default)]
struct Defaults {
    vocab_size: Option<usize>,
    heads: Option<usize>,
    kv_heads: KvHeads,
    head_dim: Option<usize>,
    context: Option<usize>,
    eps: Option<f64>,
    theta: Option<f64>,
    tied: bool,
}

/// What a class takes for an absent `num_key_value_heads`.
#[derive(Clone, Copy, Default)]
enum KvHeads {
    /// A number of its own, which a config had better state.
    #[default]
    Refused,
    /// One a query head.
    Heads,
    /// This number.
    Number(usize),
}

/// Reads what all families have; everything else is as in Llama without biases.
fn common(reader: &Reader, family: &Family, defaults: &Defaults) -> Result<Config> {
    let name = family.model_type;
    let num_attention_heads = reader.count("num_attention_heads", defaults.heads)?;
    let num_key_value_heads = match (
        reader.optional_count("num_key_value_heads")?,
        defaults.kv_heads,
    ) {
        (Some(heads), _) => heads,
        (None, KvHeads::Number(heads)) => heads,
        // A null is "one a query head" to every class.
        (None, KvHeads::Refused) if !reader.contains("num_key_value_heads") => {
            return Err(reader.refuse("num_key_value_heads", "is missing"));
        }
        (None, _) => num_attention_heads,
    };
    let hidden_size = reader.count("hidden_size", None)?;
    let head_dim = reader
        .optional_count("head_dim")?
        .or(defaults.head_dim)
        .unwrap_or(hidden_size / num_attention_heads);
    if head_dim == 0 || !head_dim.is_multiple_of(2) {
        let message = format!("{head_dim} is not a positive even number");
        return Err(reader.refuse("head_dim", message));
    }
    if !num_attention_heads.is_multiple_of(num_key_value_heads) {
        let message = format!(
            "{num_key_value_heads} does not divide the {num_attention_heads} attention heads"
        );
        return Err(reader.refuse("num_key_value_heads", message));
    }
    let num_hidden_layers = reader.count("num_hidden_layers", None)?;
    let max_position_embeddings = reader.count("max_position_embeddings", defaults.context)?;
    let eps = reader.optional_positive("rms_norm_eps")?.or(defaults.eps);
    let theta = defaults.theta.unwrap_or(10_000.0);
    let layer = LayerConfig {
        window: None,
        rope: Some(0),
        sparse: false,
    };
    let mut config = Config {
        model_type: name.to_owned(),
        vocab_size: reader.count("vocab_size", defaults.vocab_size)?,
        hidden_size,
        intermediate_size: reader.count("intermediate_size", None)?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        max_position_embeddings,
        rms_norm_eps: eps.ok_or_else(|| reader.refuse("rms_norm_eps", "is missing"))? as f32,
        norm_adds_one: false,
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        qk_norm: None,
        hidden_act: activation(reader, "hidden_act", Activation::Silu)?,
        attention_scale: 1.0 / (head_dim as f32).sqrt(),
        attn_logit_softcapping: None,
        final_logit_softcapping: None,
        embedding_multiplier: 1.0,
        residual_multiplier: 1.0,
        logits_scaling: 1.0,
        ropes: Vec::new(),
        layers: vec![layer; num_hidden_layers],
        experts: None,
        tie_word_embeddings: reader
            .optional_switch("tie_word_embeddings")?
            .unwrap_or(defaults.tied),
        eos_token_ids: Vec::new(),
        names: family.names,
    };
    // Gemma 3 has rotary embeddings by kind of layer, which it reads itself.
    if !name.starts_with("gemma3") {
        config.set_rope(rotary::shared(reader, head_dim, theta, name)?, reader)?;
    }
    Ok(config)
}

impl Config {
    /// Takes a rotary embedding for all layers.
    fn set_rope(&mut self, rope: RopeConfig, reader: &Reader) -> Result<()> {
        use crate::rope::RopeScaling::LongRope;
        if let LongRope { short_factor, .. } = &rope.scaling
            && short_factor.len() != rope.rotary_dim / 2
        {
            let message = format!(
                "has {} factors for {} pairs of dimensions",
                short_factor.len(),
                rope.rotary_dim / 2
            );
            return Err(reader.refuse("rope_scaling.short_factor", message));
        }
        self.max_position_embeddings = rope.scaling.context(self.max_position_embeddings);
        self.ropes = vec![rope];
        Ok(())
    }

    /// Sets the biases of all four projections of attention.
    fn set_attention_bias(&mut self, bias: bool) {
        (self.qkv_bias, self.o_bias) = (bias, bias);
    }

    /// Gives a window to the layers that `layer_types` names, or else to those that `slides` says.
    fn set_windows(
        &mut self,
        reader: &Reader,
        window: Option<usize>,
        slides: impl Fn(usize) -> bool,
    ) -> Result<()> {
        for (layer, slides) in layer_kinds(reader, self.num_hidden_layers, slides)?
            .into_iter()
            .enumerate()
        {
            if slides && window.is_none() {
                let message = format!("is missing, and layer {layer} attends within it");
                return Err(reader.refuse("sliding_window", message));
            }
            self.layers[layer].window = window.filter(|_| slides);
        }
        Ok(())
    }
}

/// Reads an activation's name; `default` is what the class takes for an absent key.
fn activation(reader: &Reader, key: &str, default: Activation) -> Result<Activation> {
    if reader.get(key).is_none() {
        return Ok(default);
    }
    match reader.text(key)? {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        other => Err(reader.refuse(
            key,
            format!("`{other}` is not one of silu, gelu_pytorch_tanh"),
        )),
    }
}

/// Returns which layers attend within a window: as `layer_types` says, else as `default` does.
fn layer_kinds(
    reader: &Reader,
    layers: usize,
    default: impl Fn(usize) -> bool,
) -> Result<Vec<bool>> {
    let Some(value) = reader.get("layer_types") else {
        return Ok((0..layers).map(default).collect());
    };
    let kinds = value.as_array().map_or(&[][..], Vec::as_slice);
    if kinds.len() != layers {
        let message = format!("does not name a kind for each of the {layers} layers");
        return Err(reader.refuse("layer_types", message));
    }
    let slides = kinds.iter().map(|kind| match kind.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(reader.refuse(
            "layer_types",
            format!("{kind} is not computed; full_attention and sliding_attention are"),
        )),
    });
    slides.collect()
}

/// Llama 2 to 3.2, and the many models that say they are.
fn llama(reader: &Reader, family: &Family) -> Result<Config> {
    let defaults = Defaults {
        kv_heads: KvHeads::Heads,
        eps: Some(1e-6),
        ..Defaults::default()
    };
    let mut config = common(reader, family, &defaults)?;
    config.set_attention_bias(reader.switch("attention_bias")?);
    config.mlp_bias = reader.switch("mlp_bias")?;
    config.set_windows(reader, None, |_| false)?;
    Ok(config)
}

/// An absent window is 4096 positions to the class, a null is none.
fn mistral(reader: &Reader, family: &Family) -> Result<Config> {
    let mut config = common(reader, family, &Defaults::default())?;
    let window = match reader.optional_count("sliding_window")? {
        None if !reader.contains("sliding_window") => Some(4096),
        window => window,
    };
    config.set_windows(reader, window, |_| window.is_some())?;
    Ok(config)
}

fn mixtral(reader: &Reader, family: &Family) -> Result<Config> {
    let defaults = Defaults {
        theta: Some(1e6),
        ..Defaults::default()
    };
    let mut config = common(reader, family, &defaults)?;
    let window = reader.optional_count("sliding_window")?;
    config.set_windows(reader, window, |_| window.is_some())?;
    config.experts = Some(ExpertsConfig {
        count: reader.count("num_local_experts", None)?,
        per_token: reader.count("num_experts_per_tok", None)?,
        intermediate_size: config.intermediate_size,
        normalised: true,
    });
    config
        .layers
        .iter_mut()
        .for_each(|layer| layer.sparse = true);
    check_experts(&config, reader)?;
    Ok(config)
}

/// Returns the window of the Qwen classes, which a switch turns on.
fn switched_window(reader: &Reader) -> Result<Option<usize>> {
    let window = reader.optional_count("sliding_window")?;
    Ok(if reader.switch("use_sliding_window")? {
        window
    } else {
        None
    })
}

fn qwen2(reader: &Reader, family: &Family) -> Result<Config> {
    let mut config = common(reader, family, &Defaults::default())?;
    config.qkv_bias = true;
    upper_windows(&mut config, reader)?;
    Ok(config)
}

/// Gives windows to the layers from `max_window_layers` on.
fn upper_windows(config: &mut Config, reader: &Reader) -> Result<()> {
    let first = reader.get("max_window_layers").map_or(Ok(28), |value| {
        value.as_u64().ok_or_else(|| {
            reader.refuse(
                "max_window_layers",
                format!("{value} is not a whole number"),
            )
        })
    })?;
    let window = switched_window(reader)?;
    config.set_windows(reader, window, |layer| {
        window.is_some() && layer as u64 >= first
    })
}

const QWEN3: Defaults = Defaults {
    head_dim: Some(128),
    vocab_size: None,
    heads: None,
    kv_heads: KvHeads::Refused,
    context: None,
    eps: None,
    theta: None,
    tied: false,
};

fn qwen3(reader: &Reader, family: &Family) -> Result<Config> {
    let mut config = common(reader, family, &QWEN3)?;
    config.set_attention_bias(reader.switch("attention_bias")?);
    config.qk_norm = Some(QkNorm::Head);
    upper_windows(&mut config, reader)?;
    Ok(config)
}

fn qwen3_moe(reader: &Reader, family: &Family) -> Result<Config> {
    // Unlike qwen3, the class takes hidden_size / heads for an absent head_dim.
    let mut config = common(reader, family, &Defaults::default())?;
    config.set_attention_bias(reader.switch("attention_bias")?);
    config.qk_norm = Some(QkNorm::Head);
    let window = switched_window(reader)?;
    config.set_windows(reader, window, |_| window.is_some())?;
    reader.pass_over(&["max_window_layers"]);
    let dense = reader.whole_numbers("mlp_only_layers")?.unwrap_or_default();
    let every = reader.count("decoder_sparse_step", Some(1))?;
    for (index, layer) in config.layers.iter_mut().enumerate() {
        layer.sparse = !dense.contains(&index) && (index + 1).is_multiple_of(every);
    }
    let count = match reader.optional_count("num_experts")? {
        Some(count) => {
            reader.pass_over(&["num_local_experts"]);
            count
        }
        None => reader.count("num_local_experts", None)?,
    };
    config.experts = Some(ExpertsConfig {
        count,
        per_token: reader.count("num_experts_per_tok", None)?,
        intermediate_size: reader.count("moe_intermediate_size", None)?,
        normalised: reader.switch("norm_topk_prob")?,
    });
    check_experts(&config, reader)?;
    Ok(config)
}

fn check_experts(config: &Config, reader: &Reader) -> Result<()> {
    match config.experts {
        Some(experts) if experts.per_token > experts.count => {
            let message = format!(
                "{} is above the {} experts",
                experts.per_token, experts.count
            );
            Err(reader.refuse("num_experts_per_tok", message))
        }
        _ => Ok(()),
    }
}

/// What Gemma 2 and 3 have in common.
fn gemma(reader: &Reader, family: &Family, defaults: &Defaults) -> Result<Config> {
    // The activation's key is another one; checkpoints carry both.
    let act = activation(reader, "hidden_activation", Activation::GeluTanh)?;
    let mut config = common(reader, family, defaults)?;
    config.hidden_act = act;
    config.norm_adds_one = true;
    config.embedding_multiplier = (config.hidden_size as f32).sqrt();
    let scalar = reader
        .optional_positive("query_pre_attn_scalar")?
        .unwrap_or(256.0);
    config.attention_scale = scalar.powf(-0.5) as f32;
    config.set_attention_bias(reader.switch("attention_bias")?);
    if reader.switch("use_bidirectional_attention")? {
        let message = "attention to later tokens is not computed";
        return Err(reader.refuse("use_bidirectional_attention", message));
    }
    Ok(config)
}

/// Returns a bound: what the key says, none for a null, `default` where it is absent.
fn soft_cap(reader: &Reader, key: &str, default: Option<f32>) -> Result<Option<f32>> {
    let cap = reader.optional_positive(key)?.map(|cap| cap as f32);
    Ok(if reader.contains(key) { cap } else { default })
}

fn gemma2(reader: &Reader, family: &Family) -> Result<Config> {
    let defaults = Defaults {
        head_dim: Some(256),
        eps: Some(1e-6),
        tied: true,
        ..Defaults::default()
    };
    let mut config = gemma(reader, family, &defaults)?;
    config.attn_logit_softcapping = soft_cap(reader, "attn_logit_softcapping", Some(50.0))?;
    config.final_logit_softcapping = soft_cap(reader, "final_logit_softcapping", Some(30.0))?;
    let window = reader.count("sliding_window", Some(4096))?;
    if let Some(other) = reader.optional_count("sliding_window_size")?
        && other != window
    {
        let message = format!("{other} contradicts the sliding_window {window}");
        return Err(reader.refuse("sliding_window_size", message));
    }
    config.set_windows(reader, Some(window), |layer| layer % 2 == 0)?;
    Ok(config)
}

/// Configs of the hub state few keys; the others are the class's.
fn gemma3(reader: &Reader, family: &Family) -> Result<Config> {
    let defaults = Defaults {
        vocab_size: Some(262_208),
        heads: Some(8),
        kv_heads: KvHeads::Number(4),
        head_dim: Some(256),
        context: Some(131_072),
        eps: Some(1e-6),
        theta: None,
        tied: true,
    };
    let mut config = gemma(reader, family, &defaults)?;
    config.qk_norm = Some(QkNorm::Head);
    config.attn_logit_softcapping = soft_cap(reader, "attn_logit_softcapping", None)?;
    config.final_logit_softcapping = soft_cap(reader, "final_logit_softcapping", None)?;
    let every = match reader.optional_count("sliding_window_pattern")? {
        Some(every) => every,
        None => reader.count("_sliding_window_pattern", Some(6))?,
    };
    let window = reader.count("sliding_window", Some(4096))?;
    config.set_windows(reader, Some(window), |layer| {
        !(layer + 1).is_multiple_of(every)
    })?;
    let (global, local) = gemma3_ropes(reader, family, config.head_dim)?;
    config.set_rope(global, reader)?;
    config.ropes.push(local);
    for layer in &mut config.layers {
        layer.rope = Some(usize::from(layer.window.is_some()));
    }
    Ok(config)
}

/// Returns the rotary embeddings of the layers that attend everything and of those that attend a window.
fn gemma3_ropes(
    reader: &Reader,
    family: &Family,
    head_dim: usize,
) -> Result<(RopeConfig, RopeConfig)> {
    const GLOBAL_THETA: f64 = 1e6;
    const LOCAL_THETA: f64 = 1e4;
    let name = family.model_type;
    let global_theta = reader
        .optional_positive("rope_theta")?
        .unwrap_or(GLOBAL_THETA);
    let local_theta = reader
        .optional_positive("rope_local_base_freq")?
        .unwrap_or(LOCAL_THETA);
    let plain = |theta| RopeConfig {
        theta,
        rotary_dim: head_dim,
        scaling: crate::rope::RopeScaling::Default,
    };
    if let Some(kinds) = reader.level("rope_parameters")? {
        let of_kind = |kind: &str, theta: f64| match kinds.level(kind)? {
            Some(level) => rotary::of_kind(&level, reader, head_dim, theta, name),
            None => Ok(plain(theta)),
        };
        let ropes = (
            of_kind("full_attention", global_theta)?,
            of_kind("sliding_attention", local_theta)?,
        );
        kinds.refuse_unread(name)?;
        return Ok(ropes);
    }
    // Transformers 4 stretches the layers that attend everything, and those alone.
    let global = match reader.level("rope_scaling")? {
        Some(level) => rotary::of_kind(&level, reader, head_dim, global_theta, name)?,
        None => plain(global_theta),
    };
    Ok((global, plain(local_theta)))
}

/// The text part of a Gemma 3 that also sees.
fn gemma3_with_vision(reader: &Reader, family: &Family) -> Result<Config> {
    reader.pass_over(&[
        "boi_token_index",
        "eoi_token_index",
        "image_token_index",
        "image_token_id",
        "mm_tokens_per_image",
        "tie_word_embeddings",
        "vision_config",
    ]);
    let Some(text) = reader.level("text_config")? else {
        return Err(reader.refuse("text_config", "is missing"));
    };
    let mut config = gemma3(&text, family)?;
    text.refuse_unread("gemma3_text")?;
    if let Some(tied) = reader.optional_switch("tie_word_embeddings")? {
        config.tie_word_embeddings = tied;
    }
    Ok(config)
}

/// Phi-3, Phi-3.5 and Phi-4.
fn phi3(reader: &Reader, family: &Family) -> Result<Config> {
    let defaults = Defaults {
        kv_heads: KvHeads::Heads,
        ..Defaults::default()
    };
    let mut config = common(reader, family, &defaults)?;
    let window = reader.optional_count("sliding_window")?;
    config.set_windows(reader, window, |_| window.is_some())?;
    reader.pass_over(&["original_max_position_embeddings"]);
    // Phi-4-mini states these, at the values that change nothing.
    for key in ["attention_bias", "mlp_bias"] {
        if reader.switch(key)? {
            return Err(reader.refuse(key, "the phi3 family has no such biases"));
        }
    }
    for key in ["full_attn_mod", "interpolate_factor"] {
        if reader.optional_count(key)?.is_some_and(|value| value != 1) {
            return Err(reader.refuse(key, "only 1 is computed"));
        }
    }
    Ok(config)
}

fn olmo2(reader: &Reader, family: &Family) -> Result<Config> {
    let defaults = Defaults {
        kv_heads: KvHeads::Heads,
        eps: Some(1e-5),
        ..Defaults::default()
    };
    let mut config = common(reader, family, &defaults)?;
    config.set_attention_bias(reader.switch("attention_bias")?);
    config.qk_norm = Some(QkNorm::AllHeads);
    Ok(config)
}

fn granite(reader: &Reader, family: &Family) -> Result<Config> {
    let mut config = llama(reader, family)?;
    let factor =
        |key| Ok::<_, crate::ModelError>(reader.optional_positive(key)?.unwrap_or(1.0) as f32);
    config.embedding_multiplier = factor("embedding_multiplier")?;
    config.attention_scale = factor("attention_multiplier")?;
    config.residual_multiplier = factor("residual_multiplier")?;
    config.logits_scaling = factor("logits_scaling")?;
    Ok(config)
}

fn smollm3(reader: &Reader, family: &Family) -> Result<Config> {
    let defaults = Defaults {
        kv_heads: KvHeads::Number(4),
        eps: Some(1e-6),
        theta: Some(2e6),
        tied: true,
        ..Defaults::default()
    };
    let mut config = common(reader, family, &defaults)?;
    config.set_attention_bias(reader.switch("attention_bias")?);
    config.mlp_bias = reader.switch("mlp_bias")?;
    reader.pass_over(&["max_window_layers"]);
    let every = reader.count("no_rope_layer_interval", Some(4))?;
    let turned = reader.whole_numbers("no_rope_layers")?;
    if turned
        .as_ref()
        .is_some_and(|turned| turned.len() < config.num_hidden_layers)
    {
        let message = format!(
            "has no entry for each of the {} layers",
            config.num_hidden_layers
        );
        return Err(reader.refuse("no_rope_layers", message));
    }
    for (index, layer) in config.layers.iter_mut().enumerate() {
        // Despite its name, a 1 in `no_rope_layers` is a layer that does turn queries and keys.
        let turns = match &turned {
            Some(turned) => turned[index] != 0,
            None => !(index + 1).is_multiple_of(every),
        };
        layer.rope = turns.then_some(0);
    }
    let window = switched_window(reader)?;
    let unturned: Vec<bool> = config
        .layers
        .iter()
        .map(|layer| layer.rope.is_none())
        .collect();
    config.set_windows(reader, window, |layer| window.is_some() && unturned[layer])?;
    Ok(config)
}
