# Everything runs in .venv, which is made on first use from `python3` (or PYTHON=...) 3.11+.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The releases that were tested; CONSTRAINTS=/dev/null takes the newest that the requirements allow.
CONSTRAINTS := constraints.txt
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS)
WORKDIR ?= runs/quickstart

.PHONY: help quickstart test check lint format parity bench docs plans malformed torture constraints clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Stamps: a target installs again only when the requirements change.
$(VENV)/.installed: requirements.txt pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing requirements.txt into $(VENV) (a few minutes, once)"
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	@echo "installing requirements-dev.txt into $(VENV)"
	@$(PIP) -r requirements-dev.txt
	@$(BIN)/python tests/fixtures/fetch_chromium.py
	@touch $@

$(VENV)/.installed-parity: $(VENV)/.installed-dev requirements-parity.txt
	@echo "installing requirements-parity.txt into $(VENV)"
	@$(PIP) -r requirements-parity.txt
	@touch $@

quickstart: $(VENV)/.installed  ## train on emoji and evaluate: 6 minutes on 2 CPU cores
	$(BIN)/python train.py --config configs/quickstart.py --workdir $(WORKDIR)
	$(BIN)/python eval.py --config configs/eval.py:quickstart --config.model=$(WORKDIR) --config.output=$(WORKDIR)/results

PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.installed-dev  ## the tests, but for what `check` adds: minutes, no network
	$(PYTEST) -m "not parity and not slow and not long and not tpu_compiler"

check: lint  ## before a change is offered: lint and all tests, with whole processes and TPU programs
	$(PYTEST)

lint: $(VENV)/.installed-dev  ## ruff and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## rewrite the files as ruff wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

parity: $(VENV)/.installed-parity  ## compare with transformers, OpenCLIP and timm (installs torch; 16 GB)
	$(BIN)/python -m pytest -m parity -s tests/parity

bench: $(VENV)/.installed  ## time the training step, the loss and inference on this machine
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.loss
	$(BIN)/python -m benchmarks.input
	$(BIN)/python -m benchmarks.encode_image
	$(BIN)/python -m benchmarks.start

docs: $(VENV)/.installed-dev  ## run what takes longest of the commands in README and docs (minutes)
	$(BIN)/python -m pytest -n 0 -m slow tests/test_docs_commands.py

plans: $(VENV)/.installed-dev  ## compile the large recipes for their TPUs: do they fit (half an hour)
	$(BIN)/python -m pytest -m slow tests/test_plan.py tests/losses/test_tpu.py
	$(BIN)/python -m benchmarks.plans

torture: $(VENV)/.installed-dev  ## kill a run a hundred times, at random, and compare (a quarter of an hour)
	$(BIN)/python -m benchmarks.torture
	$(BIN)/python -m pytest -n 0 -m slow tests/training/test_topologies.py

PILLOW := pillow-13.0.0
malformed: $(VENV)/.installed-dev  ## decode the broken pictures of Pillow's own tests (47 MB)
	@mkdir -p build/pillow
	@echo "pillow==13.0.0 --hash=sha256:cdcd1ba258178f7356d74170c9a81ba4eab6a5d55748bc402a5a2a6fe6be3510" > build/pillow/pin.txt
	@$(BIN)/python -m pip download -q --no-deps --no-binary pillow --require-hashes -r build/pillow/pin.txt -d build/pillow
	@tar -xzf build/pillow/$(PILLOW).tar.gz -C build/pillow $(PILLOW)/Tests/images
	SIGLIP_PILLOW_IMAGES=build/pillow/$(PILLOW)/Tests/images $(BIN)/python -m pytest -n 0 -s tests/data/test_malformed.py

constraints: $(VENV)/.installed-dev  ## pin what build/3.11 and build/3.12 have (CONTRIBUTING.md)
	$(BIN)/python -m tests.fixtures.make_constraints build/3.11 build/3.12

clean:  ## remove caches; runs/ and .venv stay
	rm -rf build dist .pytest_cache .ruff_cache .import_linter_cache
