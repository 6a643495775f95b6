# Two commands for everybody: `make demo` and `make test`. Everything lives in .venv; nothing else is touched.
TORCH  ?= torch==2.13.0
PYTHON ?= python3
BIN    := .venv/bin

.PHONY: demo test test-all lint format docs bench clean

demo: .venv/installed
	$(BIN)/pairloom demo

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: .venv/installed-dev
	$(BIN)/python -m pytest -n 2

lint: .venv/installed-dev
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff format src tests benchmarks examples
	$(BIN)/ruff check --fix src tests benchmarks examples

docs: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	$(BIN)/sphinx-build -q -W -b html docs docs/_build/html

bench: .venv/installed
	$(BIN)/python benchmarks/train_step.py

# torch first: asked for by another package, it would resolve to a build of several GB.
.venv/torch:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	touch $@

.venv/installed: .venv/torch pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv
