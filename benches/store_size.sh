#!/bin/sh
# How long `sims fsck` and `sims gc` take on a store of many blobs, most of which no run needs, and in how much memory.
#
#   benches/store_size.sh                  200,000 blobs
#   BLOBS=1000000 benches/store_size.sh    as many as asked for
#
# The blobs hold a number each. Their names are true digests, by b3sum (Debian's package of that name).
set -eu
cd "$(dirname "$0")/.."
sims=$PWD/target/release/sims
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 - "$folder" "${BLOBS:-200000}" <<'END'
import os, subprocess, sys

folder, blobs = sys.argv[1], int(sys.argv[2])
for first in range(256):
    os.makedirs(f"{folder}/.sims/cas/{first:02x}")
os.makedirs(f"{folder}/new")
for start in range(0, blobs, 1000):
    names = [str(number) for number in range(start, min(start + 1000, blobs))]
    for name in names:
        with open(f"{folder}/new/{name}", "w") as file:
            file.write(name)
    listed = subprocess.run(["b3sum", *names], cwd=f"{folder}/new", check=True, capture_output=True, text=True)
    for line in listed.stdout.splitlines():
        digest, name = line.split()
        os.rename(f"{folder}/new/{name}", f"{folder}/.sims/cas/{digest[:2]}/{digest}")
os.rmdir(f"{folder}/new")
END
timed() {
    echo "$*" >&2
    /usr/bin/env time -f "  %e s, %M kB" "$sims" "$@" --store "$folder/.sims" >/dev/null
}
timed fsck
timed fsck
for what in "--dry-run" "" "--empty-trash"; do
    # shellcheck disable=SC2086
    timed gc --older-than 0s --without-runs $what
done
