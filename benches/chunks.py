#!/usr/bin/env python3
"""What ten thousand chunks cost: the runner's share of each, a second run, one more chunk, and the plan.

    benches/chunks.py                    10,000 chunks
    benches/chunks.py --chunks 1000

The stage does nothing but write its chunks, so that what is measured is the runner. `each chunk` is how much longer
the stage takes under the runner, which keeps each chunk as it comes, than alone, by chunk.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIMS = Path(__file__).resolve().parent.parent / "target/release/sims"

STAGE = """#!/usr/bin/env python3
import hashlib, json, os, sys
if sys.argv[1] == "describe":
    print(json.dumps({
        "stage": "pieces", "behaviour": 1, "numerics": "",
        "inputs": {"units": {"schema": "units@1", "required": True}},
        "outputs": {"pieces": {"schema": "pieces@1"}},
        "params": {"type": "object", "properties": {}},
        "units": {"inputs": ["units"], "params": []},
    }))
    sys.exit()
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
chunks, out = flags["--chunks"], flags["--out"]
os.makedirs(f"{chunks}/new", exist_ok=True)
os.makedirs(out, exist_ok=True)
known = set()
for name in os.listdir(f"{chunks}/known") if os.path.isdir(f"{chunks}/known") else []:
    if name.endswith(".json"):
        with open(f"{chunks}/known/{name}") as file:
            known.update(json.load(file)["units"])
for number in range(int(open(flags["--units"]).read())):
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    if digest in known:
        continue
    path = f"{chunks}/new/{number}"
    with open(path + ".parquet", "w") as file:
        file.write(f"{number}\\n" * 100)
    with open(path + ".tmp", "w") as file:
        json.dump({"kind": "pieces", "schema": "pieces@1", "units": [digest], "rows": [100]}, file)
    os.rename(path + ".tmp", path + ".json")
    print(json.dumps({"event": "chunk", "name": str(number)}), file=sys.stderr, flush=True)
with open(f"{out}/pieces.parquet", "w") as file:
    file.write(flags["--units"])
"""

PIPELINE = """name: chunks
seed: 1
rounds: 1
prompts: {units: units.txt}
stages:
  pieces: {uses: ./pieces.py, inputs: {units: prompts.units}}
"""


def timed(command, folder):
    """Returns how long a command takes, and the most memory of any process so far that was waited for."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        sys.exit(f"{command} failed:\n{done.stdout}{done.stderr}")
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--chunks", type=int, default=10_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        (folder / "pieces.py").write_text(STAGE)
        (folder / "pieces.py").chmod(0o755)
        (folder / "chunks.yaml").write_text(PIPELINE)
        (folder / "units.txt").write_text(str(args.chunks))
        alone, _ = timed(
            ["./pieces.py", "--units", "units.txt", "--chunks", "by-hand", "--out", "by-hand/out"], folder
        )
        run = [SIMS, "run", "chunks.yaml", "--json"]
        first, memory = timed(run, folder)
        print(f"the stage alone {alone:.2f} s, under the runner {first:.2f} s ({memory:.0f} MB)")
        print(f"each chunk: {1e3 * (first - alone) / args.chunks:.2f} ms")
        again, _ = timed(run, folder)
        plan, _ = timed([SIMS, "plan", "chunks.yaml", "--json"], folder)
        print(f"nothing to do: {1e3 * again:.0f} ms; plan: {1e3 * plan:.0f} ms")
        (folder / "units.txt").write_text(str(args.chunks + 1))
        more, memory = timed(run, folder)
        print(f"one chunk more, the others known: {more:.2f} s ({memory:.0f} MB)")


if __name__ == "__main__":
    main()
