#!/bin/sh
# Hands a steering on if its file is small enough: the stage @STAGE@.
#
#   @SCRIPT@ describe
#   @SCRIPT@ --steering steering.safetensors --max-kilobytes 4096 --out checked
#
# Needs a POSIX shell and nothing else. A shell handles files as they are; to look into tables, call another program,
# such as a stage of sims: those beside `sims` are on PATH while the runner runs this.
set -eu

# What the stage is: the runner reads this, and checks pipeline files against it. Names of parameters become flags.
# Raise `behaviour` when a program that you call gives other bytes than before. Declare `seed` or `round` as integer
# parameters, and the runner fills them in.
describe() {
    cat <<'END'
{
    "stage": "@STAGE@",
    "behaviour": 1,
    "numerics": "",
    "inputs": {"steering": {"schema": "steering@1", "required": true, "help": "The steering to look at"}},
    "outputs": {"@ROLE@": {"schema": "steering@1", "required": true, "help": "The same"}},
    "params": {
        "type": "object",
        "properties": {
            "max-kilobytes": {"type": "integer", "default": 4096, "description": "Largest file that is handed on"}
        },
        "additionalProperties": false
    }
}
END
}

# Ends with an exit code: 2 for wrong usage or bad input, 75 for what is worth trying again, 1 for the rest.
fail() {
    code=$1
    shift
    echo "error: $*" >&2
    exit "$code"
}

progress() {
    [ "$progress" != json ] || printf '{"event": "progress", "label": "%s", "done": %d, "total": %d}\n' "$@" >&2
}

case ${1-} in
describe)
    describe
    exit
    ;;
--help | -h)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    exit
    ;;
esac

steering='' out='' max_kilobytes=4096 progress=auto
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || fail 2 "$1 needs a value"
    case $1 in
    --steering) steering=$2 ;;
    --max-kilobytes) max_kilobytes=$2 ;;
    --out) out=$2 ;;
    # How to run, never what to compute; the runner passes these to every stage.
    --progress) progress=$2 ;;
    --threads) ;;
    *) fail 2 "no option $1; --help shows what there is" ;;
    esac
    shift 2
done
[ -n "$steering" ] && [ -n "$out" ] || fail 2 "--steering and --out are needed; --help shows an example"
[ -f "$steering" ] || fail 2 "no file at $steering"

# From here on, what the stage does.
bytes=$(wc -c <"$steering")
bytes=$((bytes))
if [ "$bytes" -gt $((max_kilobytes * 1000)) ]; then
    fail 2 "$steering has $bytes bytes, more than $max_kilobytes kB; fit fewer layers, or raise max-kilobytes"
fi
progress files 0 1
mkdir -p "$out"
# Whole, or not at all: a killed stage leaves nothing that looks finished.
cp "$steering" "$out/.partial"
mv "$out/.partial" "$out/@ROLE@.safetensors"
progress files 1 1

# All that varies from run to run goes here, never into an artifact.
printf '{"stage": "@STAGE@", "counts": {"bytes": %d}}\n' "$bytes" >"$out/summary.json"
