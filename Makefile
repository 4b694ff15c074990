# `make run` and `make test` set up everything they need; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# One line of flags for `broker serve`: make run ARGS="--port 9000"
ARGS ?=
CLIENTS := $(patsubst requirements/clients/%.in,%,$(wildcard requirements/clients/*.in))

.DEFAULT_GOAL := help
.PHONY: help run setup dev test check format bench lock clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

run: setup ## set everything up and run the whole system on 127.0.0.1:8080
	@exec $(BIN)/broker serve --demo $(ARGS)

setup: $(VENV)/.run ## the environment alone: leaves .venv/bin/broker

dev: $(VENV)/.dev $(CLIENTS:%=$(VENV)/clients/%/.made) ## the environments with the tools for tests and checks

# The stamps hold what was installed: a changed lock installs again, an unchanged one costs nothing.
$(VENV)/.run: requirements/run.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "stockbroker needs Python 3.11 or newer; this is %s. Name another: make run PYTHON=python3.12" % sys.version.split()[0])'
	@echo "Setting up $(VENV) (once; about half a minute) ..." >&2
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { echo 'Python has no working venv; on Debian: apt-get install python3-venv' >&2; exit 1; }
	@$(PIP) install --require-hashes --only-binary :all: -r requirements/run.lock
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.lock $(VENV)/.run
	@$(PIP) install --require-hashes --only-binary :all: -r requirements/dev.lock
	@touch $@

# Clients of Alpaca's API that the tests run: what they need contradicts what others need, so each has its own environment.
$(VENV)/clients/%/.made: requirements/clients/%.lock | $(VENV)/.dev
	@echo "Setting up $(@D) (once; about ten seconds) ..." >&2
	@$(BIN)/python -m venv --clear --without-pip $(@D)
	@$(PIP) --python $(@D)/bin/python install --require-hashes --no-deps --only-binary :all: -r $<
	@touch $@

# Two at a time, a file each: much of a test is waiting.
test: dev ## every test, against a real PostgreSQL
	@$(BIN)/python -m pytest -n 2 --dist loadfile

check: dev ## format, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: dev ## put the code into its format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: dev ## the figures of the README, with their references
	@$(BIN)/python -m bench.place_trade
	@$(BIN)/python -m bench.stream

COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

lock: ## resolve requirements/*.lock anew (needs uv: pip install uv)
	$(COMPILE) pyproject.toml --group build -o requirements/run.lock
	$(COMPILE) pyproject.toml --group dev -o requirements/dev.lock
	for each in $(CLIENTS); do \
	  $(COMPILE) requirements/clients/$$each.in $$(ls requirements/clients/$$each.overrides 2>/dev/null | sed 's/^/--override /') -o requirements/clients/$$each.lock || exit 1; \
	done

clean: ## remove the environment and caches (never data)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
