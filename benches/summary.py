#!/usr/bin/env python3
"""Sums up the rounds of a benchmark: `summary.py [--first ENGINE] ROUNDS.jsonl [SUMMARY.json]`.

Each line of ROUNDS has an engine and its tokens a second. Prints medians, and how many times as fast as each
other engine the first one is: by the medians, and from round to round. SUMMARY gets the same as JSON.
"""

import argparse
import json
import statistics
import sys


def summarize(rounds, first):
    speeds = {}
    for result in rounds:
        speed = result.get("new_tokens_per_second") or result["tokens_per_second"]
        speeds.setdefault(result["engine"], []).append(speed)
    engines = {
        name: {"median": statistics.median(values), "lowest": min(values), "highest": max(values), "rounds": len(values)}
        for name, values in speeds.items()
    }
    first = first or next(iter(speeds))
    ratios = {}
    for name in speeds:
        if name == first:
            continue
        pairs = [ours / theirs for ours, theirs in zip(speeds[first], speeds[name])]
        ratios[name] = {
            "of_medians": engines[first]["median"] / engines[name]["median"],
            "median_by_round": statistics.median(pairs),
            "lowest": min(pairs),
            "highest": max(pairs),
        }
    return {"first": first, "engines": engines, "ratios": ratios}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--first", help="the engine to compare; by default that of the first line")
    parser.add_argument("rounds")
    parser.add_argument("summary", nargs="?")
    args = parser.parse_args()
    with open(args.rounds) as file:
        summary = summarize([json.loads(line) for line in file], args.first)
    for name, speed in summary["engines"].items():
        print(
            f"{name:<31} {speed['median']:9.0f} tokens/s"
            f"  (lowest {speed['lowest']:.0f}, highest {speed['highest']:.0f}, {speed['rounds']} rounds)"
        )
    for name, ratio in summary["ratios"].items():
        print(
            f"{summary['first']} / {name}: {ratio['of_medians']:.2f} of medians;"
            f" by round {ratio['median_by_round']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"
        )
    if args.summary:
        with open(args.summary, "w") as file:
            json.dump(summary, file, indent=2)


if __name__ == "__main__":
    main()
