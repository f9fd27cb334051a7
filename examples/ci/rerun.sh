#!/usr/bin/env bash
# Runs a pipeline as CI does, anywhere: what the remote cache has is fetched, the rest is computed and shared, the
# report is written, and a metric that fell below its recorded interval fails the run.
#
#   examples/ci/rerun.sh PIPELINE [BASELINE METRIC]
#
#   PIPELINE   the pipeline file
#   BASELINE   figures to hold the run against: `sims report PIPELINE --metric METRIC --json > BASELINE`
#   METRIC     the metric that may not fall
#
# SIMS_REMOTE names the remote cache, and SIMS_REMOTE_READ_ONLY=1 leaves it as it is. SIMS is the program (`sims`), OUT
# the folder for run.json, gate.json, report.html and summary.md (`ci-report`).
set -euo pipefail

if [ $# -ne 1 ] && [ $# -ne 3 ]; then
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
pipeline=$1 baseline=${2-} metric=${3-}
sims=${SIMS:-sims}
out=${OUT:-ci-report}
flags=()
if [ "${SIMS_REMOTE_READ_ONLY:-0}" = 1 ]; then
    flags+=(--remote-read-only)
fi
mkdir -p "$out"

"$sims" run "$pipeline" ${flags[@]+"${flags[@]}"} --json >"$out/run.json"
cat "$out/run.json"

# The report comes before the verdict, so that a failed run has one.
"$sims" report "$pipeline" --html "$out/report.html" --markdown "$out/summary.md"
if [ -n "${GITHUB_STEP_SUMMARY-}" ]; then
    cat "$out/summary.md" >>"$GITHUB_STEP_SUMMARY"
fi

if [ -n "$metric" ]; then
    "$sims" report "$pipeline" --metric "$metric" --against "$baseline" --json >"$out/gate.json"
    echo "$metric has not fallen below the intervals of $baseline" >&2
fi
