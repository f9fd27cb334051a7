"""The example stage in a shell: sampling that cools from round to round."""

import subprocess

from conftest import ROOT, run_pipeline

PIPELINE = f"""
name: cooling
seed: 17
rounds: 2
model: {ROOT}/data/tiny
prompts: {{train: {ROOT}/data/toyworld/train.parquet}}
round:
  cool: {{uses: {ROOT}/pipelines/examples/cooling_sample.sh, with: {{samples: 2, shard-size: 8, max-new-tokens: 8}}}}
  plain: {{uses: sample, with: {{samples: 2, shard-size: 8, max-new-tokens: 8, temperature: 0.9}}}}
  cooler: {{uses: sample, with: {{samples: 2, shard-size: 8, max-new-tokens: 8, temperature: 0.72}}}}
"""


def test_a_shell_script_samples_cooler_in_the_second_round(tmp_path):
    folder = run_pipeline(tmp_path, "cooling", PIPELINE)

    def responses(number, stage):
        found = folder / f"round-{number}"
        inner = found / stage / "responses.parquet"
        return (inner if inner.exists() else found / "responses.parquet").read_bytes()

    assert responses(1, "cool") == responses(1, "plain") != responses(1, "cooler")
    assert responses(2, "cool") == responses(2, "cooler") != responses(2, "plain")


def test_the_pipeline_with_it_is_planned():
    sims = ROOT / "target" / "release" / "sims"
    pipeline = "pipelines/examples/cooling-sample.yaml"
    done = subprocess.run(
        [sims, "plan", pipeline, "--commands"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("pipelines/examples/cooling_sample.sh ")]
    assert len(lines) == 3 and all("--temperature 0.9" in line for line in lines)
    assert "--round 3" in lines[2]
