"""A finished run of the built-in model for the tests in this folder: two small rounds."""

import os
import subprocess
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


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The folder of the run's views."""
    workspace = tmp_path_factory.mktemp("workspace")
    (workspace / "pipelines").mkdir()
    (workspace / "data").symlink_to(ROOT / "data")
    pipeline = workspace / "pipelines" / "opened-by-polars.yaml"
    pipeline.write_text(SMALL)
    sims = ROOT / "target" / "release" / "sims"
    environment = {**os.environ, "SIMS_STORE": str(workspace / ".sims")}
    subprocess.run([sims, "run", pipeline], check=True, env=environment, cwd=workspace)
    return workspace / "runs" / "opened-by-polars"
