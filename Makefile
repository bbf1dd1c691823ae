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
export NO_MKDOCS_2_WARNING := 1

.PHONY: help install train test lint bench reference docs docs-check dist dist-check clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

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

test: $(STAMP)  ## run the tests; the slowest are listed
	OMP_NUM_THREADS=$(THREADS) MKL_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -n $(WORKERS) --durations=15 tests

lint: $(STAMP)  ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)  ## time a training step of a WideNet and of its dense twin
	$(BIN)/python -m benchmarks.step_time

reference: $(STAMP)  ## write docs/recipes.md: every key of every recipe
	$(BIN)/python -m widenet.recipes.reference > docs/recipes.md.new
	mv docs/recipes.md.new docs/recipes.md

docs: $(STAMP)  ## build the documents and the API reference into site/
	$(BIN)/mkdocs build --quiet --strict

docs-check: $(STAMP)  ## run every command and snippet of the documents on small data
	$(BIN)/python tools/docs_check.py

dist: $(STAMP)  ## build the source distribution, the wheel from it, and check their metadata
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

dist-check: dist  ## install the wheel into an environment of its own and try it
	$(BIN)/python .ci/check_dist.py

clean:  ## remove caches and build products; .venv and runs are kept
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .coverage
	find src tests benchmarks tools -type d -name __pycache__ -prune -exec rm -rf {} +
