#!/usr/bin/env python3
"""Counts the words of every response: the stage @STAGE@.

    @SCRIPT@ describe
    @SCRIPT@ --responses responses.parquet --min-words 8 --out counted

Needs polars.
"""

import argparse
import json
import sys
import time
from pathlib import Path

SCHEMA = "@ROLE@@1"

# What the stage is: the runner reads this, and checks pipeline files against it. Names of parameters become flags.
# Declare `seed` or `round` as integer parameters, and the runner fills them in.
DESCRIPTION = {
    "stage": "@STAGE@",
    "behaviour": 1,  # raise it when a program or a library that you call gives other bytes than before
    "numerics": "",  # "cpu" for a stage whose bytes depend on the device
    "inputs": {"responses": {"schema": "responses@1", "required": True, "help": "The responses to count in"}},
    "outputs": {"@ROLE@": {"schema": SCHEMA, "required": True, "help": "One row a response"}},
    "params": {
        "type": "object",
        "properties": {
            "min-words": {"type": "integer", "default": 8, "description": "Words that make a response long"},
        },
        "additionalProperties": False,
    },
}


class BadInput(Exception):
    """What the user has to mend: exit code 2."""


def compute(responses, min_words, progress):
    """Returns the output table. Change this; `sims schema responses` shows the columns that come in."""
    import polars as pl

    if responses.is_empty():
        raise BadInput("there are no responses; raise `samples` of the stage that makes them")
    progress("responses", 0, responses.height)
    words = pl.col("text").str.strip_chars().str.split(" ").list.len().alias("words")
    counted = responses.select("prompt_id", "response_id", words).with_columns(long=pl.col("words") >= min_words)
    progress("responses", responses.height, responses.height)
    # The same inputs have to give the same bytes: sort, and draw random numbers from `seed` alone.
    return counted.sort("prompt_id", "response_id")


def write_table(table, schema, path):
    """Writes a Parquet file with the metadata by which the store knows its kind; whole, or not at all."""
    partial = path.with_name(f".{path.name}")
    table.write_parquet(partial, metadata={"sims.schema": schema})
    partial.replace(path)


def main():
    if sys.argv[1:2] == ["describe"]:
        print(json.dumps(DESCRIPTION))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=Path, required=True)
    parser.add_argument("--min-words", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    # How to run, never what to compute; the runner passes these to every stage.
    parser.add_argument("--progress", choices=["auto", "json", "none"], default="auto")
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()

    def progress(label, done, total):
        if arguments.progress == "json":
            event = {"event": "progress", "label": label, "done": done, "total": total}
            print(json.dumps(event), file=sys.stderr, flush=True)

    import polars as pl

    started = time.monotonic()
    try:
        responses = pl.read_parquet(arguments.responses)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BadInput(f"cannot read {arguments.responses}: {error}") from error
    table = compute(responses, arguments.min_words, progress)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_table(table, SCHEMA, arguments.out / "@ROLE@.parquet")
    # All that varies from run to run goes here, never into an artifact.
    summary = {
        "stage": DESCRIPTION["stage"],
        "counts": {"responses": table.height, "long": int(table["long"].sum())},
        "seconds": time.monotonic() - started,
    }
    (arguments.out / "summary.json").write_text(json.dumps(summary))


if __name__ == "__main__":
    try:
        main()
    except BadInput as bad:
        print(f"error: {bad}", file=sys.stderr)
        sys.exit(2)
    # 75 asks the runner to try again (a server that is busy); whatever else goes wrong ends with 1.
