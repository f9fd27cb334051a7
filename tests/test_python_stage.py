"""The example stage in Python, run by the runner in place of the judge."""

import polars as pl

from conftest import ROOT, SMALL, run_pipeline

BREVITY = f"""
round:
  judge: {{uses: {ROOT}/pipelines/examples/brevity_judge.py}}
"""


def test_a_python_script_judges_a_round(tmp_path):
    base = SMALL.replace("rounds: 2", "rounds: 1")
    (tmp_path / "base.yaml").write_text(base)
    text = f"extends: ../base.yaml\nname: brevity\n{BREVITY}"
    folder = run_pipeline(tmp_path, "brevity", text) / "round-1"

    responses = pl.read_parquet(folder / "responses.parquet").with_columns(
        length=pl.col("token_ids").list.len()
    )
    lengths = responses.select("response_id", "length")
    pairs = (
        pl.read_parquet(folder / "pairs.parquet")
        .join(lengths, left_on="chosen_id", right_on="response_id")
        .join(lengths, left_on="rejected_id", right_on="response_id", suffix="_rejected")
    )
    assert pairs.height > 0
    assert (pairs["length"] < pairs["length_rejected"]).all()
    assert (folder / "accepted.safetensors").exists()
