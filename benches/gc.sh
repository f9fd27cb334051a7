#!/bin/sh
# How long `sims gc` takes on a store of many blobs, most of which no run needs.
#
#   benches/gc.sh                  200,000 blobs
#   BLOBS=1000000 benches/gc.sh    as many as asked for
#
# The blobs are empty but for a number, and their names made up, since gc does not read them.
set -eu
cd "$(dirname "$0")/.."
sims=$PWD/target/release/sims
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 - "$folder/.sims" "${BLOBS:-200000}" <<'END'
import hashlib, os, sys

root, blobs = sys.argv[1], int(sys.argv[2])
for first in range(256):
    os.makedirs(f"{root}/cas/{first:02x}")
for number in range(blobs):
    name = hashlib.sha256(str(number).encode()).hexdigest()
    with open(f"{root}/cas/{name[:2]}/{name}", "w") as file:
        file.write(str(number))
END
for what in "--dry-run" "" "--empty-trash"; do
    echo "gc $what" >&2
    # shellcheck disable=SC2086
    /usr/bin/env time -f "%e s, %M kB" "$sims" gc --older-than 0s --without-runs --store "$folder/.sims" $what
done
