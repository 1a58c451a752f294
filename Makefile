# Each target first sets up a virtual environment in .venv; only Python 3.11 or 3.12 is required.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
INSTALLED := $(VENV)/.installed

.PHONY: help install demo test test-slow test-stress check docs docs-serve errors lock
help:
	@echo "make demo       run jobs/quickstart.yaml end to end and print the report (10 to 17 minutes on 2 cores)"
	@echo "make test       the tests (15 to 30 minutes on 2 cores);  make test-slow: whole runs and kills (20 to 40)"
	@echo "make test-stress  larger proofs, and tests with processes on busy cores; not in CI"
	@echo "make check      ruff, mypy, import contracts, prose and the docs site;  make lock: update requirements.lock"
	@echo "make errors     every error message, and which of them no test reaches (about 40 minutes)"
	@echo "make docs       write the generated parts of docs/;  make docs-serve: the docs at 127.0.0.1:8000"

install: $(INSTALLED)

$(UV):
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv

# Compile bytecode once here. A stage starts several processes, and otherwise each of them would
# spend 15 seconds compiling its imports.
$(INSTALLED): $(UV) pyproject.toml requirements.lock
	$(UV) pip install --python $(BIN)/python --quiet --compile-bytecode -r requirements.lock
	$(UV) pip install --python $(BIN)/python --quiet --no-deps --editable .
	touch $@

demo: install
	$(BIN)/python -m pipelines.sample data/digits
	$(BIN)/orchestrator run jobs/quickstart.yaml

# Two processes share the tests, by the groups of tests/conftest.py. `pytest tests/...` uses one.
SHARED := --numprocesses 2 --dist loadgroup --no-loadscope-reorder
test: install
	$(BIN)/python -m pytest $(SHARED) -m "not slow and not stress"

test-slow: install
	$(BIN)/python -m pytest $(SHARED) -m "slow and not stress"

# Tests with processes, signals and waits, to run while two other processes keep the cores busy.
PROCESS_TESTS := tests/orchestrator tests/system tests/pipelines/imagenet/test_loading.py \
	tests/pipelines/imagenet/shard/test_cache.py tests/pipelines/pretrain/train/test_ranks.py \
	tests/pipelines/pretrain/epoch/test_updates.py tests/pipelines/openmmlab/loop/test_distributed.py \
	tests/pipelines/data/test_folder.py tests/pipelines/data/test_node_cache.py tests/benchmarks/test_turns.py
test-stress: install
	$(BIN)/python -m pytest -m stress
	$(BIN)/python -m pytest $(SHARED) -p tests.burners -m "not stress" $(PROCESS_TESTS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.docs.prose --max 2
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/site

# cog runs the Python in the comments of these pages; tests/docs checks that their output is current.
docs: install
	$(BIN)/cog -r --verbosity 1 -I . -p "from tests.docs import reference" docs/reference/*.md docs/decisions/README.md docs/monitoring.md
	$(BIN)/orchestrator schema > docs/job.schema.json
	$(BIN)/python -m orchestrator.monitoring deploy

# Every message that a user can meet, with a mark on those that no test reaches. Slow tests are left
# out: they would take as long again.
errors: install
	mkdir -p build
	-$(BIN)/coverage run -m pytest -q $(SHARED) -m "not slow and not stress"
	$(BIN)/coverage combine --quiet
	$(BIN)/python -m tests.docs.errors --coverage build/coverage

docs-serve: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --livereload

lock: $(UV)
	$(UV) pip compile pyproject.toml --group dev --universal --python-version 3.11 \
		--no-header --no-annotate --no-emit-index-url --output-file requirements.lock
