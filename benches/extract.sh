#!/bin/sh
# Compares the extraction of hidden states with transformers' forward hooks: the last token of 128 sequences
# of 16 to 128 tokens, at five layers. transformers runs batches padded to their longest sequence, and once
# more with the sequences sorted by length; it runs all layers, where sims ends after the last one asked.
#
# The engines take turns, one process a round; the medians and their ratios are printed.
#
#   benches/extract.sh                         a random model of 88 M parameters
#   LAYERS=1,2,3,4 benches/extract.sh m3       another (benches/random_model.py: tiny, m3, m100)
#   LAYERS=8,16 benches/extract.sh DIR         any Hugging Face directory
#
# Settings: ROUNDS LAYERS SEQUENCES THREADS DTYPE, PADDED_BATCH (sequences in a batch of transformers),
# SIMS_MODEL (the binary), PYTHON (with torch and transformers). OUT keeps each round's figures as JSON
# lines, SUMMARY the medians and ratios as JSON.
set -eu

here=$(dirname "$0")
rounds=${ROUNDS:-5}
sims_model=${SIMS_MODEL:-$here/../target/release/sims-model}
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
results=${OUT:-$work/rounds.jsonl}
: > "$results"

model=${1:-m100}
if [ ! -d "$model" ]; then
    "$python" "$here/random_model.py" model "$model" "$work/model"
    model=$work/model
fi

common="--layers ${LAYERS:-2,4,6,8,10} --sequences ${SEQUENCES:-128} --threads ${THREADS:-2} --dtype ${DTYPE:-f32}"

round=0
# shellcheck disable=SC2086  # the settings are words without spaces
while [ "$round" -lt "$rounds" ]; do
    "$sims_model" bench-extract --model "$model" --json $common >> "$results"
    "$python" "$here/transformers_side.py" extract "$model" $common --batch "${PADDED_BATCH:-16}" >> "$results"
    round=$((round + 1))
done

"$python" "$here/summary.py" "$results" ${SUMMARY:+"$SUMMARY"}
