#!/bin/sh
# Samples cooler from round to round: a stage of the loop in a shell, around `sims-sample`.
#
#   cooling_sample.sh --model data/tiny --prompts train.parquet --temperature 0.9 --round 2 --out sampled
#
# The temperature that is asked for holds in round 1, and 0.8 of the one before in every later round. Everything else is
# as `sims-sample` has it: what it describes, its progress, its exit codes and its files. The runner has the programs
# beside `sims` on PATH; by hand, put them there.
set -eu

[ "${1-}" != describe ] || exec sims-sample "$@"

# Goes once through the arguments; what is not used here goes to the end, in the same order.
temperature=0.9 round=1 left=$#
while [ "$left" -gt 0 ]; do
    case $1 in
    --temperature)
        [ "$left" -ge 2 ] || { echo "error: $1 needs a value" >&2; exit 2; }
        temperature=$2
        shift 2
        left=$((left - 2))
        continue
        ;;
    --round) round=${2-1} ;;
    esac
    set -- "$@" "$1"
    shift
    left=$((left - 1))
done
cooled=$(LC_ALL=C awk -v t="$temperature" -v r="$round" 'BEGIN { printf "%.6g", t * 0.8 ^ (r - 1) }')
exec sims-sample "$@" --temperature "$cooled"
