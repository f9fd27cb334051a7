use super::*;

fn parse(edit: impl Fn(&mut Map<String, Value>)) -> Result<Config> {
    let mut value: Value = serde_json::json!({
        "model_type": "llama", "hidden_act": "silu", "vocab_size": 32, "hidden_size": 16,
        "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0, "torch_dtype": "float32", "eos_token_id": [1, 2]
    });
    edit(value.as_object_mut().expect("an object"));
    Config::parse(&value.to_string(), Path::new("config.json"))
}

fn refusal(key: &str, value: Value) -> String {
    parse(|keys| drop(keys.insert(key.to_owned(), value.clone())))
        .expect_err("refused")
        .to_string()
}

#[test]
fn sizes_and_rotary_numbers_that_cannot_be_are_refused_by_key() {
    for (key, value, why) in [
        (
            "hidden_size",
            serde_json::json!(1_u64 << 40),
            "from 1 to 2147483647",
        ),
        ("rope_theta", serde_json::json!(0.0), "is not above 0"),
        ("rms_norm_eps", serde_json::json!(-1e-5), "is not above 0"),
    ] {
        let refusal = refusal(key, value);
        assert!(refusal.contains(key) && refusal.contains(why), "{refusal}");
    }
    let scaled = |factor: f64, high: f64| {
        refusal(
            "rope_scaling",
            serde_json::json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0,
                "high_freq_factor": high, "original_max_position_embeddings": 32}),
        )
    };
    assert!(scaled(0.0, 4.0).contains("factor"));
    assert!(scaled(8.0, 1.0).contains("is not above the low_freq_factor 1"));
}

#[test]
fn both_generations_of_rope_keys_are_read() {
    let scaling = serde_json::json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32
    });
    let old =
        parse(|keys| drop(keys.insert("rope_scaling".into(), scaling.clone()))).expect("valid");
    let new = parse(|keys| {
        let mut parameters = scaling.clone();
        parameters["rope_theta"] = keys.remove("rope_theta").expect("there");
        keys.insert("rope_parameters".into(), parameters);
    });
    assert_eq!(old, new.expect("valid"));
    assert_eq!(old.rope_theta, 500_000.0);
    assert!(matches!(
        old.rope_scaling,
        RopeScaling::Llama3 {
            original_max_position_embeddings: 32,
            ..
        }
    ));
}

#[test]
fn absent_keys_take_the_class_defaults() {
    let config = parse(|keys| {
        keys.remove("num_key_value_heads");
        keys.remove("rope_theta");
    })
    .expect("valid");
    assert_eq!(
        (
            config.num_key_value_heads,
            config.head_dim,
            config.rope_theta
        ),
        (4, 4, 10_000.0)
    );
    assert!(!config.tie_word_embeddings && !config.qkv_bias);
    assert_eq!(config.eos_token_ids, [1, 2]);
}

#[test]
fn qwen2_has_biases_on_queries_keys_and_values_only() {
    let config =
        parse(|keys| drop(keys.insert("model_type".into(), "qwen2".into()))).expect("valid");
    assert!(config.qkv_bias && !config.o_bias && !config.mlp_bias);
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    assert_eq!(
        refusal("model_type", "gemma".into()),
        "config.json: model_type: `gemma` is not one of gemma2, gemma3, gemma3_text, granite, llama, mistral, mixtral, \
         olmo2, phi3, qwen2, qwen3, qwen3_moe, smollm3"
    );
    assert!(refusal("hidden_act", "gelu".into()).contains("hidden_act: `gelu`"));
    assert!(refusal("sliding_window", 512.into()).contains("sliding_window"));
    assert!(refusal("partial_rotary_factor", 0.5.into()).contains("partial_rotary_factor"));
    assert!(
        refusal("layer_types", serde_json::json!(["sliding_attention"])).contains("layer_types")
    );
    assert!(refusal("quantization_config", serde_json::json!({})).contains("quantization_config"));
    assert_eq!(
        refusal(
            "rope_scaling",
            serde_json::json!({"type": "yarn", "factor": 2.0})
        ),
        "config.json: rope_scaling.type: `yarn` is not one of default, linear, llama3"
    );
    assert!(
        refusal("rope_parameters", serde_json::json!({"rope_theta": 1e4})).contains("contradicts")
    );
    assert!(refusal("head_dim", 5.into()).contains("head_dim: 5"));
    assert!(refusal("num_key_value_heads", 3.into()).contains("3 does not divide the 4"));
    assert!(refusal("vocab_size", "many".into()).contains("vocab_size"));
}

#[test]
fn mistral_needs_an_explicit_null_window() {
    let mistral = |window: bool| {
        parse(|keys| {
            keys.insert("model_type".into(), "mistral".into());
            if window {
                keys.insert("sliding_window".into(), Value::Null);
            }
        })
    };
    assert!(mistral(true).is_ok());
    assert!(
        mistral(false)
            .expect_err("refused")
            .to_string()
            .contains("sliding_window")
    );
}

#[test]
fn parameters_are_counted_with_tied_ones_once() {
    let untied = parse(|_| ()).expect("valid").parameters();
    let tied =
        parse(|keys| drop(keys.insert("tie_word_embeddings".into(), true.into()))).expect("valid");
    assert_eq!(untied - tied.parameters(), 32 * 16);
    // Two blocks of two norms, q 16x16, k and v 8x16, o 16x16, three of 24x16; embedding and final norm.
    assert_eq!(
        tied.parameters(),
        2 * (32 + 256 + 256 + 256 + 3 * 384) + 32 * 16 + 16
    );
}
