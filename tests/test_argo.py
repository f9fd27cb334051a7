"""`sims argo`: the workflow fits Argo's schema, and its tasks do what a run does."""

import os
import re
import subprocess

import pytest
import yaml
from hera.workflows import models

from conftest import ROOT
from toy_stages import TOY, write_toy

SIMS = ROOT / "target" / "release" / "sims"
RESOURCES = f"""
extends: {ROOT}/pipelines/quickstart.yaml
resources: {{cpus: 2, memory: 1G, time: 2h}}
once:
  base-eval: {{resources: {{partition: main}}}}
round:
  sample: {{resources: {{gpus: a100:1, memory: 40G, parts: 4}}}}
"""


def argo(pipeline, *arguments):
    """The workflow, and what was noted."""
    done = subprocess.run([SIMS, "argo", pipeline, "--image=sims:1", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout), done.stderr


@pytest.fixture
def quickstart(tmp_path):
    path = tmp_path / "pipelines" / "q_1.yaml"
    path.parent.mkdir()
    (tmp_path / "data").symlink_to(ROOT / "data")
    path.write_text(RESOURCES)
    return path


def test_the_workflow_fits_the_schema_of_argo(quickstart):
    workflow, notes = argo(quickstart, "--claim=work", "--remote=s3://bucket/sims", "--secret=keys")
    # What the schema does not know is dropped on reading, and would be missing in what is written.
    read = models.Workflow.model_validate(workflow)
    assert read.model_dump(by_alias=True, exclude_none=True, mode="json") == workflow
    assert "base-eval: Argo has nothing for partition" in notes
    assert "sample: Argo has nothing for the kind of `gpus`" in notes

    templates = {template["name"]: template for template in workflow["spec"]["templates"]}
    sample = templates["part-sample"]
    assert sample["container"]["resources"]["limits"] == {"cpu": "2", "memory": "40960Mi", "nvidia.com/gpu": "1"}
    assert sample["activeDeadlineSeconds"] == 7200
    tasks = templates[workflow["spec"]["entrypoint"]]["dag"]["tasks"]
    seen = set()
    for task in tasks:
        # Argo's own rule for names, which its schema does not say.
        assert re.fullmatch(r"[a-zA-Z0-9][-a-zA-Z0-9]*", task["name"])
        assert task["template"] in templates
        assert set(filter(None, task.get("depends", "").split(" && "))) <= seen, "each comes after those it needs"
        seen.add(task["name"])
    assert len(seen) == len(tasks)
    by_name = {task["name"]: task for task in tasks}
    assert by_name["round-1-sample"]["depends"] == "round-1-sample-parts"
    assert by_name["round-1-sample-parts"]["withSequence"] == {"start": "1", "end": "4"}


def test_a_key_that_argo_does_not_know_would_be_seen(quickstart):
    workflow, _ = argo(quickstart, "--claim=work")
    workflow["spec"]["templates"][0]["dag"]["task"] = []
    read = models.Workflow.model_validate(workflow)
    assert read.model_dump(by_alias=True, exclude_none=True, mode="json") != workflow


def test_the_tasks_of_a_workflow_make_what_a_run_makes(tmp_path):
    write_toy(tmp_path, TOY)
    workflow, _ = argo(tmp_path / "toy.yaml", "--claim=work")
    environment = {**os.environ, "PATH": f"{SIMS.parent}{os.pathsep}{os.environ['PATH']}"}
    templates = {template["name"]: template for template in workflow["spec"]["templates"]}
    for task in templates["plan"]["dag"]["tasks"]:
        container = templates[task["template"]]["container"]
        values = {f"{{{{inputs.parameters.{p['name']}}}}}": p["value"] for p in task["arguments"]["parameters"]}
        arguments = [values.get(argument, argument) for argument in container["args"]]
        subprocess.run(
            [*container["command"], *arguments], cwd=container["workingDir"], env=environment, check=True
        )
    assert len((tmp_path / "ran.log").read_text().split()) == 4
    done = subprocess.run([SIMS, "run", tmp_path / "toy.yaml"], capture_output=True, text=True, check=True)
    assert "nothing to do: 4 stages are up to date" in done.stderr


def test_tasks_that_could_not_meet_are_refused(tmp_path):
    write_toy(tmp_path, TOY)
    done = subprocess.run([SIMS, "argo", tmp_path / "toy.yaml", "--image=x"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--claim" in done.stderr and "--remote" in done.stderr
