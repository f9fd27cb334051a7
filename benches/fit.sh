#!/bin/sh
# Compares the fit of HPR at one layer with the same fit in PyTorch on the CPU: the same network, loss, steps and
# held-out passes, f32, with PyTorch's default AdamW and with its fused one. States are made up.
#
# The engines take turns, one process a round; the medians and their ratios are printed. A token in the printed
# figures is a position pair.
#
#   benches/fit.sh                             hidden size 4096, 1000 pairs of 2 rows, one epoch
#   ROWS=32 EPOCHS=5 benches/fit.sh            the size of a round of its own
#
# Settings: ROUNDS HIDDEN PAIRS ROWS EPOCHS THREADS, SIMS_MODEL (the binary), PYTHON (with torch). OUT keeps each
# round's figures as JSON lines, SUMMARY the medians and ratios as JSON.
set -eu

here=$(dirname "$0")
rounds=${ROUNDS:-5}
sims_model=${SIMS_MODEL:-$here/../target/release/sims-model}
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
results=${OUT:-$work/rounds.jsonl}
: > "$results"

common="--hidden ${HIDDEN:-4096} --pairs ${PAIRS:-1000} --rows ${ROWS:-2} --epochs ${EPOCHS:-1} --threads ${THREADS:-2}"

round=0
# shellcheck disable=SC2086  # the settings are words without spaces
while [ "$round" -lt "$rounds" ]; do
    "$sims_model" bench-fit --json $common >> "$results"
    "$python" "$here/fit_torch.py" $common >> "$results"
    "$python" "$here/fit_torch.py" --fused $common >> "$results"
    round=$((round + 1))
done

"$python" "$here/summary.py" "$results" ${SUMMARY:+"$SUMMARY"}
