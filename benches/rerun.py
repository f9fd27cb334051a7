#!/usr/bin/env python3
"""How long it takes to say that nothing is to do, for a chain of stages over some data: sims, DVC and Snakemake.

    benches/rerun.py                                  30 stages, 200 MB, 7 rounds
    benches/rerun.py --stages 10 --megabytes 50

DVC and Snakemake are installed from PyPI into target/peers, or taken from the folder PEERS. Each engine has the same
chain of the same program, which copies its input and appends a line. In each round every engine runs once more over
its finished chain, in turns; `sims, re-hashed` does so without what it remembers of verified files, so that it reads
and hashes every blob and input again.
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

REPOSITORY = Path(__file__).resolve().parent.parent
SIMS = REPOSITORY / "target/release/sims"

STEP = """#!/bin/sh
if [ "$1" = describe ]; then
    cat <<'END'
{"stage": "step", "behaviour": 1, "numerics": "",
 "inputs": {"before": {"schema": "bytes@1", "required": true}}, "outputs": {"after": {"schema": "bytes@1", "required": true}},
 "params": {"type": "object", "properties": {"number": {"type": "integer", "default": 0}}}}
END
    exit
fi
while [ $# -gt 0 ]; do
    case $1 in
    --before) before=$2 ;;
    --number) number=$2 ;;
    --out) out=$2 ;;
    esac
    shift 2
done
cp "$before" "$out/after.parquet"
chmod u+w "$out/after.parquet"
echo "$number" >> "$out/after.parquet"
"""


def peers():
    """Returns the folder with the programs of the other engines."""
    if "PEERS" in os.environ:
        return Path(os.environ["PEERS"])
    folder = REPOSITORY / "target/peers"
    if not (folder / "bin/dvc").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", "dvc", "snakemake"], check=True)
    return folder / "bin"


def sims_chain(folder, stages):
    (folder / "step.sh").write_text(STEP)
    (folder / "step.sh").chmod(0o755)
    lines = ["name: chain", "seed: 1", "rounds: 1", "prompts: {start: data.bin}", "stages:"]
    for number in range(1, stages + 1):
        before = "prompts.start" if number == 1 else f"step-{number - 1}.after"
        lines.append(f"  step-{number}: {{uses: ./step.sh, inputs: {{before: {before}}}, with: {{number: {number}}}}}")
    (folder / "chain.yaml").write_text("\n".join(lines) + "\n")
    return [SIMS, "run", "chain.yaml"]


def dvc_chain(folder, stages, programs):
    lines = ["stages:"]
    for number in range(1, stages + 1):
        before = "data.bin" if number == 1 else f"after-{number - 1}"
        lines += [
            f"  step-{number}:",
            f"    cmd: cp {before} after-{number} && chmod u+w after-{number} && echo {number} >> after-{number}",
            f"    deps: [{before}]",
            f"    outs: [after-{number}]",
        ]
    (folder / "dvc.yaml").write_text("\n".join(lines) + "\n")
    subprocess.run([programs / "dvc", "init", "--no-scm", "--quiet"], cwd=folder, check=True)
    subprocess.run([programs / "dvc", "config", "core.analytics", "false"], cwd=folder, check=True)
    return [programs / "dvc", "repro"]


def snakemake_chain(folder, stages, programs):
    lines = ["rule all:", f"    input: 'after-{stages}'"]
    for number in range(1, stages + 1):
        before = "data.bin" if number == 1 else f"after-{number - 1}"
        lines += [
            f"rule step_{number}:",
            f"    input: '{before}'",
            f"    output: 'after-{number}'",
            f"    shell: 'cp {{input}} {{output}} && chmod u+w {{output}} && echo {number} >> {{output}}'",
        ]
    (folder / "Snakefile").write_text("\n".join(lines) + "\n")
    return [programs / "snakemake", "--cores", "1", "--quiet"]


def timed(command, folder):
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "NO_COLOR": "1"}
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        sys.exit(f"{command} failed in {folder}")
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--stages", type=int, default=30)
    parser.add_argument("--megabytes", type=float, default=200, help="of all outputs together")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    programs = peers()
    with tempfile.TemporaryDirectory() as root:
        data = os.urandom(int(args.megabytes * 1e6 / args.stages))
        chains = {}
        makers = {
            "sims": lambda folder: sims_chain(folder, args.stages),
            "DVC": lambda folder: dvc_chain(folder, args.stages, programs),
            "Snakemake": lambda folder: snakemake_chain(folder, args.stages, programs),
        }
        for engine, make in makers.items():
            folder = Path(root) / engine
            folder.mkdir()
            (folder / "data.bin").write_bytes(data)
            command = make(folder)
            print(f"{engine}: first run {timed(command, folder):.2f} s", flush=True)
            timed(command, folder)
            chains[engine] = (command, folder)
        times = {engine: [] for engine in [*chains, "sims, re-hashed"]}
        for _ in range(args.rounds):
            for engine, (command, folder) in chains.items():
                times[engine].append(timed(command, folder))
            command, folder = chains["sims"]
            shutil.rmtree(folder / ".sims/cache")
            times["sims, re-hashed"].append(timed(command, folder))
            timed(command, folder)
    for engine, seconds in times.items():
        low, high = min(seconds), max(seconds)
        print(f"{engine:<16} {1e3 * statistics.median(seconds):9.1f} ms  ({1e3 * low:.1f} to {1e3 * high:.1f})")
    for ours in ("sims", "sims, re-hashed"):
        ratios = [min(dvc, snake) / own for own, dvc, snake in zip(times[ours], times["DVC"], times["Snakemake"])]
        print(
            f"faster of DVC and Snakemake / {ours}: {statistics.median(ratios):.0f}"
            f"  ({min(ratios):.0f} to {max(ratios):.0f} by round)"
        )


if __name__ == "__main__":
    main()
