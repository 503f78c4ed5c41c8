# Two commands for users, `make quickstart` and `make test`; the rest is what they are made of.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
# The extra that .venv was made with, else the CPU's.
EXTRA ?= $(or $(patsubst $(VENV)/.installed-%,%,$(firstword $(wildcard $(VENV)/.installed-*))),cpu)
# Global options of `leader` for `make quickstart`.
ARGS ?=
# What `make quickstart` may take; by default ten minutes at most.
MINUTES ?=
STAMP := $(VENV)/.installed-$(EXTRA)
OTHER := $(filter-out $(STAMP),$(wildcard $(VENV)/.installed-*))

.PHONY: quickstart test check lint types fast-tests install clean

quickstart: $(STAMP)
	$(BIN)/leader $(ARGS) quickstart $(if $(MINUTES),--minutes $(MINUTES))

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

$(STAMP): pyproject.toml deploy/install.sh deploy/install.py deploy/install_tools.py
	@test -z "$(OTHER)" || { echo "$(VENV) was made with another EXTRA; run make clean first."; exit 2; }
	@sh deploy/install.sh $(VENV) $(EXTRA),dev . --editable
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
