# Every target prints the command it runs. `make help` lists the targets.
CARGO ?= cargo
PYTHON ?= python3
SIMS := target/release/sims
VENV := target/venv
MODEL_FILES := config.json generation_config.json judge_template.json tokenizer.json tokenizer_config.json \
  model.safetensors training.json loss.csv loss.svg

.PHONY: report curve sweeps studies help build test test-rust test-python check schemas results tiny-model hard-model toyworld-data

help:
	@grep -E '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 24

# Every pipeline behind the result tables of the README, the default first.
PIPELINES := pipelines/quickstart.yaml pipelines/hard.yaml $(sort $(wildcard pipelines/ablations/*.yaml))

build: ## Build every binary into target/release
	$(CARGO) build --release --workspace --bins

round-%: build ## Run N self-improvement rounds on the built-in model and report
	$(SIMS) run pipelines/quickstart.yaml --rounds $*
	$(SIMS) report pipelines/quickstart.yaml

test: test-rust test-python ## Run every test

test-rust: build
	$(CARGO) test --release --workspace

test-python: build $(VENV)/ready
	$(VENV)/bin/python -m pytest -q tests

$(VENV)/ready: tests/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -r tests/requirements.txt
	touch $@

check: ## Format, lints, documentation, generated files
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet
	$(CARGO) test --release --workspace --test schemas

schemas: ## Regenerate schemas/ from the Rust types
	SIMS_WRITE_SCHEMAS=1 $(CARGO) test --release --workspace --test schemas

results: build ## Run every pipeline of the result tables and print their gold win rates
	for pipeline in $(PIPELINES); do $(SIMS) run $$pipeline || exit 1; done
	$(SIMS) report $(PIPELINES) --metric gold_win_rate
	target/release/toyworld acceptance --model data/tiny
	target/release/toyworld acceptance --model data/hard --world hard
	target/release/toyworld judge-quality --prompts data/toyworld/train.parquet \
	  --judgments runs/quickstart/round-1/judgments.parquet --responses runs/quickstart/round-1/responses.parquet

report: build ## The whole report of the quickstart: target/report.html, and its tables in target/report-tables
	$(SIMS) run pipelines/quickstart.yaml
	$(SIMS) report pipelines/quickstart.yaml --html target/report.html --tables target/report-tables

ABLATIONS := $(sort $(wildcard pipelines/ablations/*.yaml))

ablations: build ## Run every baseline and ablation and hold them against the quickstart, corrected for their number
	for pipeline in pipelines/quickstart.yaml $(ABLATIONS); do $(SIMS) run $$pipeline || exit 1; done
	$(SIMS) compare --round last runs/quickstart $(ABLATIONS:pipelines/ablations/%.yaml=runs/%)

curve: build ## Gain against drift over layers and strengths: a table, and target/curve.svg
	$(SIMS) run pipelines/sweeps/curve.yaml
	$(SIMS) report pipelines/sweeps/curve.yaml --curve --svg target/curve.svg

SWEEPS := $(sort $(wildcard pipelines/sweeps/*.yaml))
STUDIES ?= iteration iteration-hard remedies auto table

sweeps: build ## Run every sweep on the development prompts and print gold win rates (about an hour on two cores)
	for pipeline in $(SWEEPS); do $(SIMS) run $$pipeline || exit 1; done
	$(SIMS) report $(SWEEPS) --metric gold_win_rate

studies: build ## Run STUDIES of pipelines/studies, most with five seeds, and print gold win rates (about two hours)
	for study in $(STUDIES); do $(SIMS) run pipelines/studies/$$study.yaml || exit 1; done
	$(SIMS) report $(STUDIES:%=pipelines/studies/%.yaml) --metric gold_win_rate

# A model of one of the built-in worlds: $(1) its folder in data/, $(2) the world, $(3) tokens to train on.
define train
target/release/toyworld train --world $(2) --out target/$(1) --tokens $(3) --seed 1 --workers 2
cp $(addprefix target/$(1)/,$(MODEL_FILES)) data/$(1)/
endef

tiny-model: build ## Train the built-in model (about half an hour on two cores; resumes where it stopped)
	$(call train,tiny,default,13e6)

hard-model: build ## Train the model of the hard world (about twenty minutes on two cores; resumes)
	$(call train,hard,hard,10e6)

toyworld-data: build ## Write the prompt sets
	target/release/toyworld prompts --world default --out data/toyworld
