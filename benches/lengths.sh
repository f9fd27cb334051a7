#!/bin/sh
# Compares batches that refill themselves with static ones, on prompts whose answers end at very different lengths.
#
# All are the same engine on the same responses, of which tokens up to a stop count. A static batch runs until its
# longest response ends: "drained" ones shrink as responses end, in "padded" ones every row runs to the end, as it
# does where a batch is one tensor. They take turns, one process a round; medians and ratios are printed.
#
#   benches/lengths.sh                         the built-in model
#   benches/lengths.sh DIR                     any Hugging Face directory
#   BATCH=16 ROUNDS=9 benches/lengths.sh DIR
#
# Settings: ROUNDS PROMPTS BATCH PROMPT_TOKENS MEAN_TOKENS MAX_NEW_TOKENS THREADS DTYPE, SIMS_MODEL (the binary), PYTHON.
# Each round's figures are kept in OUT when it is set.
set -eu

here=$(dirname "$0")
rounds=${ROUNDS:-5}
sims_model=${SIMS_MODEL:-$here/../target/release/sims-model}
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
results=${OUT:-$work/rounds.jsonl}
: > "$results"

model=${1:-$here/../data/tiny}
common="--prompts ${PROMPTS:-256} --batch ${BATCH:-64} --prompt-tokens ${PROMPT_TOKENS:-16}"
common="$common --mean-tokens ${MEAN_TOKENS:-32} --max-new-tokens ${MAX_NEW_TOKENS:-240}"
common="$common --threads ${THREADS:-2} --dtype ${DTYPE:-f32} --rounds 1"

round=0
while [ "$round" -lt "$rounds" ]; do
    for batches in refilled drained padded; do
        # shellcheck disable=SC2086  # the settings are words without spaces
        "$sims_model" bench-lengths --model "$model" --json --batches "$batches" $common >> "$results"
    done
    round=$((round + 1))
done

"$python" - "$results" <<'PYTHON'
import json
import statistics
import sys

speeds, tokens = {}, set()
for line in open(sys.argv[1]):
    result = json.loads(line)
    speeds.setdefault(result["batches"], []).append(result["new_tokens_per_second"])
    tokens.add(result["new_tokens"])
assert len(tokens) == 1, "all make the same responses"
for batches, values in speeds.items():
    low, middle, high = min(values), statistics.median(values), max(values)
    print(f"{batches:<13} {middle:9.0f} tokens/s  (lowest {low:.0f}, highest {high:.0f}, {len(values)} rounds)")
for static in ("drained", "padded"):
    pairs = [refilled / other for refilled, other in zip(speeds["refilled"], speeds[static])]
    ratio = statistics.median(speeds["refilled"]) / statistics.median(speeds[static])
    print(f"refilled to {static}: ratio of medians {ratio:.2f}; by round {min(pairs):.2f} to {max(pairs):.2f}")
PYTHON
