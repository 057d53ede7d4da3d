# Everything a person needs first:
#
#   make train     train on generated clicks with one process a GPU, or two on CPU (NPROC=4 for another number);
#                  ARGS="--train.epochs 2" passes options on
#   make test      run the tests in one process a core, 4 at most; ARGS="-k auc" passes options on to pytest
#   make test-slow run those that make test leaves out: more jobs under the launcher, more ranks
#   make check     lint, format, types, import order
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
WORKERS := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
INSTALL := PYTHON="$(PYTHON)" scripts/install.sh --torch "$(TORCH)" --accelerator "$(ACCELERATOR)"

.PHONY: help install install-dev train test test-slow check doctor clean

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

check: install-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
