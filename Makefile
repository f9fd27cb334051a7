# Every target prints the command it runs. `make help` lists the targets.
CARGO ?= cargo
PYTHON ?= python3
SIMS := target/release/sims
VENV := target/venv

.PHONY: help build test test-rust test-python check schemas results ablations hard-mode tiny-model toyworld-data clean-store

help:
	@grep -E '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 24

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
	$(CARGO) test --release -p sims-artifact --test schemas

schemas: ## Regenerate schemas/ from the Rust types
	SIMS_WRITE_SCHEMAS=1 $(CARGO) test --release -p sims-artifact --test schemas

