# `make` lists the targets. Every target installs what it needs into .venv first, once.

PYTHON ?= python3
RUNS   ?= runs
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# One thread per test worker: two workers with two threads each would fight over two cores.
WORKERS ?= 2
THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install train test lint bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(STAMP)  ## install the package and the developers' tools into .venv

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	touch $@

train: $(STAMP)  ## train a WideNet and its two baselines on handwritten digits, report and compare
	$(BIN)/widenet train digits --output $(RUNS)/digits --overwrite
	$(BIN)/widenet train digits model=vit-digits --output $(RUNS)/digits-vit --overwrite
	$(BIN)/widenet train digits model=vit-moe-digits --output $(RUNS)/digits-vit-moe --overwrite
	$(BIN)/widenet compare $(RUNS)/digits $(RUNS)/digits-vit $(RUNS)/digits-vit-moe

test: $(STAMP)  ## run the tests
	OMP_NUM_THREADS=$(THREADS) MKL_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -n $(WORKERS) tests

lint: $(STAMP)  ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)  ## time a training step of a WideNet and of its dense twin
	$(BIN)/python -m benchmarks.step_time

clean:  ## remove caches and build products; .venv and runs are kept
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .coverage
	find src tests benchmarks -type d -name __pycache__ -prune -exec rm -rf {} +
