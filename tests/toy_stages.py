"""Two small stages in a shell, and a pipeline over them."""

import json

# A stage for tests: it writes its name and its inputs, and does before what the file NAME.knob says.
STAGE = """\
#!/bin/sh
if [ "$1" = describe ]; then
    echo '{"stage": "NAME", "behaviour": 1, "numerics": "", "inputs": INPUTS,
           "outputs": {"NAME": {"schema": "text@1", "required": true}},
           "params": {"type": "object", "properties": {"round": {"type": "integer"}, "note": {"type": "string"}}}}'
    exit
fi
round=once files= params=
while [ $# -gt 0 ]; do
    case $1 in
    --out) out=$2 ;;
    --progress | --threads) ;;
    --round) round=$2 ;;
    --note) params="$params $2" ;;
    *) files="$files $2" ;;
    esac
    shift 2
done
echo "$round/NAME" >>ran.log
if [ -e NAME.knob ]; then . ./NAME.knob; fi
{ echo "NAME $round$params"; cat /dev/null $files; } >"$out/NAME.parquet"
echo '{"stage": "NAME"}' >"$out/summary.json.new"
[ -e "$out/summary.json" ] || mv "$out/summary.json.new" "$out/summary.json"
"""

# Two stages a round, each round on the results of the one before.
TOY = """\
name: toy
rounds: 2
resources: {cpus: 1, memory: 100M, time: 5m}
round:
  draft: {uses: ./draft.sh, inputs: {x: previous.check.check}}
  check: {uses: ./check.sh, inputs: {x: draft.draft}, resources: {memory: 150M}}
"""


def write_toy(folder, pipeline):
    """Writes the stages and `toy.yaml` into a folder."""
    for name in ("draft", "check"):
        inputs = json.dumps({"x": {"schema": "text@1", "required": name == "check"}})
        script = folder / f"{name}.sh"
        script.write_text(STAGE.replace("NAME", name).replace("INPUTS", inputs))
        script.chmod(0o755)
    (folder / "toy.yaml").write_text(pipeline)
