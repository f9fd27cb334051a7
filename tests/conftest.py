"""A finished run of the built-in model for the tests in this folder: two small rounds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SMALL = f"""
extends: {ROOT}/pipelines/quickstart.yaml
name: opened-by-polars
rounds: 2
once:
  base-eval: {{with: {{samples: 1, shard-size: 16, shard: 1}}}}
  base-eval-again: {{with: {{samples: 1, shard-size: 16, shard: 1}}}}
  base-unseen: {{with: {{samples: 1, shard-size: 16, shard: 1}}}}
round:
  sample: {{samples: 6, shard-size: 160}}
  contrast: {{strategy: contrast-sampling, min-pairs: 8}}
  fit: {{allow-low-signal: true}}
  steer-eval: {{with: {{draws: 1, shard-size: 16, resamples: 200}}}}
  test: {{with: {{draws: 1, shard-size: 16, resamples: 200}}}}
  test-unseen: {{with: {{draws: 1, shard-size: 16, resamples: 200}}}}
"""




def run_pipeline(workspace, name, text):
    """Runs a pipeline in an empty folder, with the Python of these tests, and returns its views."""
    (workspace / "pipelines").mkdir()
    (workspace / "data").symlink_to(ROOT / "data")
    pipeline = workspace / "pipelines" / f"{name}.yaml"
    pipeline.write_text(text)
    sims = ROOT / "target" / "release" / "sims"
    python = Path(sys.executable).parent
    environment = {
        **os.environ,
        "SIMS_STORE": str(workspace / ".sims"),
        "PATH": f"{python}{os.pathsep}{os.environ['PATH']}",
    }
    subprocess.run([sims, "run", pipeline], check=True, env=environment, cwd=workspace)
    return workspace / "runs" / name


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The folder of the run's views."""
    return run_pipeline(tmp_path_factory.mktemp("workspace"), "opened-by-polars", SMALL)
