# make demo and make test do all their set-up; they need Python 3.11 to 3.13 and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BROWSER ?= /usr/bin/chromium

.PHONY: help demo smoke test test-slow check format clean

help:
	@echo "make demo       the whole experiment on a real model, about 10 minutes on two cores"
	@echo "make smoke      the same road in under 2 minutes; checks the plumbing only"
	@echo "make test       the tests"
	@echo "make test-slow  the demo with its figures checked, and the report in headless Chromium"
	@echo "make check      format, lint, types"

$(READY): pyproject.toml constraints.txt
	@echo "== creating $(VENV) and installing scramble with the pinned set (2 to 3 GB, 2 to 4 minutes)"
	@$(PYTHON) -c 'import sys; v = sys.version_info; assert (3, 11) <= v < (3, 14), f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}"'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[runs,dev]'
	@touch $(READY)

demo: $(READY)
	@echo "== scramble demo"
	$(BIN)/scramble demo

smoke: $(READY)
	@echo "== scramble demo --smoke"
	$(BIN)/scramble demo --smoke

test: $(READY)
	@echo "== tests"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-slow: $(READY)
	@echo "== the report in Chromium"
	@test -x $(BROWSER) || { echo "no $(BROWSER): install chromium, or set BROWSER"; exit 2; }
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser
	@echo "== the demo and its figures"
	$(BIN)/python -m pytest -m real_model

check: $(READY)
	@echo "== format, lint, types"
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
