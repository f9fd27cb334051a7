#!/bin/sh
# A stage for tests that works in chunks of one unit: two lines, each of which it takes from known chunks or makes.
if [ "$1" = describe ]; then
    cat <<'END'
{"stage": "pieces", "behaviour": 1, "numerics": "",
 "inputs": {"ranking": {"schema": "ranks@1", "required": true}},
 "outputs": {"pieces": {"schema": "pieces@1"}},
 "params": {"type": "object", "properties": {}},
 "units": {"inputs": [], "params": []}}
END
    exit
fi
while [ $# -gt 0 ]; do
    case $1 in
    --out) out=$2 ;;
    --chunks) chunks=$2 ;;
    esac
    shift 2
done
mkdir -p "$out"
: "${chunks:=$out/chunks}"
mkdir -p "$chunks/new"
echo "pieces" >>ran.log
for unit in one two; do
    digest=$(echo "$unit" | sha256sum)
    digest=${digest%% *}
    note=$(grep -ls "$digest" "$chunks"/known/*.json) || {
        [ "${PIECES_FAIL-}" != "$unit" ] || exit 1
        echo "made $unit" >>ran.log
        rows=$chunks/new/$unit
        echo "$unit" >"$rows.parquet"
        echo "{\"kind\": \"lines\", \"schema\": \"pieces@1\", \"units\": [\"$digest\"], \"rows\": [${PIECES_ROWS-1}]}" >"$rows.tmp"
        mv "$rows.tmp" "$rows.json"
        echo "{\"event\": \"chunk\", \"name\": \"$unit\"}" >&2
        note=$rows.json
    }
    cat "${note%.json}.parquet" >>"$out/pieces.tmp"
done
mv "$out/pieces.tmp" "$out/pieces.parquet"
