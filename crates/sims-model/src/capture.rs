//! Reads hidden states at asked layers and positions in one prefill pass.
//!
//! Requests run in windows of bounded size; within a window shared prefixes are computed once, and results are handed
//! to the sink in the order of the requests. The forward pass ends after the last asked layer.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use candle_core::{DType, Tensor};

use crate::generate::select_rows;
use crate::prefix_tree::{PrefixTree, Sequence, Wanted};
use crate::score::{ScoreLimits, TokenCount};
use crate::{Decoder, Hook, KvCache, ModelError, Result, Segment, Site};

/// Most captured numbers that are held at once: 256 MiB of f32.
const MAX_BUFFERED: usize = 1 << 26;

/// A sequence and the positions whose hidden states are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureRequest {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Positions wanted, in the order of the result's rows; none twice.
    pub positions: Vec<usize>,
    /// First position that a hook may edit; `usize::MAX` for none.
    pub edit_from: usize,
}

/// The hidden states of one request.
#[derive(Debug, Clone, PartialEq)]
pub struct HiddenStates {
    /// Index of the request.
    pub request: usize,
    /// One entry an asked layer, in their order: `[positions, hidden_size]` row by row, f32.
    pub layers: Vec<Vec<f32>>,
}

/// Hands `sink` the outputs of the blocks `layers` (0-based) at the positions of every request, in their order.
///
/// `hook` runs before the states are read, so what is captured is what the next block sees. Returns the tokens
/// computed; [`ControlFlow::Break`] from `sink` stops the run. When memory runs out, the window at hand runs again in
/// smaller batches.
///
/// # Errors
/// A sequence that is empty or longer than the model's context, a position or layer that does not exist or is asked
/// twice ([`ModelError::Setting`]), [`ModelError::OutOfMemory`] when a single sequence does not fit,
/// [`ModelError::Interrupted`] when `sink` breaks, and whatever the hook returns.
pub fn hidden_states(
    decoder: &Decoder,
    requests: &[CaptureRequest],
    layers: &[usize],
    limits: &ScoreLimits,
    hook: Option<&mut dyn Hook>,
    sink: &mut dyn FnMut(HiddenStates) -> ControlFlow<()>,
) -> Result<TokenCount> {
    states_at(Site::Block, decoder, requests, layers, limits, hook, sink)
}

