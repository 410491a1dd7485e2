# Everything starts here, and on a machine that has only Python (3.11 or newer) and make.
#
#   make run     install, then proxy real traffic with two workers in front of a demo origin
#   make test    install, then lint, types, import rules and all tests
#   make help    the rest

PYTHON ?= auto
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
# pytest: how many processes, and further arguments (make test ARGS="-k codec -x")
JOBS ?= logical
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run test lint format types imports check pytest coverage peers bench soak load operations fuzz docs profile clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- environments: a stamp file per set of packages, remade when pyproject.toml changes

$(VENV)/.made: scripts/make-venv.sh
	@echo "making $(VENV) ..."
	@sh scripts/make-venv.sh "$(PYTHON)" "$(VENV)"
	@touch $@

$(VENV)/.run: pyproject.toml $(VENV)/.made
	@echo "installing workerproxy and what it needs into $(VENV) ..."
	@$(BIN)/pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.run
	@echo "installing what the tests need into $(VENV) ..."
	@$(BIN)/pip install -q --disable-pip-version-check -e '.[test,dev,parity,load]'
	@touch $@

$(VENV)/.fuzz: pyproject.toml $(VENV)/.test
	@$(BIN)/pip install -q --disable-pip-version-check -e '.[fuzz]'
	@touch $@

$(VENV)/.profile: pyproject.toml $(VENV)/.test
	@$(BIN)/pip install -q --disable-pip-version-check -e '.[profile]'
	@touch $@

# Programs from outside PyPI. Without them the tests that need them are skipped, and say so; CI must have them.
$(VENV)/.peers: scripts/install-peers.sh $(VENV)/.made
	@sh scripts/install-peers.sh && touch $@ || test -z "$(CI)"

peers: $(VENV)/.peers  ## nginx, haproxy, wrk and strace, for tests and load tests

# ---- use

run: $(VENV)/.run  ## install, then two workers in front of a demo origin (WORKERS=n)
	@exec $(BIN)/workerproxy --workers $(WORKERS)

# ---- check

test: $(VENV)/.test $(VENV)/.peers  ## lint, types, import rules, all tests (ARGS="-k name")
	@$(MAKE) --no-print-directory check
	@$(MAKE) --no-print-directory pytest

check: lint types imports  ## everything but the tests

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

imports: $(VENV)/.test
	PYTHONPATH=. $(BIN)/lint-imports --no-logo

pytest: $(VENV)/.test
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

format: $(VENV)/.test  ## let ruff lay out the code and mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

coverage: $(VENV)/.test  ## tests with branch coverage, workers and main process included
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --skip-covered

fuzz: $(VENV)/.fuzz  ## coverage-guided fuzzing of the codecs (SECONDS=60)
	$(BIN)/python -m tests.fuzz $(or $(SECONDS),60)

# ---- measure

bench: $(VENV)/.test $(VENV)/.peers  ## CPU per request beside Envoy, nginx and HAProxy (ARGS="--rounds 5")
	$(BIN)/python -m loadtests.compare $(ARGS)

load: $(VENV)/.test  ## one locust scenario through the proxy (SCENARIO=steady, spike, large, slow, churn, operations)
	$(BIN)/python -m loadtests.run $(or $(SCENARIO),steady) $(ARGS)

operations: $(VENV)/.test  ## kills, reloads, upgrades under locust, what failed (SCENARIO="kill roll", all without)
	$(BIN)/python -m loadtests.operations $(SCENARIO) $(ARGS)

soak: $(VENV)/.test  ## ten minutes of mixed load; fails on growth (MINUTES=10)
	$(BIN)/python -m loadtests.soak --minutes $(or $(MINUTES),10) $(ARGS)

profile: $(VENV)/.profile $(VENV)/.peers  ## where a worker's time goes, by Python function
	$(BIN)/python -m loadtests.profile $(ARGS)

docs: $(VENV)/.test  ## make the generated documents again
	$(BIN)/workerproxy --print-supported > docs/supported.md.new && mv docs/supported.md.new docs/supported.md

clean:  ## remove the environment and every cache
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
