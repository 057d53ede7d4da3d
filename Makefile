# Everything a person needs first:
#
#   make train     train on generated clicks with two processes; ARGS="--train.epochs 2" passes options on
#   make test      run the tests; ARGS="-k auc" passes options on to pytest
#   make check     lint, format, types, import order
#   make install   only prepare .venv; TORCH=2.12 and ACCELERATOR=cpu|cuda choose, PYTHON=/path/to/python too
#
# Each prepares .venv first if something is missing; if nothing is, that takes a fraction of a second.

CONFIG ?= configs/quickstart.yaml
NPROC ?= 2
ARGS ?=
TORCH ?=
ACCELERATOR ?=
BIN := .venv/bin
INSTALL := PYTHON="$(PYTHON)" scripts/install.sh --torch "$(TORCH)" --accelerator "$(ACCELERATOR)"

.PHONY: help install install-dev train test check doctor clean

help:
	@sed -n '/^#   /s/^#   //p' Makefile

install:
	@$(INSTALL) $(if $(filter install,$(MAKECMDGOALS)),--report)

install-dev:
	@$(INSTALL) --dev

train: install
	@DLRM_MAKE=$(shell echo $$PPID) exec $(BIN)/python launch/local.py --nproc $(NPROC) --config $(CONFIG) -- $(ARGS)

doctor: install
	@$(BIN)/python dlrm_main.py doctor

test: install-dev
	@$(BIN)/python -m pytest $(ARGS)

check: install-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
