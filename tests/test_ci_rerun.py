"""Reruns as CI does them: nothing is computed twice, and a metric that fell fails the run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, SMALL

SIMS = ROOT / "target" / "release" / "sims"
SCRIPT = ROOT / "examples" / "ci" / "rerun.sh"
METRIC = "gold_win_rate"


@pytest.fixture(scope="module")
def remote(run, tmp_path_factory):
    """A remote cache with all that the finished run made."""
    remote = tmp_path_factory.mktemp("remote") / "cache"
    pipeline = run.parent.parent / "pipelines" / "opened-by-polars.yaml"
    push = [SIMS, "push", pipeline, "--remote", remote, "--store", run.parent.parent / ".sims", "--json"]
    done = subprocess.run(push, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)["uploaded"] > 10
    return remote


@pytest.fixture
def checkout(tmp_path):
    """A folder with the pipeline, and nothing computed."""
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "data").symlink_to(ROOT / "data")
    (tmp_path / "pipelines" / "opened-by-polars.yaml").write_text(SMALL)
    return tmp_path


def rerun(folder, remote, *arguments):
    python = Path(sys.executable).parent
    environment = {name: value for name, value in os.environ.items() if name != "SIMS_STORE"}
    environment.update(
        SIMS=str(SIMS), SIMS_REMOTE=str(remote), PATH=f"{python}{os.pathsep}{os.environ['PATH']}",
        GITHUB_STEP_SUMMARY=str(folder / "step-summary.md"),
    )
    pipeline = "pipelines/opened-by-polars.yaml"
    return subprocess.run(
        [SCRIPT, pipeline, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def recorded(run, change=lambda figure: figure):
    """Returns the figures of the finished run, changed."""
    done = subprocess.run(
        [SIMS, "report", run, "--metric", METRIC, "--json"], check=True, capture_output=True, text=True
    )
    return json.dumps([change(figure) for figure in json.loads(done.stdout)])


def test_a_warm_cache_leaves_nothing_to_run(run, remote, checkout):
    (checkout / "baseline.json").write_text(recorded(run))
    done = rerun(checkout, remote, "baseline.json", METRIC)
    assert done.returncode == 0, done.stderr
    counts = json.loads((checkout / "ci-report" / "run.json").read_text())
    assert counts["executed"] == 0 and counts["fetched"] == counts["cached"] > 10
    views = {path.relative_to(run): path for path in run.rglob("*.parquet") if path.is_symlink()}
    here = checkout / "runs" / "opened-by-polars"
    assert len(views) > 10
    for name, path in views.items():
        assert (here / name).read_bytes() == path.read_bytes(), name
    checks = json.loads((checkout / "ci-report" / "gate.json").read_text())
    assert checks and all(check["passed"] for check in checks)
    assert "<html" in (checkout / "ci-report" / "report.html").read_text()
    summary = (checkout / "ci-report" / "summary.md").read_text()
    assert summary and (checkout / "step-summary.md").read_text() == summary


def test_a_metric_that_fell_fails_the_run_and_is_named(run, remote, checkout):
    def higher(figure):
        if figure["round"] == 2:
            figure.update(value=figure["value"] + 0.5, ci_low=figure["value"] + 0.4, ci_high=figure["value"] + 0.6)
        return figure

    (checkout / "baseline.json").write_text(recorded(run, higher))
    done = rerun(checkout, remote, "baseline.json", METRIC)
    assert done.returncode == 1, done.stderr
    figures = [figure for figure in json.loads(recorded(run)) if figure["round"] == 2]
    for figure in figures:
        interval = f"[{figure['value'] + 0.4:.3f}, {figure['value'] + 0.6:.3f}]"
        expected = f"{METRIC} of round 2 ({figure['node']}) is {figure['value']:.3f}, below the recorded {interval}"
        assert expected in done.stderr, done.stderr
    assert (checkout / "ci-report" / "report.html").is_file(), "a failed run has a report"


def test_wrong_arguments_say_what_is_right(checkout, tmp_path):
    done = rerun(checkout, tmp_path / "none", "baseline.json")
    assert done.returncode == 2 and "rerun.sh PIPELINE [BASELINE METRIC]" in done.stderr


def test_the_workflow_runs_the_script_and_keeps_the_report():
    workflow = yaml.safe_load((ROOT / "examples" / "ci" / "github-actions.yml").read_text())
    steps = workflow["jobs"]["rerun"]["steps"]
    runs = [step["run"] for step in steps if "run" in step]
    assert any('ci/rerun.sh "$PIPELINE" "$BASELINE" "$METRIC"' in text for text in runs)
    for text in runs:
        # As GitHub puts expressions in, before a shell sees the text.
        subprocess.run(["bash", "-n", "-c", text.replace("${{", "").replace("}}", "")], check=True)
    assert steps[-1]["uses"].startswith("actions/upload-artifact@") and steps[-1]["if"] == "always()"
    assert (ROOT / workflow["env"]["PIPELINE"]).is_file()
