#!/bin/sh
# Compares batched sampling with transformers' generate: same model, batch, threads, dtype and lengths.
#
# The two engines take turns, one process a round, so that both see the same machine; the medians
# and their ratio are printed. Other load makes the times wrong and the ratio uncertain.
#
#   benches/generate.sh                        a random model of the built-in one's size
#   benches/generate.sh data/tiny              any Hugging Face directory
#   BATCH=16 ROUNDS=9 benches/generate.sh DIR
#
# Settings: ROUNDS BATCH PROMPT_TOKENS NEW_TOKENS THREADS DTYPE TEMPERATURE, SIMS_MODEL (the binary),
# PYTHON (with torch and transformers). Each round's figures are kept in OUT when it is set.
set -eu

here=$(dirname "$0")
rounds=${ROUNDS:-5}
sims_model=${SIMS_MODEL:-$here/../target/release/sims-model}
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
results=${OUT:-$work/rounds.jsonl}
: > "$results"

model=${1:-}
if [ -z "$model" ]; then
    model=$work/model
    "$python" "$here/generate_transformers.py" make "$model"
fi

common="--batch ${BATCH:-64} --prompt-tokens ${PROMPT_TOKENS:-32} --new-tokens ${NEW_TOKENS:-64}"
common="$common --threads ${THREADS:-2} --dtype ${DTYPE:-f32} --temperature ${TEMPERATURE:-0.9} --rounds 1"

round=0
while [ "$round" -lt "$rounds" ]; do
    # shellcheck disable=SC2086  # the settings are words without spaces
    "$sims_model" bench --model "$model" --json $common >> "$results"
    # shellcheck disable=SC2086
    "$python" "$here/generate_transformers.py" run "$model" $common >> "$results"
    round=$((round + 1))
done

"$python" - "$results" <<'PYTHON'
import json
import statistics
import sys

speeds = {}
for line in open(sys.argv[1]):
    result = json.loads(line)
    speeds.setdefault(result["engine"], []).append(result["new_tokens_per_second"])
for engine, values in speeds.items():
    low, middle, high = min(values), statistics.median(values), max(values)
    print(f"{engine:<13} {middle:9.0f} tokens/s  (lowest {low:.0f}, highest {high:.0f}, {len(values)} rounds)")
pairs = [ours / theirs for ours, theirs in zip(speeds["sims"], speeds["transformers"])]
ratio = statistics.median(speeds["sims"]) / statistics.median(speeds["transformers"])
print(f"ratio of medians {ratio:.2f}; by round {min(pairs):.2f} to {max(pairs):.2f}")
PYTHON
