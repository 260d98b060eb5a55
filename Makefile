PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-for-depthrank

.PHONY: demo test test-slow check bench setup system-packages clean

demo: $(READY)  ## train on MovieLens-100K, serve it, rank, post an event, rank again (NO_SERVE=1: end by itself)
	$(BIN)/depthrank demo $(if $(NO_SERVE),--no-serve)

test: $(READY) system-packages  ## the test suite
	$(BIN)/pytest -n 2 --dist loadfile --ignore tests/server/test_api_fuzz.py $(PYTEST_ARGS)
	$(BIN)/pytest tests/server/test_api_fuzz.py  # a process of its own: workers run the first of its subtests only

test-slow: $(READY)  ## the zoo of shared models at full size and in double precision (an hour)
	$(BIN)/pytest -m slow $(PYTEST_ARGS)

check: $(READY)  ## lint, format, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## every benchmark; results with machine and versions go to benchmarks/results
	@mkdir -p benchmarks/results
	@set -e; for file in benchmarks/bench_*.py; do \
	  echo "== $$file"; $(BIN)/python $$file --json benchmarks/results/$$(basename $$file .py).json; \
	done

setup: $(READY)  ## the virtual environment, by exact pins

$(READY): requirements.lock requirements-torchrec.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "depthrank needs Python 3.11 or newer; run: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-torchrec.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(READY)

system-packages:
	@sh tests/system-packages.sh

clean:  ## what the demo and the tools made; the virtual environment stays
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
