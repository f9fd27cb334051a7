"""`sims run --executor slurm` on a real cluster of one node, which these tests start."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import slurm_cluster
from conftest import ROOT, SMALL
from toy_stages import TOY, write_toy

SIMS = ROOT / "target" / "release" / "sims"

pytestmark = pytest.mark.skipif(
    bool(slurm_cluster.missing()),
    reason=f"Slurm is not installed (apt-get install slurm-wlm munge): no {', '.join(slurm_cluster.missing())}",
)

@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm_cluster.Cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


class Workspace:
    """A folder with a pipeline, run on the cluster or here."""

    def __init__(self, folder, cluster, pipeline):
        self.folder, self.cluster, self.pipeline = folder, cluster, pipeline

    def start(self, *arguments, executor="slurm"):
        command = [SIMS, "run", self.pipeline, f"--executor={executor}", "--json", *arguments]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**self.cluster.environment, "NO_COLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments, executor="slurm"):
        """The exit code, the report, and what was told."""
        process = self.start(*arguments, executor=executor)
        stdout, stderr = process.communicate(timeout=120)
        print(stderr)
        return process.returncode, json.loads(stdout) if stdout else None, stderr

    def counts(self, *arguments, executor="slurm"):
        """How many stages a run executed, and how many it found; it must succeed."""
        code, report, told = self.run(*arguments, executor=executor)
        assert code == 0, told
        return report["executed"], report["cached"]

    def views(self, name):
        """The bytes of every view that is an artifact, by path; summaries tell of time and place."""
        folder = self.folder / "runs" / name
        found = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_symlink()}
        return {path: data for path, data in found.items() if path.suffix != ".json"}

    def ran(self):
        """The stages that ran, in order."""
        log = self.folder / "ran.log"
        return log.read_text().split() if log.exists() else []

    def knob(self, stage, code):
        (self.folder / f"{stage}.knob").write_text(code)

    def wait_for(self, name):
        path = self.folder / name
        self.cluster.wait(path.exists, f"{path} appears")

    def jobs(self):
        """The jobs of the last submissions, by stage."""
        record = json.loads((self.folder / "runs" / "toy" / "slurm.json").read_text())
        return {name: job["job"] for name, job in record["jobs"].items()}


@pytest.fixture
def toy(tmp_path, cluster):
    write_toy(tmp_path, TOY)
    yield Workspace(tmp_path, cluster, tmp_path / "toy.yaml")
    assert not cluster.active(), "a test leaves no job behind"


# The sampler, whose second part fails the first time.
FLAKY = """\
#!/bin/sh
case "$*" in
*"--part 2/3"*) [ -e part-failed ] || { : >part-failed; echo "no luck" >&2; exit 1; } ;;
esac
exec sims-sample "$@"
"""
IN_PARTS = """
resources: {cpus: 1, memory: 900M, time: 10m}
"""


def test_a_round_of_the_built_in_model_is_byte_equal_to_a_local_run(tmp_path, cluster):
    text = SMALL.replace("rounds: 2", "rounds: 1") + IN_PARTS
    sample = "  sample: {samples: 6, shard-size: 160}\n"
    assert sample in text
    text = text.replace(
        sample,
        "  sample:\n    uses: ./flaky.sh\n    with: {samples: 6, shard-size: 160, temperature: 0.9, max-new-tokens: 40}\n"
        "    resources: {parts: 3}\n  judge: {resources: {parts: 2}}\n",
    )
    views = []
    for executor in ("slurm", "local"):
        folder = tmp_path / executor
        (folder / "pipelines").mkdir(parents=True)
        (folder / "data").symlink_to(ROOT / "data")
        (folder / "flaky.sh").write_text(FLAKY)
        (folder / "flaky.sh").chmod(0o755)
        pipeline = folder / "pipelines" / "small.yaml"
        pipeline.write_text(text)
        workspace = Workspace(folder, cluster, pipeline)
        code, report, told = workspace.run(executor=executor)
        assert (code, report["cached"], report["failed"]) == (0, 0, 0), told
        executed = report["executed"]
        assert executed > 10
        if executor == "slurm":
            # Of the array only the task that failed is submitted again.
            logs = folder / "runs" / "opened-by-polars" / "slurm" / "round-1"
            assert "it is submitted again (1 of 2)" in told
            assert sorted(path.name for path in logs.glob("sample.parts.*.out")) == [
                "sample.parts.1-1.out", "sample.parts.1-2.out", "sample.parts.1-3.out", "sample.parts.2-2.out",
            ]  # fmt: skip
            assert len(list(logs.glob("judge.parts.2-*.out"))) == 2, "what waited for it is submitted anew"
        assert workspace.counts(executor=executor) == (0, executed)
        views.append(workspace.views("opened-by-polars"))
    assert len(views[0]) > 20
    assert views[0] == views[1]


def test_a_job_that_fails_is_submitted_again(toy):
    toy.knob("check", '[ "$round" != 1 ] || [ -e failed ] || { : >failed; echo "no luck" >&2; exit 1; }')
    code, report, told = toy.run()
    assert (code, report["executed"], report["failed"]) == (0, 4, 0)
    assert toy.ran() == ["1/draft", "1/check", "1/check", "2/draft", "2/check"]
    assert "it is submitted again (1 of 2)" in told
    local = Workspace(toy.folder, toy.cluster, toy.pipeline)
    views = toy.views("toy")
    assert local.counts("--store", str(toy.folder / "other"), executor="local") == (4, 0)
    assert local.views("toy") == views and len(views) == 4


def test_a_stage_that_fails_for_good_ends_the_run_and_says_why(toy):
    toy.knob("check", 'echo "row 3 of the table is empty" >&2; exit 1')
    code, report, told = toy.run("--resubmit=1")
    assert (code, report["executed"], report["failed"], report["not_run"]) == (1, 1, 1, 2)
    assert toy.ran() == ["1/draft", "1/check", "1/check"]
    assert "round-1/check failed: exit code 1 (job " in told
    assert "| row 3 of the table is empty" in told
    toy.knob("check", "exit 2")
    (toy.folder / "ran.log").unlink()
    assert toy.run()[0] == 1
    assert toy.ran() == ["1/check"], "what is wrong with the input is so the next time as well"


def test_a_job_over_its_memory_is_told_what_it_lacks(toy):
    python = sys.executable
    toy.knob("check", f"{python} -c 'x = bytearray(400 << 20); import time; time.sleep(60)'")
    code, _, told = toy.run("--resubmit=0")
    assert code == 1
    assert "round-1/check failed:" in told
    assert "more `memory` under `resources`" in told


def test_ctrl_c_cancels_every_job(toy):
    toy.knob("draft", ": >asleep; exec sleep 60")
    process = toy.start()
    toy.wait_for("asleep")
    process.send_signal(signal.SIGINT)
    stdout, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert json.loads(stdout)["interrupted"]
    assert "cancelled 4 jobs" in told
    assert not toy.cluster.active()
    (toy.folder / "draft.knob").unlink()
    assert toy.counts() == (4, 0)


def test_jobs_outlive_the_session_and_are_taken_over(toy):
    toy.knob("draft", ": >asleep; while [ ! -e go ]; do sleep 0.05; done")
    process = toy.start()
    toy.wait_for("asleep")
    toy.cluster.wait(lambda: len(toy.cluster.active()) == 4, "all jobs are submitted")
    process.kill()
    process.wait()
    jobs = toy.jobs()
    following = toy.start()
    toy.wait_for("runs/toy/slurm.lock")
    (toy.folder / "go").touch()
    stdout, told = following.communicate(timeout=60)
    report = json.loads(stdout)
    assert following.returncode == 0, told
    assert report["executed"] + report["cached"] == 4
    assert toy.jobs() == jobs and "submitted" not in told
    assert toy.ran() == ["1/draft", "1/check", "2/draft", "2/check"]


def test_a_session_killed_at_any_moment_submits_nothing_twice(toy):
    toy.knob("draft", "while [ ! -e go ]; do sleep 0.05; done")
    # The moments spread over the submission; which step each one meets is left to chance.
    for step in range(1, 7):
        process = toy.start("--detach")
        time.sleep(0.03 * step)
        process.kill()
        process.wait()
    assert toy.run("--detach")[0] == 0
    names = sorted(line.split()[-1] for line in toy.cluster.active())
    assert names == sorted(f"toy/round-{n}/{stage}" for n in (1, 2) for stage in ("draft", "check"))
    (toy.folder / "go").touch()
    assert sum(toy.counts()) == 4
    assert len(toy.ran()) == 4


def test_jobs_of_an_earlier_version_of_the_pipeline_are_replaced(toy):
    toy.knob("draft", "while [ ! -e go ]; do sleep 0.05; done")
    code, report, _ = toy.run("--detach")
    assert (code, report["queued"]) == (0, 4)
    before = toy.jobs()
    changed = toy.pipeline.read_text().replace("inputs: {x: draft.draft}", "inputs: {x: draft.draft}, with: {note: new}")
    toy.pipeline.write_text(changed)
    process = toy.start()
    toy.cluster.wait(lambda: toy.jobs()["round-2/check"] != before["round-2/check"], "new jobs are submitted")
    (toy.folder / "go").touch()
    stdout, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    assert toy.jobs()["round-1/draft"] == before["round-1/draft"], "the first stage computes the same as before"
    assert "submitted for another version of the pipeline" in told
    assert toy.ran() == ["1/draft", "1/check", "2/draft", "2/check"]
    assert b"new" in toy.views("toy")[Path("round-1/check.parquet")]


def test_rounds_after_the_end_of_the_loop_are_cancelled(toy):
    stop = """echo '{"stage": "check", "stop": "it is good enough"}' >"$out/summary.json" """
    toy.knob("check", stop)
    code, report, told = toy.run()
    assert (code, report["executed"], report["ended_after_round"]) == (0, 2, 1), told
    assert toy.ran() == ["1/draft", "1/check"]


def test_what_the_cluster_refuses_is_said_and_leaves_nothing_behind(toy):
    toy.pipeline.write_text(TOY.replace("{memory: 150M}", "{partition: nowhere}"))
    code, _, told = toy.run()
    assert code == 1
    assert "sbatch refuses round-1/check" in told and "partition" in told
    assert toy.ran() in ([], ["1/draft"])
    toy.cluster.wait(lambda: not toy.cluster.active(), "the first job is cancelled")


def test_without_slurm_the_message_says_so(toy):
    environment = {**os.environ, "PATH": "/nowhere"}
    done = subprocess.run(
        [SIMS, "run", toy.pipeline, "--executor=slurm"], cwd=toy.folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "there is no `squeue` on PATH" in done.stderr


def test_workers_send_what_they_made_to_a_remote_cache(toy):
    cache = str(toy.folder / "cache")
    executed, cached = toy.counts("--remote", cache)
    assert executed > 0 and cached == 0
    # A machine that shares nothing but the cache finds everything.
    elsewhere = ["--store", "elsewhere", "--runs", "elsewhere-runs", "--remote", cache]
    assert toy.counts(*elsewhere, executor="local") == (0, executed)