/// As [`hidden_states`], of any site of the blocks: rows are as wide as [`Site::width`] says.
///
/// # Errors
/// As [`hidden_states`].
pub fn states_at(
    site: Site,
    decoder: &Decoder,
    requests: &[CaptureRequest],
    layers: &[usize],
    limits: &ScoreLimits,
    mut hook: Option<&mut dyn Hook>,
    sink: &mut dyn FnMut(HiddenStates) -> ControlFlow<()>,
) -> Result<TokenCount> {
    check(decoder, requests, layers)?;
    let mut count = TokenCount::default();
    let width = layers.len() * site.width(decoder.config());
    let mut limits = *limits;
    let mut start = 0;
    while start < requests.len() {
        let window =
            &requests[start..][..window_length(&requests[start..], limits.max_rows, width)];
        let borrowed = hook.as_mut().map(|hook| &mut **hook as &mut dyn Hook);
        let mut last_pass = Pass::default();
        let asked = (site, layers);
        let run = run_window(decoder, window, asked, &limits, borrowed, &mut last_pass);
        let states = match run {
            Ok((states, window_count)) => {
                count.add(window_count);
                states
            }
            Err(ModelError::OutOfMemory { message }) => {
                limits.halve(last_pass.rows, last_pass.slots, &message)?;
                count.halvings += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        for (index, layers) in states.into_iter().enumerate() {
            if sink(HiddenStates {
                request: start + index,
                layers,
            })
            .is_break()
            {
                return Err(ModelError::Interrupted);
            }
        }
        start += window.len();
    }
    Ok(count)
}

/// The size of a forward pass.
#[derive(Default)]
struct Pass {
    rows: usize,
    slots: usize,
}

/// Runs one window of requests; returns, for each, its states by layer.
///
/// `pass` is set to the size of each pass before it runs.
fn run_window(
    decoder: &Decoder,
    requests: &[CaptureRequest],
    (site, layers): (Site, &[usize]),
    limits: &ScoreLimits,
    hook: Option<&mut dyn Hook>,
    pass: &mut Pass,
) -> Result<(Vec<Vec<Vec<f32>>>, TokenCount)> {
    let sequences = requests
        .iter()
        .map(|request| Sequence {
            tokens: &request.tokens,
            edit_from: request.edit_from,
        })
        .collect();
    let wanted = requests.iter().enumerate().flat_map(|(sequence, request)| {
        request
            .positions
            .iter()
            .map(move |&position| Wanted { sequence, position })
    });
    let limit = decoder.config().max_position_embeddings;
    let tree = PrefixTree::new(sequences, wanted, limits.max_rows, limit)?;

    let width = site.width(decoder.config());
    let mut states: Vec<Vec<Vec<f32>>> = requests
        .iter()
        .map(|request| vec![vec![0.0; request.positions.len() * width]; layers.len()])
        .collect();
    let row_of: Vec<HashMap<usize, usize>> = requests
        .iter()
        .map(|request| {
            request
                .positions
                .iter()
                .enumerate()
                .map(|(row, &position)| (position, row))
                .collect()
        })
        .collect();

    let last_layer = layers.iter().copied().max().unwrap_or(0);
    let mut cache = KvCache::new(decoder, tree.slots());
    let mut capture = Capture {
        hook,
        site,
        layers,
        rows: Vec::new(),
        captured: Vec::new(),
    };
    tree.for_each_batch(&mut |planned| {
        (pass.rows, pass.slots) = (planned.batch.tokens.len(), cache.slots());
        capture.rows = planned.wanted.iter().map(|&(row, _)| row).collect();
        capture.captured = vec![Vec::new(); layers.len()];
        decoder.forward_through(&planned.batch, &mut cache, &mut capture, last_layer)?;
        for (layer, captured) in capture.captured.iter().enumerate() {
            for (row, (_, wanted)) in captured.chunks(width).zip(&planned.wanted) {
                let place = row_of[wanted.sequence][&wanted.position] * width;
                states[wanted.sequence][layer][place..place + width].copy_from_slice(row);
            }
        }
        Ok(())
    })?;
    let unique = tree.unique_tokens();
    let count = TokenCount {
        computed: unique,
        unique,
        total: tree.total_tokens(),
        halvings: 0,
    };
    Ok((states, count))
}

/// Copies rows of the asked site of blocks, after the caller's own hook.
struct Capture<'l, 'h> {
    hook: Option<&'h mut dyn Hook>,
    site: Site,
    layers: &'l [usize],
    /// Rows of the batch at hand to copy.
    rows: Vec<usize>,
    /// One entry an asked layer: the rows' values, f32.
    captured: Vec<Vec<f32>>,
}

impl Hook for Capture<'_, '_> {
    fn wants(&self, layer: usize) -> bool {
        self.reads(Site::Block, layer) || self.hook.as_ref().is_some_and(|hook| hook.wants(layer))
    }

    fn on_block(
        &mut self,
        layer: usize,
        segments: &[Segment],
        hidden: &Tensor,
    ) -> Result<Option<Tensor>> {
        let replacement = match &mut self.hook {
            Some(hook) if hook.wants(layer) => hook.on_block(layer, segments, hidden)?,
            _ => None,
        };
        self.copy(Site::Block, layer, replacement.as_ref().unwrap_or(hidden))?;
        Ok(replacement)
    }

    fn wants_heads(&self, layer: usize) -> bool {
        let hook = self.hook.as_ref();
        self.reads(Site::Heads, layer) || hook.is_some_and(|hook| hook.wants_heads(layer))
    }

    fn on_heads(
        &mut self,
        layer: usize,
        segments: &[Segment],
        heads: &Tensor,
    ) -> Result<Option<Tensor>> {
        let replacement = match &mut self.hook {
            Some(hook) if hook.wants_heads(layer) => hook.on_heads(layer, segments, heads)?,
            _ => None,
        };
        self.copy(Site::Heads, layer, replacement.as_ref().unwrap_or(heads))?;
        Ok(replacement)
    }
}

impl Capture<'_, '_> {
    fn reads(&self, site: Site, layer: usize) -> bool {
        self.site == site && self.layers.contains(&layer)
    }

    fn copy(&mut self, site: Site, layer: usize, states: &Tensor) -> Result<()> {
        let index = self.layers.iter().position(|&asked| asked == layer);
        if let (Some(index), true, false) = (index, self.site == site, self.rows.is_empty()) {
            let rows = select_rows(states, &self.rows)?;
            self.captured[index] = rows.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        }
        Ok(())
    }
}

/// Refuses layers and positions that do not exist or are asked twice.
fn check(decoder: &Decoder, requests: &[CaptureRequest], layers: &[usize]) -> Result<()> {
    let setting = |setting, message| Err(ModelError::Setting { setting, message });
    let count = decoder.config().num_hidden_layers;
    if layers.is_empty() {
        return setting("layers", "none are asked for".to_owned());
    }
    for (index, layer) in layers.iter().enumerate() {
        if *layer >= count {
            return setting(
                "layers",
                format!("{layer} is not one of the model's {count} layers"),
            );
        }
        if layers[..index].contains(layer) {
            return setting("layers", format!("{layer} is asked twice"));
        }
    }
    for (index, request) in requests.iter().enumerate() {
        let mut seen = HashSet::new();
        for position in &request.positions {
            if *position >= request.tokens.len() {
                let tokens = request.tokens.len();
                let message =
                    format!("{position} is beyond the {tokens} tokens of sequence {index}");
                return setting("positions", message);
            }
            if !seen.insert(position) {
                return setting(
                    "positions",
                    format!("{position} is asked twice of sequence {index}"),
                );
            }
        }
    }
    Ok(())
}

/// Number of requests to take next: at least one, then as long as tokens and captured numbers stay bounded.
fn window_length(requests: &[CaptureRequest], max_tokens: usize, width: usize) -> usize {
    let (mut tokens, mut buffered) = (0, 0);
    let fits = |request: &&CaptureRequest| {
        tokens += request.tokens.len();
        buffered += request.positions.len() * width;
        tokens <= max_tokens && buffered <= MAX_BUFFERED
    };
    requests.iter().take_while(fits).count().max(1)
}
