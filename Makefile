# `make help` lists the targets. Variables, on the command line:
#   PYTHON=python3.12            Python interpreter for .venv (3.10 to 3.13)
#   CONSTRAINTS=FILE             pip constraints; default: the tested versions; /dev/null: any versions that setup.cfg allows
#   QUICKSTART=FOLDER            folder for the data and outputs of the quickstart
#   QUICKSTART_OPTIONS="K=V ..." additional options of s2s-train in the quickstart
#   PYTEST_OPTIONS="-x ..."      additional options of pytest

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= .ci/constraints.txt
QUICKSTART ?= outputs/quickstart
QUICKSTART_OPTIONS ?=
PYTEST_OPTIONS ?=
PARALLEL := -n auto --maxprocesses=8 --dist=worksteal
BIN := $(abspath $(VENV))/bin

.PHONY: help quickstart test slow faults bench docs lint

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

quickstart: $(VENV)/.installed-examples ## train and score a model of English letters to phonemes, from raw text, in under ten minutes
	PATH="$(BIN):$$PATH" examples/g2p_cmudict/run.sh "$(QUICKSTART)/data" "$(QUICKSTART)" $(QUICKSTART_OPTIONS)

test: $(VENV)/.installed-test ## run the quick tests, in parallel on all cores (at most 8)
	PATH="$(BIN):$$PATH" python -m pytest $(PARALLEL) $(PYTEST_OPTIONS)

slow: $(VENV)/.installed-test ## run the tests that take minutes
	PATH="$(BIN):$$PATH" python -m pytest -m slow $(PARALLEL) $(PYTEST_OPTIONS)

faults: $(VENV)/.installed-test ## run the full fault injection tests, which take hours
	PATH="$(BIN):$$PATH" FAULTS=full python -m pytest -m slow -o timeout=0 tests/faults $(PARALLEL) $(PYTEST_OPTIONS)

bench: $(VENV)/.installed-test ## measure the speed of s2s and of other tools; nothing is asserted
	PATH="$(BIN):$$PATH" python tests/benchmarks/run.py

docs: $(VENV)/.installed-docs ## build the site of docs/ in build/site; a broken link is an error
	PATH="$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 mkdocs build --strict

lint: $(VENV)/.installed-test ## check the style, and the types of the public contracts
	PATH="$(BIN):$$PATH" ruff check .
	PATH="$(BIN):$$PATH" ruff format --check .
	PATH="$(BIN):$$PATH" mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch is installed first and alone. If its constraint does not fit this interpreter, the error is then about torch only.
$(VENV)/.installed-%: setup.cfg pyproject.toml $(filter-out /dev/null,$(CONSTRAINTS)) | $(VENV)/bin/python
	@echo "installing torch and other packages into $(VENV); the first time, this downloads several hundred megabytes"
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[$*]'
	touch $@
