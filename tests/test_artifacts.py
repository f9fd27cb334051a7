"""Every artifact of a finished run, opened and joined the way a data scientist would."""

import json
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = {
    schema["id"]: schema
    for schema in (json.loads(path.read_text()) for path in (ROOT / "schemas").glob("*.json"))
    if "columns" in schema
}
TYPES = {
    "string": pl.String,
    "u32": pl.UInt32,
    "u64": pl.UInt64,
    "f64": pl.Float64,
    "bool": pl.Boolean,
    "list<u32>": pl.List(pl.UInt32),
    "list<struct<role: string, content: string>>": pl.List(
        pl.Struct({"role": pl.String, "content": pl.String})
    ),
}
TABLES = {
    "responses": "responses@1",
    "judgments": "judgments@1",
    "reliability": "metrics@1",
    "ranking": "ranking@1",
    "pairs": "pairs@1",
    "dropped": "dropped@1",
    "bank": "pairs@1",
    "index": "index@1",
    "fit-report": "fit-report@1",
    "decision": "decision@2",
    "metrics": "metrics@1",
    "scores": "scores@1",
}


@pytest.mark.parametrize("name", TABLES)
def test_columns_are_those_of_the_schema(run, name):
    for number in (1, 2):
        found = pl.read_parquet_schema(run / f"round-{number}" / f"{name}.parquet")
        expected = {c["name"]: TYPES[c["type"]] for c in SCHEMAS[TABLES[name]]["columns"]}
        assert dict(found) == expected


def test_every_parquet_file_of_the_run_opens(run):
    files = [path for path in run.rglob("*.parquet")]
    assert len(files) >= 2 * len(TABLES)
    for path in files:
        pl.read_parquet(path)


def test_rounds_scan_as_one_table(run):
    responses = pl.scan_parquet(run / "round-*" / "responses.parquet").collect()
    assert responses["round"].unique().sort().to_list() == [1, 2]
    assert responses.height == 2 * 160 * 6
    assert responses["response_id"].n_unique() == responses.height


def test_prompts_responses_rankings_and_pairs_join(run):
    prompts = pl.read_parquet(ROOT / "data/toyworld/train.parquet")
    folder = run / "round-1"
    responses = pl.read_parquet(folder / "responses.parquet")
    ranking = pl.read_parquet(folder / "ranking.parquet")
    pairs = pl.read_parquet(folder / "pairs.parquet")
    judgments = pl.read_parquet(folder / "judgments.parquet")

    joined = ranking.join(responses, on=["prompt_id", "response_id"]).join(prompts, on="prompt_id")
    assert joined.height == ranking.height == responses.height
    scores = ranking.select("response_id", "score")
    margins = (
        pairs.join(scores, left_on="chosen_id", right_on="response_id")
        .join(scores, left_on="rejected_id", right_on="response_id", suffix="_rejected")
        .with_columns(difference=pl.col("score") - pl.col("score_rejected"))
    )
    assert margins.height == pairs.height > 0
    assert (margins["difference"] - margins["margin"]).abs().max() < 1e-9
    # Every comparison was made in both orders.
    orders = judgments.group_by("response_a", "response_b").agg(pl.col("order").n_unique())
    assert orders["order"].to_list() == [2] * orders.height
    # The index says what each row of the hidden states is.
    index = pl.read_parquet(folder / "index.parquet")
    assert index.join(pairs, on="pair_id", how="anti").height == 0
