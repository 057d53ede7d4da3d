# Everything a person needs first:
#
#   make train     train on generated clicks with one process a GPU, or two on CPU (NPROC=4 for another number);
#                  ARGS="--train.epochs 2" passes options on
#   make test      run the tests in one process more than cores, 4 at most; ARGS="-k auc" passes options on to pytest
#   make test-slow run those that make test leaves out: more jobs under the launcher, more ranks
#   make check     lint, format, types, import order
#   make rehearse  run training over a pretended CUDA, without a GPU: what the host does in a step, and what it waits for
#                  (an environment of its own, 8 GB; ARGS="--matrix all" for every case; docs/rehearsal.md)
#   make install   only prepare .venv; TORCH=2.12 and ACCELERATOR=cpu|cuda choose, PYTHON=/path/to/python too
#
# Each prepares .venv first if something is missing; if nothing is, that takes a fraction of a second.

CONFIG ?= configs/quickstart.yaml
NPROC ?= auto
ARGS ?=
TORCH ?=
ACCELERATOR ?=
BIN := .venv/bin
# A file's tests stay in one process; files are given out in their order, the longest first.
# There is one process more than cores, since some tests wait: for other processes, a scheduler, a host that has fallen silent.
WORKERS = --numprocesses $$(($$(nproc) + 1)) --maxprocesses 4 --dist loadfile --no-loadscope-reorder
INSTALL := PYTHON="$(PYTHON)" scripts/install.sh --torch "$(TORCH)" --accelerator "$(ACCELERATOR)"

# The CUDA wheels of the rehearsal stay out of the environment that everything else uses.
REHEARSE_VENV ?= .venv-cuda

.PHONY: help install install-dev train test test-slow check doctor rehearse-install rehearse clean

help:
	@sed -n '/^#   /s/^#   //p' Makefile

install:
	@$(INSTALL) $(if $(filter install,$(MAKECMDGOALS)),--report)

install-dev:
	@$(INSTALL) --dev

train: install
	@DLRM_MAKE=$(shell echo $$PPID) exec $(BIN)/python launch/local.py -j $(NPROC) --config $(CONFIG) -- $(ARGS)

doctor: install
	@$(BIN)/python dlrm_main.py doctor

test: install-dev
	@$(BIN)/python -m pytest $(WORKERS) -m "not slow" $(ARGS)

test-slow: install-dev
	@$(BIN)/python -m pytest $(WORKERS) -m slow $(ARGS)

rehearse-install:
	@DLRM_VENV=$(REHEARSE_VENV) PYTHON="$(PYTHON)" scripts/install.sh --torch "$(TORCH)" --accelerator cuda

rehearse: rehearse-install
	@$(REHEARSE_VENV)/bin/python -m scripts.rehearse_cuda $(or $(ARGS),--matrix sample)

check: install-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
