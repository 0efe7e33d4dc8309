# One command each; `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
J      ?= 2
SEEDS  ?= 1..200

.DEFAULT_GOAL := help
.PHONY: help install run test test-full test-integration check format lint types unit clients sim docs clean

help:  ## This list.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "objstore needs Python 3.11 or newer; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

install: $(STAMP)  ## Make the virtual environment with objstore in it.

run: $(STAMP)  ## Three nodes on loopback, data kept under data/; Ctrl-C stops them.
	$(BIN)/objstore dev --nodes 3 --data data

lint: $(STAMP)  ## Linter and format.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy --strict.
	$(BIN)/mypy

unit: $(STAMP)  ## Unit, contract and short simulator tests.
	$(BIN)/pytest -q --durations 15 -n $(J) tests/unit tests/contract tests/sim -m 'not full'

check: lint types unit  ## What to run before a commit, in about a minute or two.

sim: $(STAMP)  ## Simulate a cluster under faults, 200 seeds; make sim SEEDS=1000..2000, or SEED=7.
	$(BIN)/objstore sim $(if $(SEED),--seed $(SEED),--seeds $(SEEDS) --processes $(J))

clients: $(STAMP)  ## Put the client programs of the tests under .test-tools/.
	PYTHON=$(BIN)/python tests/clients/install.sh

test-integration: clients  ## Real processes and real clients alone.
	$(BIN)/pytest -q --durations 15 tests/cluster tests/clients -m 'not full'

test: check test-integration  ## What every change must pass (CI runs this).

test-full: lint types clients  ## Every suite at full length.
	HYPOTHESIS_PROFILE=explore $(BIN)/pytest -q --durations 15 -n $(J) tests/unit tests/contract tests/sim
	$(BIN)/objstore sim --seeds $(SEEDS) --processes $(J)
	$(BIN)/pytest -q --durations 15 tests/cluster tests/clients

format: $(STAMP)  ## Format the code.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP)  ## Generate docs/reference anew (after a change of metrics, keys, commands, errors).
	$(BIN)/python docs/generate.py

clean:  ## Remove the virtual environment and caches (never data/).
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
