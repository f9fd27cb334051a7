#!/bin/sh
# A stage for tests: its outputs are hashes of its inputs and parameters. The test puts the
# stage's name and description in place of NAME and DESCRIPTION; a variable such as
# TOY_RANK="exit=2" makes the stage NAME=rank misbehave.
if [ "$1" = describe ]; then
    cat <<'END'
DESCRIPTION
END
    exit
fi
knob=${TOY_KNOB%%=*} value=${TOY_KNOB#*=}
files= params= round=- progress=none
while [ $# -gt 0 ]; do
    case $1 in
    --out) out=$2 ;;
    --progress) progress=$2 ;;
    --threads | --note*) ;;
    *)
        [ "$1" = --round ] && round=$2
        if [ -d "$2" ]; then
            files="$files $2/config.json $2/model.safetensors"
        elif [ -f "$2" ]; then
            files="$files $2"
        else
            params="$params $1 $2"
        fi
        ;;
    esac
    shift 2
done
mkdir -p "$out"
echo "NAME $round" >>ran.log
if [ "$progress" = json ]; then
    echo '{"event": "progress", "label": "items", "done": 1, "total": 2}' >&2
    echo '{"event": "warning", "message": "this is a toy"}' >&2
fi
echo "working hard" >&2

case $knob in
exit)
    echo "NAME: row 3 of the table is empty" >&2
    exit "$value"
    ;;
once-busy) [ -e "$value" ] || { : >"$value"; exit 75; } ;;
sleep)
    : >"$value"
    while :; do sleep 0.05; done
    ;;
wait) while [ ! -e "$value" ]; do sleep 0.01; done ;;
touch-input) printf more >>"$value" ;;
silent) exit 0 ;;
killed) kill -KILL $$ ;;
esac

hash=$({ cat $files; echo "$params"; } | sha256sum)
hash=${hash%% *}
[ "$knob" = cut ] && hash=cut
for output in OUTPUTS; do
    case $output in
    *.safetensors)
        # A header of 56 bytes, and one tensor of 64.
        {
            printf '\070\0\0\0\0\0\0\0'
            printf '%-56s' '{"t":{"dtype":"U8","shape":[64],"data_offsets":[0,64]}}'
            if [ "$knob" = torn ]; then printf short; else printf %s "$hash"; fi
        } >"$out/$output"
        ;;
    *) echo "$output $hash" >"$out/$output" ;;
    esac
done
echo "{\"stage\": \"NAME\", \"process\": $$}" >"$out/summary.json"
