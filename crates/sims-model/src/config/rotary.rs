//! The rotary embedding's keys, in both generations of `config.json`.

use super::reader::Reader;
use crate::Result;
use crate::rope::{RopeConfig, RopeScaling};

/// Returns the rotary embedding that all layers share.
pub(super) fn shared(
    reader: &Reader,
    head_dim: usize,
    default_theta: f64,
    family: &str,
) -> Result<RopeConfig> {
    let outer_theta = reader.optional_positive("rope_theta")?;
    let level = match (
        reader.level("rope_parameters")?,
        reader.level("rope_scaling")?,
    ) {
        (Some(_), Some(scaling)) if !scaling.is_empty() => {
            return Err(reader.refuse(
                "rope_scaling",
                "is given beside rope_parameters; one of them may be",
            ));
        }
        (Some(parameters), _) => parameters,
        (None, Some(scaling)) => scaling,
        (None, None) => {
            return Ok(RopeConfig {
                theta: outer_theta.unwrap_or(default_theta),
                rotary_dim: rotary_dim(&[reader], head_dim)?,
                scaling: RopeScaling::Default,
            });
        }
    };
    if level.is_nested() {
        return Err(level.refuse(
            "",
            format!("rotary parameters that differ by layer are not computed for {family}"),
        ));
    }
    let inner_theta = level.optional_positive("rope_theta")?;
    if let (Some(inner), Some(outer)) = (inner_theta, outer_theta)
        && inner != outer
    {
        return Err(reader.refuse(
            "rope_theta",
            format!("{outer} contradicts the {inner} of the level below"),
        ));
    }
    let rope = RopeConfig {
        theta: inner_theta.or(outer_theta).unwrap_or(default_theta),
        rotary_dim: rotary_dim(&[reader, &level], head_dim)?,
        scaling: scaling(&level, reader)?,
    };
    level.refuse_unread(family)?;
    Ok(rope)
}

/// Returns the rotary embedding of one kind of layer, from a level of its own.
pub(super) fn of_kind(
    level: &Reader,
    outer: &Reader,
    head_dim: usize,
    default_theta: f64,
    family: &str,
) -> Result<RopeConfig> {
    let rope = RopeConfig {
        theta: level
            .optional_positive("rope_theta")?
            .unwrap_or(default_theta),
        rotary_dim: rotary_dim(&[level], head_dim)?,
        scaling: scaling(level, outer)?,
    };
    level.refuse_unread(family)?;
    Ok(rope)
}

/// Returns how many of a head's dimensions are turned.
fn rotary_dim(levels: &[&Reader], head_dim: usize) -> Result<usize> {
    for level in levels {
        if let Some(factor) = level.optional_positive("partial_rotary_factor")? {
            let dims = (head_dim as f64 * factor) as usize;
            if factor > 1.0 || dims == 0 || !dims.is_multiple_of(2) {
                let message =
                    format!("{factor} of {head_dim} dimensions is not an even number of them");
                return Err(level.refuse("partial_rotary_factor", message));
            }
            return Ok(dims);
        }
    }
    Ok(head_dim)
}

/// Returns what the level does to the wavelengths.
pub(super) fn scaling(level: &Reader, outer: &Reader) -> Result<RopeScaling> {
    let key = if level.contains("rope_type") {
        "rope_type"
    } else {
        "type"
    };
    // Checkpoints of the change between the two names carry both.
    level.pass_over(&["type"]);
    let kind = if level.contains(key) {
        level.text(key)?
    } else {
        "default"
    };
    match kind {
        "default" => {
            level.pass_over(&["original_max_position_embeddings"]);
            Ok(RopeScaling::Default)
        }
        "linear" => Ok(RopeScaling::Linear {
            factor: level.positive("factor")?,
        }),
        "llama3" => llama3(level, outer),
        "yarn" => yarn(level, outer),
        "longrope" | "su" => longrope(level, outer),
        other => Err(level.refuse(
            key,
            format!("`{other}` is not one of default, linear, llama3, yarn, longrope"),
        )),
    }
}

/// Returns the context before stretching; `outer` goes first, as in transformers.
fn original_context(level: &Reader, outer: &Reader) -> Result<usize> {
    let key = "original_max_position_embeddings";
    let inner = level.optional_count(key)?;
    match outer.optional_count(key)?.or(inner) {
        Some(positions) => Ok(positions),
        None => outer.count("max_position_embeddings", None),
    }
}

fn llama3(level: &Reader, outer: &Reader) -> Result<RopeScaling> {
    let (low, high) = (
        level.positive("low_freq_factor")?,
        level.positive("high_freq_factor")?,
    );
    // Between the two, frequencies are interpolated over their difference.
    if high <= low {
        return Err(level.refuse(
            "high_freq_factor",
            format!("{high} is not above the low_freq_factor {low}"),
        ));
    }
    Ok(RopeScaling::Llama3 {
        factor: level.positive("factor")?,
        low_freq_factor: low,
        high_freq_factor: high,
        original_max_position_embeddings: original_context(level, outer)?,
    })
}

fn yarn(level: &Reader, outer: &Reader) -> Result<RopeScaling> {
    let original = original_context(level, outer)?;
    let factor = match level.optional_positive("factor")? {
        Some(factor) => factor,
        None => outer.count("max_position_embeddings", None)? as f64 / original as f64,
    };
    let gain = |scale: f64| {
        if factor <= 1.0 {
            1.0
        } else {
            0.1 * scale * factor.ln() + 1.0
        }
    };
    let scales = (
        level.optional_positive("mscale")?,
        level.optional_positive("mscale_all_dim")?,
    );
    let attention_factor = match (level.optional_positive("attention_factor")?, scales) {
        (Some(factor), _) => factor,
        (None, (Some(part), Some(all))) => gain(part) / gain(all),
        (None, _) => gain(1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        beta_fast: level.optional_positive("beta_fast")?.unwrap_or(32.0),
        beta_slow: level.optional_positive("beta_slow")?.unwrap_or(1.0),
        truncate: level.optional_switch("truncate")?.unwrap_or(true),
        attention_factor,
        original_max_position_embeddings: original,
    })
}

fn longrope(level: &Reader, outer: &Reader) -> Result<RopeScaling> {
    let original = original_context(level, outer)?;
    let factor = match level.optional_positive("factor")? {
        Some(factor) => factor,
        None => outer.count("max_position_embeddings", None)? as f64 / original as f64,
    };
    let attention_factor = match level.optional_positive("attention_factor")? {
        Some(factor) => factor,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
    };
    let factors = level.positives("short_factor")?;
    level.pass_over(&["long_factor"]);
    Ok(RopeScaling::LongRope {
        short_factor: factors.ok_or_else(|| level.refuse("short_factor", "is missing"))?,
        attention_factor,
        original_max_position_embeddings: original,
    })
}
