use super::*;
use crate::rope::RopeScaling;

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
    assert_eq!(old.ropes[0].theta, 500_000.0);
    assert!(matches!(
        old.ropes[0].scaling,
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
            config.ropes[0].theta
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
    assert!(refusal("hidden_act", "relu2".into()).contains("hidden_act: `relu2`"));
    assert!(refusal("sliding_window", 512.into()).contains("sliding_window"));
    assert!(refusal("partial_rotary_factor", 0.3.into()).contains("partial_rotary_factor"));
    assert!(
        refusal("layer_types", serde_json::json!(["sliding_attention"])).contains("layer_types")
    );
    let sliding = serde_json::json!(["full_attention", "sliding_attention"]);
    assert!(refusal("layer_types", sliding).contains("sliding_window: is missing"));
    let chunked = serde_json::json!(["full_attention", "chunked_attention"]);
    assert!(refusal("layer_types", chunked).contains("\"chunked_attention\" is not computed"));
    assert!(refusal("quantization_config", serde_json::json!({})).contains("quantization_config"));
    assert_eq!(
        refusal(
            "rope_scaling",
            serde_json::json!({"type": "dynamic", "factor": 2.0})
        ),
        "config.json: rope_scaling.type: `dynamic` is not one of default, linear, llama3, yarn, longrope"
    );
    let longrope =
        serde_json::json!({"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]});
    assert!(refusal("rope_scaling", longrope).contains("1 factors for 2 pairs"));
    assert!(
        refusal("rope_parameters", serde_json::json!({"rope_theta": 1e4})).contains("contradicts")
    );
    assert!(refusal("head_dim", 5.into()).contains("head_dim: 5"));
    assert!(refusal("num_key_value_heads", 3.into()).contains("3 does not divide the 4"));
    assert!(refusal("vocab_size", "many".into()).contains("vocab_size"));
}

#[test]
fn an_unknown_switch_is_refused_whatever_its_level() {
    assert_eq!(
        refusal("attention_multiplier", 0.5.into()),
        "config.json: attention_multiplier: 0.5 is a switch that is not computed for the llama family; \
         null, or no such key, is accepted"
    );
    let nested = serde_json::json!({"rope_type": "linear", "factor": 2.0, "twist": true});
    assert!(refusal("rope_scaling", nested).contains("rope_scaling.twist: true is a switch"));
    // A null is no switch, and some switches are neutral where they stand.
    for (key, value) in [
        ("attention_multiplier", Value::Null),
        ("rope_interleaved", false.into()),
        ("transformers_version", "5.0".into()),
    ] {
        assert!(
            parse(|keys| drop(keys.insert(key.into(), value.clone()))).is_ok(),
            "{key}"
        );
    }
    assert!(refusal("rope_interleaved", true.into()).contains("rope_interleaved"));
}

#[test]
fn windows_follow_the_family() {
    let windows = |model_type: &str, edit: &dyn Fn(&mut Map<String, Value>)| {
        let config = parse(|keys| {
            keys.insert("model_type".into(), model_type.into());
            edit(keys);
        });
        let layers = config.expect("valid").layers;
        layers.iter().map(|layer| layer.window).collect::<Vec<_>>()
    };
    let window =
        |keys: &mut Map<String, Value>| drop(keys.insert("sliding_window".into(), 8.into()));
    let null =
        |keys: &mut Map<String, Value>| drop(keys.insert("sliding_window".into(), Value::Null));
    assert_eq!(windows("mistral", &window), [Some(8), Some(8)]);
    assert_eq!(windows("mistral", &null), [None, None]);
    // An absent key is 4096 to the class.
    assert_eq!(windows("mistral", &|_| ()), [Some(4096), Some(4096)]);
    assert_eq!(windows("gemma2", &window), [Some(8), None]);
    // Qwen reads the window only where a switch is on, and then from max_window_layers on.
    assert_eq!(windows("qwen2", &window), [None, None]);
    let switched = |keys: &mut Map<String, Value>| {
        window(keys);
        keys.insert("use_sliding_window".into(), true.into());
        keys.insert("max_window_layers".into(), 1.into());
    };
    assert_eq!(windows("qwen2", &switched), [None, Some(8)]);
    assert_eq!(windows("qwen3", &switched), [None, Some(8)]);
}

#[test]
fn the_text_part_of_a_gemma_3_takes_the_class_defaults() {
    let text = serde_json::json!({"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
        "num_hidden_layers": 34, "sliding_window": 1024, "rope_scaling": {"rope_type": "linear", "factor": 8.0}});
    let wrapper = serde_json::json!({"model_type": "gemma3", "text_config": text, "vision_config": {},
        "mm_tokens_per_image": 256, "eos_token_id": [1, 106]});
    let config = Config::parse(&wrapper.to_string(), Path::new("config.json")).expect("valid");
    assert_eq!(
        (config.num_attention_heads, config.num_key_value_heads),
        (8, 4)
    );
    assert_eq!((config.head_dim, config.vocab_size), (256, 262_208));
    assert_eq!(config.eos_token_ids, [1, 106]);
    assert_eq!(
        (config.layers[4].window, config.layers[5].window),
        (Some(1024), None)
    );
    let global = &config.ropes[config.layers[5].rope.expect("turned")];
    assert_eq!(
        (global.theta, &global.scaling),
        (1e6, &RopeScaling::Linear { factor: 8.0 })
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
