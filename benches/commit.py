#!/usr/bin/env python3
"""What it costs to hash an artifact and put it into the store, against `b3sum` plus `cp`.

    benches/commit.py                     400 MB, 7 rounds
    benches/commit.py --megabytes 2000

A stage that links its output into place leaves all the work to the runner: hashing, flushing to the disk, moving. The
peer is `b3sum FILE && cp FILE COPY && sync COPY`, which reads the bytes once more but keeps nothing sound. Both sides
run in turns; the runner's time without the artifact, one with a single byte, is taken off.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIMS = Path(__file__).resolve().parent.parent / "target/release/sims"

STAGE = """#!/bin/sh
if [ "$1" = describe ]; then
    cat <<'END'
{"stage": "move", "behaviour": 1, "numerics": "", "inputs": {"turn": {"schema": "text@1", "required": true}},
 "outputs": {"data": {"schema": "bytes@1"}}, "params": {"type": "object", "properties": {}}}
END
    exit
fi
while [ $# -gt 0 ]; do
    [ "$1" = --out ] && out=$2
    shift 2
done
mv next "$out/data.parquet"
"""

PIPELINE = """name: commit
seed: 1
rounds: 1
prompts: {turn: turn.txt}
stages:
  move: {uses: ./move.sh, inputs: {turn: prompts.turn}}
"""


def timed(command, folder):
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, shell=isinstance(command, str))
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        sys.exit(f"{command} failed:\n{done.stdout}{done.stderr}")
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=400)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        (folder / "move.sh").write_text(STAGE)
        (folder / "move.sh").chmod(0o755)
        (folder / "commit.yaml").write_text(PIPELINE)

        def run(name, data):
            (folder / "turn.txt").write_text(name)
            (folder / "next").write_bytes(data)
            os.sync()
            return timed([SIMS, "run", "commit.yaml"], folder)

        ours, theirs = [], []
        for turn in range(args.rounds):
            data = os.urandom(int(args.megabytes * 1e6))
            empty = run(f"empty {turn}", os.urandom(16))
            ours.append(run(f"full {turn}", data) - empty)
            (folder / "peer").write_bytes(data)
            os.sync()
            theirs.append(timed("b3sum peer && cp peer copy && sync copy", folder))
            for name in ("peer", "copy", "runs"):
                path = folder / name
                path.unlink() if path.is_file() else shutil.rmtree(path)
            timed([SIMS, "gc", "--older-than", "0s", "--without-runs", "--empty-trash"], folder)
    for name, seconds in (("sims", ours), ("b3sum and cp", theirs)):
        print(f"{name:<13} {1e3 * statistics.median(seconds):8.0f} ms  ({1e3 * min(seconds):.0f} to {1e3 * max(seconds):.0f})")
    ratios = [own / peer for own, peer in zip(ours, theirs)]
    print(f"sims / b3sum and cp: {statistics.median(ratios):.2f}  ({min(ratios):.2f} to {max(ratios):.2f} by round)")


if __name__ == "__main__":
    main()
