#!/usr/bin/env python3
"""A judge that likes short answers: a stage of the loop in Python.

A stage is a program that prints what it is (`describe`) and otherwise reads files and writes files:

    brevity_judge.py --responses responses.parquet --nats-per-token 0.2 --out judged

Needs polars.
"""

import argparse
import json
import sys
from itertools import combinations
from pathlib import Path

DESCRIPTION = {
    "stage": "judge",
    "behaviour": 1,
    "numerics": "",
    "inputs": {"responses": {"schema": "responses@1", "required": True, "help": "The responses to compare"}},
    "outputs": {"judgments": {"schema": "judgments@1", "required": True, "help": "Every pair in both orders"}},
    "params": {
        "type": "object",
        "properties": {
            "nats-per-token": {
                "type": "number",
                "default": 0.2,
                "description": "Log-odds for each token that an answer is shorter",
            }
        },
        "additionalProperties": False,
    },
}


def judge(responses, nats_per_token):
    import math

    rows = []
    ordered = responses.sort("prompt_id", "sample_index")
    for (prompt_id,), group in ordered.group_by("prompt_id", maintain_order=True):
        answers = group.select("response_id", "token_ids").rows()
        for (a, tokens_a), (b, tokens_b) in combinations(answers, 2):
            odds = nats_per_token * (len(tokens_b) - len(tokens_a))
            for order in ("ab", "ba"):
                rows.append(
                    {
                        "prompt_id": prompt_id,
                        "response_a": a,
                        "response_b": b,
                        "order": order,
                        "judge": "brevity",
                        "p_a": 1 / (1 + math.exp(-odds)),
                        "verdict": "tie" if odds == 0 else "a" if odds > 0 else "b",
                        "raw": float(odds),
                        "coverage": 1.0,
                    }
                )
    return rows


def main():
    if sys.argv[1:2] == ["describe"]:
        print(json.dumps(DESCRIPTION))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=Path, required=True)
    parser.add_argument("--nats-per-token", type=float, default=0.2)
    parser.add_argument("--out", type=Path, required=True)
    # How to run, never what to compute; the runner passes these to every stage.
    parser.add_argument("--progress", default="none")
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()

    import polars as pl

    rows = judge(pl.read_parquet(arguments.responses), arguments.nats_per_token)
    if not rows:
        sys.exit("error: every prompt has a single response; sample at least 2 a prompt")
    arguments.out.mkdir(parents=True, exist_ok=True)
    # Complete before it has its name: a killed stage leaves nothing that looks finished.
    partial = arguments.out / ".judgments.parquet"
    pl.DataFrame(rows).write_parquet(partial)
    partial.rename(arguments.out / "judgments.parquet")
    (arguments.out / "summary.json").write_text(json.dumps({"stage": "judge", "counts": {"judgments": len(rows)}}))


if __name__ == "__main__":
    main()
