# `make run` and `make test` set up everything they need; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# One line of flags for `broker serve`, or for the bench: make run ARGS="--port 9000", make bench ARGS=--quick
ARGS ?=
CLIENTS := $(patsubst requirements/clients/%.in,%,$(wildcard requirements/clients/*.in))
BENCHES := $(patsubst requirements/bench/%.in,%,$(wildcard requirements/bench/*.in))

.DEFAULT_GOAL := help
.PHONY: help run setup dev test check format bench lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

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

# Three at a time on two cores, a file each: much of a test is waiting.
test: dev ## every test, against a real PostgreSQL
	@$(BIN)/python -m pytest -n 3 --dist loadfile

check: dev ## format, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: dev ## put the code into its format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# What only the bench runs: its plots, and the peers. A peer that needs another Python is left out where there is none.
PYTHONS = $(BIN)/python
$(VENV)/bench/matching-engine/.made: PYTHONS = python3.14 python3.13 python3.12 $(wildcard $(HOME)/.pyenv/versions/3.1[2-9]*/bin/python)
$(VENV)/bench/%/.made: requirements/bench/%.lock | $(VENV)/.dev
	@echo "Setting up $(@D) (once; about ten seconds) ..." >&2
	@for each in $(PYTHONS); do \
	  "$$each" -c '' 2>/dev/null || continue; \
	  "$$each" -m venv --clear --without-pip $(@D) && \
	    $(PIP) --python $(@D)/bin/python install --require-hashes --no-deps --only-binary :all: -r $< && touch $@; exit; \
	done; echo "None of $(PYTHONS) is here: the bench goes without it." >&2

bench: dev $(BENCHES:%=$(VENV)/bench/%/.made) ## the figures of the README, with their references and plots
	@$(BIN)/python -m bench.place_trade $(ARGS)
	@$(BIN)/python -m bench.stream

.PHONY: overload
overload: dev ## three times the peak for five minutes: what is let in, what is refused, and how it ends
	@$(BIN)/python -m bench.overload $(ARGS)

.PHONY: bench-grown
# Fills 25 GB below TMPDIR first; to fill once only: make bench-grown ARGS="--keep FOLDER"
bench-grown: dev ## the broker with a million customers and ten million past trades
	@$(BIN)/python -m bench.grown $(ARGS)

COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

lock: ## resolve requirements/*.lock anew (needs uv: pip install uv)
	$(COMPILE) pyproject.toml --group build -o requirements/run.lock
	$(COMPILE) pyproject.toml --group dev -o requirements/dev.lock
	for each in $(CLIENTS); do \
	  $(COMPILE) requirements/clients/$$each.in $$(ls requirements/clients/$$each.overrides 2>/dev/null | sed 's/^/--override /') -o requirements/clients/$$each.lock || exit 1; \
	done
	for each in audit fuzz; do \
	  $(COMPILE) requirements/tools/$$each.in -o requirements/tools/$$each.lock || exit 1; \
	done
	$(COMPILE) requirements/bench/plots.in -o requirements/bench/plots.lock
	$(COMPILE) requirements/bench/papertrade-india.in -o requirements/bench/papertrade-india.lock
	$(subst 3.11,3.12,$(COMPILE)) requirements/bench/matching-engine.in -o requirements/bench/matching-engine.lock

clean: ## remove the environment and caches (never data)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: chaos
# make chaos MINUTES=60 SEED=7 REPORT=chaos.json: a seed draws the same faults again. As root it fills a small disk as well.
MINUTES ?= 10
chaos: dev ## kill, stop and cut off the whole system under load for MINUTES, then compare clients, books and exchange
	@$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(REPORT),--report $(REPORT))

.PHONY: fuzz fuzz-parsers sbom audit
# make fuzz MINUTES=60, or REQUESTS=10000000, with SEED=7 REPORT=fuzz.json: a seed sends the same again.
fuzz: dev ## hostile HTTP, frames and callbacks against a real broker for MINUTES, or so many REQUESTS
	@$(BIN)/python -m tests.fuzz $(if $(REQUESTS),--requests $(REQUESTS),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) $(if $(REPORT),--report $(REPORT))

$(VENV)/.fuzz: requirements/tools/fuzz.lock $(VENV)/.dev
	@$(PIP) install --require-hashes --only-binary :all: -r $<
	@touch $@

fuzz-parsers: MINUTES = 0.25
fuzz-parsers: dev $(VENV)/.fuzz ## every parser under atheris, for MINUTES each (Linux only)
	@$(BIN)/python -m tests.fuzz.guided --minutes $(MINUTES)

$(VENV)/audit/.made: requirements/tools/audit.lock | $(VENV)/.dev
	@echo "Setting up $(@D) (once; about ten seconds) ..." >&2
	@$(BIN)/python -m venv --clear --without-pip $(@D)
	@$(PIP) --python $(@D)/bin/python install --require-hashes --no-deps --only-binary :all: -r $<
	@touch $@

sbom: dev $(VENV)/audit/.made ## write sbom.json: what a running broker is made of, by requirements/run.lock
	@$(VENV)/audit/bin/cyclonedx-py requirements --output-reproducible --of JSON -o sbom.json --pyproject pyproject.toml requirements/run.lock

audit: dev $(VENV)/audit/.made ## hold every lock against known flaws
	@$(BIN)/python -m tests.supply_chain --pip-audit $(VENV)/audit/bin/pip-audit

.PHONY: sim
# make sim SEED=7 RUNS=100000 REPORT=sim.jsonl; for an hour: make sim ARGS="--minutes 60". RUNS=1 is one seed again.
sim: dev ## simulated worlds with every fault, as many as RUNS, from SEED on: the same seed is the same world
	@$(BIN)/python -m tests.sim --seed $(or $(SEED),0) --runs $(or $(RUNS),1000) $(if $(REPORT),--report $(REPORT)) $(ARGS)
