# Each target stands alone: on a machine with only Python >= 3.11 and make, it sets up what it needs and does its job.
SHELL := /bin/sh
.DEFAULT_GOAL := help

# The newest interpreter that is new enough; `make PYTHON=/path/to/python3.12 test` chooses one.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test lint types imports unit test-systemd test-image test-ui single-file lock format bench clean

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.run ## the whole main job on this machine, in under a minute
	@$(BIN)/agentd demo

test: lint types imports unit ## everything a change must pass

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

unit: $(VENV)/.dev
	$(BIN)/pytest --cov --cov-report=term

# These two need root and Debian's debootstrap, systemd-container and buildah; what is missing is named and skipped.
test-systemd: $(VENV)/.dev ## the service under a real systemd, booted in a container
	$(BIN)/pytest -m systemd --no-cov tests/systemd

test-image: $(VENV)/.dev ## the container image and the single file, run where there is nothing else
	$(BIN)/pytest -m 'image or single_file' --no-cov tests/image

test-ui: $(VENV)/.dev ## the pages, looked at with a real Chromium
	$(BIN)/pytest -m ui --no-cov tests/ui

single-file: $(BIN)/python ## dist/agentd, one file for machines without Python
	$(BIN)/python packaging/single_file.py dist/agentd

lock: $(BIN)/python ## choose the versions that image and single file are built with
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5'
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.11 \
	  --custom-compile-command 'make lock' --output-file packaging/requirements.txt pyproject.toml

format: $(VENV)/.dev ## let ruff lay the code out
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: ## what one copy costs, measured with the run-time packages alone
	@$(MAKE) --no-print-directory VENV=.venv-bench .venv-bench/.run
	.venv-bench/bin/python benchmarks/footprint.py

clean: ## forget the environment and the caches
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
