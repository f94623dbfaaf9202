# Each target works alone on a machine with only Python >= 3.11 and make: it installs what it needs into $(VENV).
SHELL := /bin/sh
.DEFAULT_GOAL := help

# The first interpreter that is new enough; `make PYTHON=/path/to/python3.12 test` chooses another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
SECONDS ?= 60
# Many tests wait for a process or a timer: more workers than processors keep the processors busy.
WORKERS ?= 4
PARALLEL := --numprocesses=$(WORKERS) --dist=worksteal

.PHONY: help demo test lint types imports unit test-long attack fuzz test-systemd test-image test-ui single-file lock format docs bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.run ## run agentd against simulated peers, in under a minute
	@$(BIN)/agentd demo

test: lint types imports unit ## run what every change must pass, in under 3 minutes on two processors

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

unit: $(VENV)/.dev
	$(BIN)/pytest $(PARALLEL) --cov --cov-report=term

test-long: $(VENV)/.dev ## run the long series completely: kills, storms, all scenarios
	$(BIN)/pytest -m long $(PARALLEL) --ignore=tests/test_loop_lag.py
	$(BIN)/pytest -m long tests/test_loop_lag.py # alone: it measures the time that one turn of the event loop takes

attack: $(VENV)/.dev ## attack the installed daemon with hostile peers, requests and files (part of test-long)
	$(BIN)/pytest -m long $(PARALLEL) tests/e2e/attack

fuzz: $(VENV)/.dev ## run the property tests with new random seeds for SECONDS (default 60)
	$(BIN)/python tests/fuzz.py $(SECONDS)

# test-systemd and test-image need root and Debian's debootstrap, systemd-container and buildah; test-ui needs chromium.
# Tests whose tool is missing are skipped, and the reason names the tool.
test-systemd: $(VENV)/.dev ## run the service under a real systemd, booted in a container
	$(BIN)/pytest -m systemd tests/systemd

test-image: $(VENV)/.dev ## build the container image and the single file, and run each without Python around it
	$(BIN)/pytest -m 'image or single_file' tests/image

test-ui: $(VENV)/.dev ## open the pages in a real Chromium
	$(BIN)/pytest -m ui tests/ui

single-file: $(BIN)/python ## build dist/agentd, one file for machines without Python
	$(BIN)/python packaging/single_file.py dist/agentd

lock: $(BIN)/python ## update the pinned versions for the image and the single file
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5'
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.11 \
	  --custom-compile-command 'make lock' --output-file packaging/requirements.txt pyproject.toml

format: $(VENV)/.dev ## format the code with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev ## draw the pictures of docs/architecture.md from the code, and update its tables
	PYTHONPATH=docs $(BIN)/python -m drawing

bench: ## measure start, memory and CPU of one daemon, with the run-time packages alone
	@$(MAKE) --no-print-directory VENV=.venv-bench .venv-bench/.run
	.venv-bench/bin/python benchmarks/footprint.py

clean: ## remove the environment and the caches
	rm -rf $(VENV) .venv-bench .coverage* .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist build

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer found; install one or pass PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) lacks venv; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.run
