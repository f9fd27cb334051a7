"""`sims new stage`: the Python stage that it writes, run in the built-in world."""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from conftest import ROOT, SMALL

BASE = SMALL.replace("rounds: 2", "rounds: 1")


def sims(workspace, *arguments):
    """Runs `sims` in a folder, with the Python of these tests, and returns what it printed."""
    python = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{python}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("SIMS_STORE", None)
    program = ROOT / "target" / "release" / "sims"
    done = subprocess.run([program, *arguments], env=environment, cwd=workspace, check=True, capture_output=True)
    return done.stdout.decode()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("new-stage")
    (folder / "pipelines").mkdir()
    (folder / "data").symlink_to(ROOT / "data")
    (folder / "pipelines" / "quickstart.yaml").write_text(BASE)
    sims(folder, "new", "stage", "word-count")
    return folder


def stage(workspace, *arguments):
    command = [sys.executable, workspace / "pipelines" / "word_count.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_stage_runs_in_a_pipeline(workspace):
    sims(workspace, "run", "pipelines/word-count.yaml")
    folder = workspace / "runs" / "word-count" / "round-1"
    path = folder / "word-count-words.parquet"
    counted = pl.read_parquet(path)
    responses = pl.read_parquet(folder / "responses.parquet")
    assert counted.height == responses.height
    words = {row["response_id"]: len(row["text"].strip().split(" ")) for row in responses.to_dicts()}
    assert {row["response_id"]: row["words"] for row in counted.to_dicts()} == words
    assert (counted["long"] == (counted["words"] >= 8)).all()
    assert pl.read_parquet_metadata(path)["sims.schema"] == "word-count-words@1"
    summary = json.loads((folder / "summaries" / "word-count.json").read_text())
    assert summary["counts"]["responses"] == counted.height
    again = json.loads(sims(workspace, "run", "pipelines/word-count.yaml", "--json"))
    assert again["executed"] == 0
    verdicts = json.loads(sims(workspace, "verify", "pipelines/word-count.yaml", "--sample", "0", "--json"))
    assert [one["verdict"] for one in verdicts if one["stage"].endswith("word-count")] == ["same"]


def test_the_stage_keeps_to_the_protocol(workspace, tmp_path):
    described = stage(workspace, "describe")
    assert json.loads(described.stdout)["outputs"] == {
        "word-count-words": {"schema": "word-count-words@1", "required": True, "help": "One row a response"}
    }
    rows = [{"prompt_id": "p", "response_id": r, "text": t} for r, t in [("b", "one two"), ("a", "one")]]
    responses = tmp_path / "responses.parquet"
    pl.DataFrame(rows).write_parquet(responses)
    out = tmp_path / "out"
    done = stage(workspace, "--responses", responses, "--min-words", "2", "--out", out, "--progress", "json")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert events[-1] == {"event": "progress", "label": "responses", "done": 2, "total": 2}
    assert sorted(path.name for path in out.iterdir()) == ["summary.json", "word-count-words.parquet"]
    assert pl.read_parquet(out / "word-count-words.parquet").rows() == [("p", "a", 1, False), ("p", "b", 2, True)]

    assert stage(workspace, "--responses", responses).returncode == 2
    absent = stage(workspace, "--responses", tmp_path / "absent.parquet", "--out", tmp_path / "none")
    assert (absent.returncode, absent.stderr[:18]) == (2, "error: cannot read")
    pl.DataFrame(rows).clear().write_parquet(responses)
    empty = stage(workspace, "--responses", responses, "--out", tmp_path / "none")
    assert (empty.returncode, empty.stderr[:29]) == (2, "error: there are no responses")
    assert not (tmp_path / "none").exists()
