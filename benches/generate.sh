#!/bin/sh
# Compares batched sampling with transformers' generate and, where LLAMA_BATCHED_BENCH names that program,
# with llama.cpp: same model, batch, threads, dtype and lengths.
#
# The engines take turns, one process a round, so that all see the same machine; the medians and their
# ratios are printed. Other load makes the times wrong and the ratios uncertain.
#
#   benches/generate.sh                        a random model of the built-in one's size
#   benches/generate.sh m100                   another (benches/random_model.py: tiny, m3, m100)
#   benches/generate.sh data/tiny              any Hugging Face directory
#   LLAMA_BATCHED_BENCH=... BATCH=16 NEW_TOKENS=48 DTYPE=bf16 benches/generate.sh m100
#
# llama-batched-bench is built as benches/llama_cpp_side.py says. It chooses no tokens, so with it all take
# the most probable one (TEMPERATURE 0, else 0.9), and it keeps keys and values in f16.
#
# Settings: ROUNDS BATCH PROMPT_TOKENS NEW_TOKENS THREADS DTYPE TEMPERATURE, SIMS_MODEL (the binary),
# PYTHON (with torch and transformers, and gguf for llama.cpp). OUT keeps each round's figures as JSON
# lines, SUMMARY the medians and ratios as JSON.
set -eu

here=$(dirname "$0")
rounds=${ROUNDS:-5}
sims_model=${SIMS_MODEL:-$here/../target/release/sims-model}
python=${PYTHON:-python3}
llama=${LLAMA_BATCHED_BENCH:-}
dtype=${DTYPE:-f32}
temperature=${TEMPERATURE:-$([ -n "$llama" ] && echo 0 || echo 0.9)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
results=${OUT:-$work/rounds.jsonl}
: > "$results"

model=${1:-tiny}
if [ ! -d "$model" ]; then
    "$python" "$here/random_model.py" model "$model" "$work/model"
    model=$work/model
fi
if [ -n "$llama" ]; then
    "$python" "$here/llama_cpp_side.py" gguf "$model" "$work/model.gguf" --dtype "$dtype"
fi

shape="--batch ${BATCH:-64} --prompt-tokens ${PROMPT_TOKENS:-32} --new-tokens ${NEW_TOKENS:-64}"
shape="$shape --threads ${THREADS:-2}"

round=0
# shellcheck disable=SC2086  # the settings are words without spaces
while [ "$round" -lt "$rounds" ]; do
    "$sims_model" bench --model "$model" --json $shape --dtype "$dtype" --temperature "$temperature" >> "$results"
    "$python" "$here/transformers_side.py" generate "$model" $shape --dtype "$dtype" --temperature "$temperature" >> "$results"
    if [ -n "$llama" ]; then
        "$python" "$here/llama_cpp_side.py" run "$work/model.gguf" $shape >> "$results"
    fi
    round=$((round + 1))
done

"$python" "$here/summary.py" "$results" ${SUMMARY:+"$SUMMARY"}
