# Everything from a fresh clone. Needs Python 3.11 or later with pip, make and git; sets up the rest in .venv.
#   make demo        a whole production flow, generators to histograms, in about three minutes; all of it in build/demo
#   make demo-first-light   one campaign keeps up with 40 files, in about a minute
#   make test        the fast tests          make test-all   the long ones too
#   make lint        ruff, mypy, imports     make bench      the benchmarks
#   make lock        take newer libraries into requirements.lock
#   make clean       remove all that was made, but for .venv

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest --no-skips
WORKERS ?= 3
LONG_WORKERS ?= 2

.PHONY: setup demo demo-first-light test test-all lint bench lock clean
.DELETE_ON_ERROR:

demo: setup
	$(BIN)/python deploy/demo/demo.py

demo-first-light: setup
	$(BIN)/python deploy/demo/demo.py --flow first-light

test: setup
	$(PYTEST) -n $(WORKERS) -m "not long"

test-all: setup
	$(PYTEST) -n $(LONG_WORKERS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

bench: setup
	$(BIN)/python benchmarks/bench_sam.py
	$(BIN)/python benchmarks/run.py

# The lock names versions alone, so that it serves with any package index.
lock: setup
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/python -m piptools compile --quiet --upgrade --all-extras --strip-extras \
	    --unsafe-package keepupd --unsafe-package pip --unsafe-package setuptools --no-annotate --no-emit-options \
	    --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --output-file requirements.lock pyproject.toml

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

setup: .venv/set-up

# Debian has pip and venv, but not always the pip that venv wants to put in: then the system's own pip helps out.
.venv/set-up: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "keepupd needs Python 3.11 or later: make PYTHON=..."'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv 2>/dev/null || $(PYTHON) -m venv --clear --without-pip .venv
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m pip --python $(BIN)/python install --quiet pip
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $@
