# Two commands matter: `make demo` and `make test`. Both make the environment they need, with uv where it is, else pip.
PYTHON ?= python3
ENV := .venv
BIN := $(ENV)/bin
STAMP := $(ENV)/.installed
ARGS ?=

.PHONY: demo test check audit chaos benchmark benchmark-learning benchmark-aggregation benchmark-robustness \
  benchmark-membership clean help
.DEFAULT_GOAL := help

help:  ## Show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 30

demo: $(STAMP)  ## A whole consortium on this machine, one campaign (pass options on: ARGS='--epsilon 1')
	@$(BIN)/mintmark demo $(ARGS)

test: $(STAMP)  ## Style, types, all tests; needs no internet beyond the package registry (ARGS go to pytest)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 $(ARGS)

check: $(STAMP)  ## Style, types and the tests that start no server
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 -m "not servers" $(ARGS)

audit: $(STAMP)  ## Hold what a bank sends against what its ledger paid, and wrong variants too: var/audit.json
	$(BIN)/python tests/audit.py

chaos: $(STAMP)  ## Kill, cut and fill everything at every step of a round, and check what is left: var/chaos.json
	@$(BIN)/python -m infra.chaos $(ARGS)

benchmark: $(STAMP)  ## Measure rounds, memory, and what privacy costs in time; results go to var/benchmarks/
	$(BIN)/python -m benchmarks.privacy_speed
	$(BIN)/python -m benchmarks.rounds $(ARGS)

benchmark-learning: $(STAMP)  ## Measure accuracy by epsilon, bank by bank (ARGS=--quick in minutes); goes on where it stopped
	$(BIN)/python -m benchmarks.learning $(ARGS)

benchmark-aggregation: $(STAMP)  ## Measure time and memory of the aggregation rules: var/benchmarks/aggregation.json
	$(BIN)/python -m benchmarks.aggregation

benchmark-robustness: $(STAMP)  ## Whole campaigns with liars, rule by rule (ARGS='--minutes 30'); goes on where it stopped
	$(BIN)/python -m benchmarks.robustness $(ARGS)

benchmark-membership: $(STAMP)  ## Attack finished models: was this customer in the data? Results go to var/benchmarks/
	$(BIN)/python -m benchmarks.membership $(ARGS)

clean:  ## Remove the environment and all caches
	rm -rf $(ENV) var .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Mintmark needs Python 3.11 or newer, got $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing into $(ENV): about a minute with uv, three with pip"
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --clear --python $(PYTHON) $(ENV) && \
	  uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'; \
	else \
	  $(PYTHON) -m venv --clear $(ENV) && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'; \
	fi
	@$(BIN)/python -c 'import mintmark.aggregation.kernels, mintmark.models.kernels, mintmark.models.shapley_kernel, mintmark.privacy.kernels'  # compiled once, kept beside the package
	@touch $(STAMP)
