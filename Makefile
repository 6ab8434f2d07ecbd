# Each target makes what it needs; `make demo` on a fresh machine is enough.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
SEEDS ?= 200
MINUTES ?= 10
POWER_CUTS ?= 20
BENCH_OPTIONS ?=

.PHONY: setup check unit sim mutants chaos system test demo up restore down logs bench clean

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[dev]'
	@touch $@

setup: $(STAMP)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry cluster graph storage

unit: setup
	$(BIN)/python -X dev -m pytest -q -n auto --dist worksteal tests/unit

sim: setup
	$(BIN)/python -m tests.simulation --seeds $(SEEDS)

mutants: setup
	$(BIN)/python -m tests.mutants

chaos: setup
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) --power-cuts $(POWER_CUTS)

system: setup
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests/system

test: check unit
	$(BIN)/python -m tests.simulation --seconds 60
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests/system

demo: setup
	$(BIN)/recollect demo

up:
	@deploy/compose.sh up

restore:
	@deploy/compose.sh restore

down:
	@deploy/compose.sh down

logs:
	@deploy/compose.sh logs

bench: setup
	$(BIN)/python -m bench --data "$(DATA)" $(BENCH_OPTIONS)

clean:
	rm -rf $(VENV) build dist *.egg-info
