# Sets up a virtual environment in .venv by itself; nothing but Python 3.11 or 3.12 is needed.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
INSTALLED := $(VENV)/.installed

.PHONY: help install demo test test-slow test-stress check lock
help:
	@echo "make demo       run jobs/quickstart.yaml end to end and print the report (about 10 minutes on 2 cores)"
	@echo "make test       the tests (under 15 minutes on 2 cores);  make test-slow: whole runs and kills (under 25)"
	@echo "make test-stress  larger proofs, which CI leaves out"
	@echo "make check      ruff, mypy, import contracts;  make lock: renew requirements.lock"

install: $(INSTALLED)

$(UV):
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv

# Bytecode is compiled once here: a stage starts several processes, and each would spend 15 seconds compiling its imports.
$(INSTALLED): $(UV) pyproject.toml requirements.lock
	$(UV) pip install --python $(BIN)/python --quiet --compile-bytecode -r requirements.lock
	$(UV) pip install --python $(BIN)/python --quiet --no-deps --editable .
	touch $@

demo: install
	$(BIN)/python -m pipelines.sample data/digits
	$(BIN)/orchestrator run jobs/quickstart.yaml

# Two processes share the tests by the groups that tests/conftest.py makes; `pytest tests/...` runs some in one.
SHARED := --numprocesses 2 --dist loadgroup --no-loadscope-reorder
test: install
	$(BIN)/python -m pytest $(SHARED) -m "not slow and not stress"

test-slow: install
	$(BIN)/python -m pytest $(SHARED) -m "slow and not stress"

test-stress: install
	$(BIN)/python -m pytest -m stress

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: $(UV)
	$(UV) pip compile pyproject.toml --group dev --universal --python-version 3.11 \
		--no-header --no-annotate --no-emit-index-url --output-file requirements.lock
