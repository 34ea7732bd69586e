# Two commands matter to a newcomer: `make demo` and `make test`. `make check` is the whole gate; CI runs exactly that.
# Needs make and Python 3.11 or later with venv; everything else is installed into .venv from the lock files.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup demo test check format-check lint imports types format chaos fuzz bench bench-long docs wheel sbom audit lock clean

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTHON ?=

help:  ## Show these commands.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.developer-installed  ## Install everything for development into .venv (at once when done already).

demo: $(VENV)/.runtime-installed  ## Watch one job's events being sent, failing, retried, dying and redelivered.
	$(BIN)/dispatcher demo

test: setup  ## Run all tests, on SQLite and on a PostgreSQL that they bring.
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal

check: format-check lint imports types test demo  ## The whole gate: format, lint, import rules, types, tests, demo.

format-check: setup
	$(BIN)/ruff format --check

lint: setup
	$(BIN)/ruff check

imports: setup
	$(BIN)/lint-imports

types: setup
	$(BIN)/mypy

format: setup  ## Format the code and fix what ruff can fix.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

chaos: setup  ## The fault campaign: hours, and it goes on where it was stopped (CHAOS="--minutes 10").
	$(BIN)/python -m tests.chaos $(CHAOS)

fuzz: setup  ## Thousands of requests made from the API's own document (FUZZ_CASES per operation, FUZZ_SEED), and URLs.
	$(BIN)/python -m pytest -s -m campaign tests/fuzz tests/rules/test_urls.py

bench: setup  ## Measure against the yardsticks in benchmarks/.
	$(BIN)/python -m benchmarks

bench-long: setup  ## The measures that take hours; goes on where it was stopped (BENCH="--afresh").
	$(BIN)/python -m benchmarks --long $(BENCH)

docs: setup  ## Renew the generated pages of docs/.
	$(BIN)/dispatcher settings --markdown > docs/settings.md

wheel: setup sbom  ## Build the wheel into dist/, and beside it the list of what it runs with.
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .

sbom: setup  ## Write dist/sbom.cdx.json: every dependency that the lock file names, with hashes (CycloneDX).
	@mkdir -p dist
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --output-format JSON \
	  --output-file dist/sbom.cdx.json requirements-runtime.lock

# Not part of the gate: it asks an index on the network for known vulnerabilities.
audit: setup  ## Look for known vulnerabilities in what the lock files name; needs a network.
	$(BIN)/pip-audit --require-hashes --disable-pip --progress-spinner off $(AUDIT) \
	  --requirement requirements-runtime.lock --requirement requirements-build.lock --requirement requirements.lock

# A lock file names versions and hashes only, never an index, so that it works behind any mirror.
COMPILE = $$(command -v uv || echo $(BIN)/uv) pip compile --quiet --universal --generate-hashes \
	--no-header --no-emit-index-url --no-emit-find-links --python-version 3.11 $(UPGRADE)
lock: $(VENV)/bin/python  ## Renew the lock files (UPGRADE=--upgrade takes newer versions).
	@command -v uv >/dev/null || $(PIP) install uv
	$(COMPILE) pyproject.toml --extra postgres --group dev --output-file requirements.lock
	$(COMPILE) pyproject.toml --extra postgres --constraint requirements.lock --output-file requirements-runtime.lock
	$(COMPILE) --group build --constraint requirements.lock --output-file requirements-build.lock

clean:  ## Remove .venv, built wheels and caches.
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# The first Python that is recent enough: a name on the PATH may be missing, too old, or a shim that fails.
$(VENV)/bin/python:
	@for candidate in $(PYTHON) python3.13 python3.12 python3.11 python3.14 python3; do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "There is no Python 3.11 or later on the PATH. Install one (Debian and Ubuntu: apt-get install python3 python3-venv;" >&2; \
	  echo "macOS: brew install python), or name one: make setup PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	  echo "$$python has no venv module. Install it (Debian and Ubuntu: apt-get install python3-venv), then run this again." >&2; exit 1; \
	fi; \
	echo "Creating $(VENV) with $$("$$python" --version)"; \
	rm -rf $(VENV); "$$python" -m venv $(VENV)

$(VENV)/.runtime-installed: requirements-build.lock requirements-runtime.lock pyproject.toml | $(VENV)/bin/python
	@echo "Installing what dispatcher needs into $(VENV)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	@$(PIP) install --require-hashes -r requirements-build.lock -r requirements-runtime.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.developer-installed: requirements.lock $(VENV)/.runtime-installed
	@echo "Installing what its development and tests need into $(VENV)"
	@$(PIP) install --require-hashes -r requirements.lock
	@touch $@
