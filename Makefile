# `make help` lists the targets. Variables, on the command line:
#   PYTHON=python3.12            interpreter that .venv is made with (3.10 to 3.13)
#   CONSTRAINTS=FILE             pip constraints, the tested versions by default; /dev/null: whatever setup.cfg allows
#   QUICKSTART=FOLDER            where the quickstart puts its data and its outputs
#   QUICKSTART_OPTIONS="K=V ..." more options of s2s-train in the quickstart
#   PYTEST_OPTIONS="-x ..."      more options of pytest

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= .ci/constraints.txt
QUICKSTART ?= outputs/quickstart
QUICKSTART_OPTIONS ?=
PYTEST_OPTIONS ?=
PARALLEL := -n auto --maxprocesses=8 --dist=worksteal
BIN := $(abspath $(VENV))/bin

.PHONY: help quickstart test slow faults bench lint

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

quickstart: $(VENV)/.installed-examples ## from raw text to error rates: English letters to phonemes, under ten minutes
	PATH="$(BIN):$$PATH" examples/g2p_cmudict/run.sh "$(QUICKSTART)/data" "$(QUICKSTART)" $(QUICKSTART_OPTIONS)

test: $(VENV)/.installed-test ## run the tests, as many at a time as there are cores
	PATH="$(BIN):$$PATH" python -m pytest $(PARALLEL) $(PYTEST_OPTIONS)

slow: $(VENV)/.installed-test ## run the tests that take minutes
	PATH="$(BIN):$$PATH" python -m pytest -m slow $(PARALLEL) $(PYTEST_OPTIONS)

faults: $(VENV)/.installed-test ## run the fault injection of the slow tests in full; hours
	PATH="$(BIN):$$PATH" FAULTS=full python -m pytest -m slow -o timeout=0 tests/faults $(PARALLEL) $(PYTEST_OPTIONS)

bench: $(VENV)/.installed-test ## measure speed against other tools; nothing is asserted
	PATH="$(BIN):$$PATH" python tests/benchmarks/run.py

lint: $(VENV)/.installed-test ## check style and the types of the contracts
	PATH="$(BIN):$$PATH" ruff check .
	PATH="$(BIN):$$PATH" ruff format --check .
	PATH="$(BIN):$$PATH" mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch first and alone: should its constraint not fit this interpreter, the message is about torch and nothing else.
$(VENV)/.installed-%: setup.cfg pyproject.toml $(filter-out /dev/null,$(CONSTRAINTS)) | $(VENV)/bin/python
	@echo "installing torch and the other packages into $(VENV); the first time this downloads some hundred megabytes"
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[$*]'
	touch $@
