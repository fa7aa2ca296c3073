# `make repro` and `make test` each work on a fresh clone: they build the virtual environment first.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help install repro test test-cluster test-processors mutants check bench lock clean

help:           ## list the targets
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

install: $(STAMP) ## virtual environment with the pinned dependencies

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:3]; sys.exit(0 if (3, 11, 5) <= v < (3, 13) else "twice needs Python 3.11.5 or later, or 3.12; this is %d.%d.%d: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

repro: $(STAMP) ## fresh clone to report: every stage of the experiments in the lock
	dvc repro
	@twice results artifacts
	@twice published

test: $(STAMP) ## fresh clone to green: the test suite, on two cores
	pytest --numprocesses 2 --dist loadfile

test-cluster: $(STAMP) ## training through a real SLURM of two nodes on this machine: needs root and Debian's packages
	@if [ "$$(id -u)" -ne 0 ]; then echo "test-cluster: not run: it needs root, to start SLURM's daemons and networks of their own"; exit 0; fi; \
	if ! command -v slurmctld munged nsenter ip >/dev/null; then \
	  apt-get install -y -qq --no-install-recommends slurm-wlm munge iproute2 util-linux >/dev/null \
	    || { echo "test-cluster: not run: apt-get gives no slurm-wlm and munge here"; exit 0; }; \
	fi; \
	pytest -m cluster tests/e2e/cluster --durations 0

test-processors: $(STAMP) ## the same bits on emulated processors: Haswell, Zen, aarch64 (as root, with qemu-user)
	$(BIN)/python tests/model/portable/emulated.py scratch/aarch64

mutants: $(STAMP) ## do the tests notice faults? Each row of tests/mutants in a copy of the tree
	$(BIN)/python tests/mutants/run.py

check: $(STAMP) ## what CI holds the code to, tests aside
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	twice lock --check
	twice schema --check

bench: $(STAMP) ## the benchmarks, one table and one JSON
	pytest benchmarks -p no:cacheprovider -p benchmark --timeout=0 --benchmark-columns=median,iqr,rounds \
	  --benchmark-json=measured/bench.json $(BENCH)

lock: $(STAMP)  ## refresh specs/lock.yaml
	twice lock

clean:          ## remove what the pipeline made, keep the environment and the downloads
	rm -rf artifacts scratch measured
