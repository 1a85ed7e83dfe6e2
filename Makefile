# `make` alone lists the targets. Each one that needs the environment makes it first.

DEVICE ?=
PYTHON ?=
LOCK_ARGS ?=
ARGS ?=
JOBS ?= 2

python := .venv/bin/python
sources := algorithms actors workflows serving tests benchmarks

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Make .venv from the pinned files; DEVICE=cpu or gpu overrides what the machine has, PYTHON names a Python 3.11
	@PYTHON="$(PYTHON)" requirements/install.sh $(DEVICE)

demo: setup ## Align a small language model with a panel of judges, in five to ten minutes on two cores
	@$(python) -m workflows.align --config configs/demo.yaml $(ARGS)

test: setup ## Run the tests in JOBS=2 processes; ARGS="-m 'not slow'" leaves out those with an engine
	@$(python) -m pytest tests --numprocesses $(JOBS) --no-loadscope-reorder $(ARGS)

check: setup ## Check format, lint and types; changes nothing
	$(python) -m ruff format --check $(sources)
	$(python) -m ruff check $(sources)
	$(python) -m mypy

format: setup ## Format, and mend what the linter can mend
	$(python) -m ruff format $(sources)
	$(python) -m ruff check --fix $(sources)

bench: setup ## Run the benchmarks
	@$(python) -m benchmarks $(ARGS)

lock: ## Resolve requirements/*.in again; LOCK_ARGS=--upgrade takes the newest versions that fit
	@requirements/lock.sh $(LOCK_ARGS)

clean: ## Remove caches; .venv and runs/ stay
	@find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
	@rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
