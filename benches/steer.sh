#!/bin/sh
# Compares batched sampling under a steering with sampling without it: one vector added at one layer, and
# Householder rotations with an angle network at five. One process measures both, in turns.
#
#   benches/steer.sh                           a random model of 88 M parameters, batch 16
#   BATCH=64 benches/steer.sh m3               another (benches/random_model.py: tiny, m3, m100)
#   benches/steer.sh DIR                       any Hugging Face directory with six layers at least
#
# Settings: ROUNDS BATCH PROMPT_TOKENS NEW_TOKENS THREADS DTYPE, SIMS_MODEL (the binary), PYTHON (with torch
# and transformers). SUMMARY keeps the medians and ratios of both steerings as JSON.
set -eu

here=$(dirname "$0")
sims_model=${SIMS_MODEL:-$here/../target/release/sims-model}
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

model=${1:-m100}
if [ ! -d "$model" ]; then
    "$python" "$here/random_model.py" model "$model" "$work/model"
    model=$work/model
fi
digest=$("$sims_model" info "$model" --json | sed 's/.*"digest":"\([0-9a-f]*\)".*/\1/')

shape="--batch ${BATCH:-16} --prompt-tokens ${PROMPT_TOKENS:-32} --new-tokens ${NEW_TOKENS:-48}"
shape="$shape --threads ${THREADS:-2} --dtype ${DTYPE:-f32} --temperature 0 --rounds ${ROUNDS:-9}"

for steering in add:1 hpr:5; do
    kind=${steering%:*}
    layers=${steering#*:}
    file=$work/$kind.safetensors
    "$python" "$here/random_model.py" steering "$kind" "$layers" "$model" "$file" --digest "$digest"
    # shellcheck disable=SC2086  # the settings are words without spaces
    "$sims_model" bench --model "$model" --steering "$file" --json $shape > "$work/$kind.jsonl"
    echo "$kind at $layers layers:"
    "$python" "$here/summary.py" --first "sims, steered" "$work/$kind.jsonl" "$work/$kind.json"
done
if [ -n "${SUMMARY:-}" ]; then
    printf '{"add:1": %s, "hpr:5": %s}\n' "$(cat "$work/add.json")" "$(cat "$work/hpr.json")" > "$SUMMARY"
fi
