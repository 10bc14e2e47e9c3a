# `make help` lists the targets. Nothing has to be installed before any of them but Python 3.11+ and a C++ compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

DATA := data/code-search
RUNS := runs/quickstart-random runs/quickstart-spectral

.PHONY: help install quickstart test test-slow test-slurm bench-selection study-theory study-synthetic keep-study lint type clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

install: $(STAMP)  ## everything into .venv; a second call does nothing

# torch comes first: DeepSpeed's setup imports it, which build isolation would hide.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Coterie needs Python 3.11 or later: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch setuptools wheel ninja numpy
	$(PIP) --no-build-isolation deepspeed
	$(PIP) --no-build-isolation -e '.[cpu,bench,dev]'
	@touch $@

quickstart: install  ## random batches against chosen ones, on real data, in a few minutes
	coterie dataset code-search $(DATA) --limit 24000
	coterie run configs/quickstart.yaml run_dir=runs/quickstart-random selection.strategy=random
	coterie run configs/quickstart.yaml run_dir=runs/quickstart-spectral selection.strategy=spectral
	@echo
	coterie compare $(RUNS)
	@echo
	coterie search runs/quickstart-spectral "open a zip file and list its members" \
	    "compute the mean of each group" "retry a request after a delay"

# Tests that start processes of their own have both cores to themselves: others would be late for each other.
test: install  ## the default tests, ten minutes on 2 cores
	$(BIN)/python -m pytest -m "not slow and not slurm" -n 2 tests/unit
	$(BIN)/python -m pytest -m "not slow and not slurm" --ignore=tests/unit

test-slow: install  ## the tests that take longer, with those of SLURM, in one go: they share a run
	sh tests/slurm/install.sh
	$(BIN)/python -m pytest -m "slow or slurm"

test-slurm: install  ## SLURM's real daemons, installed (as root, on Debian), started and stopped
	sh tests/slurm/install.sh
	$(BIN)/python -m pytest -m slurm

bench-selection: install  ## all strategies on the same graphs; writes benchmarks/results
	$(BIN)/python -m benchmarks.selection

study-theory: install  ## the paper's statements, checked; writes benchmarks/results
	coterie study theory --out benchmarks/results

study-synthetic: install  ## every way to choose batches on free embeddings, ten minutes; writes benchmarks/results
	coterie study synthetic --out benchmarks/results

keep-study: install  ## copy what came out of STUDY=studies/NAME to benchmarks/results
	python -m benchmarks.keep_study "$(STUDY)/results.json"

lint: install  ## style, spelling, and the direction of imports
	ruff check .
	ruff format --check .
	codespell
	lint-imports

type: install  ## static types
	pyright

clean:  ## runs and data, not the environment
	rm -rf runs data
