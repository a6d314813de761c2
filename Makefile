# What one does with this repository; `make` lists it. Everything runs in .venv, which `make venv` makes.
.DEFAULT_GOAL := help
.PHONY: help venv native demo test fuzz lint fmt bench lock limits secrets clean distclean
.NOTPARALLEL:

JOBS ?= 2
MINUTES ?= 5
ARGS ?=
export IMAGES

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

venv: ## make .venv from the hashed lock file, with kbs-rim installed in it (PYTHON=... chooses the interpreter)
	@tools/venv.sh

native: venv ## compile the native kernel of the RIM chain into the working tree; make venv does so if it can
	@.venv/bin/python hatch_build.py

demo: venv ## simulated realms get their secrets, and the attacks are refused (IMAGES=DIR takes images from a folder, ARGS=--keep)
	@.venv/bin/python tools/demo/run.py $(ARGS)

test: venv ## run every test on SQLite and PostgreSQL, with coverage (JOBS=2, ARGS="tests/evidence -k cbor")
	@tools/postgres.sh
	@.venv/bin/python -m pytest --numprocesses $(JOBS) --dist worksteal $(if $(ARGS),$(ARGS),--cov --cov-report=term)

fuzz: venv ## fuzz every parser, coverage-guided where atheris is (MINUTES=5 for all of them, ARGS="boot_plan corim" for some)
	@.venv/bin/python -m tests.fuzz.run --minutes $(MINUTES) $(ARGS)

lint: venv ## ruff, mypy --strict and the import rules
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

fmt: venv ## put the code into its one form
	@.venv/bin/ruff check --fix --quiet . || true
	@.venv/bin/ruff format .

bench: venv ## run every benchmark; they print and judge nothing
	@set -e; for bench in benchmarks/bench_*.py; do echo "== $$bench"; .venv/bin/python "$$bench"; done

lock: venv ## write the hashed lock files from pyproject.toml (UPGRADE=1 takes the newest versions)
	@tools/lock.sh

limits: venv ## write the [limits] table of config/kbs_rim.toml from kbs_rim/limits.py
	@.venv/bin/python tools/limits_table.py

secrets: venv ## make the secret files that docker-compose.yml mounts; existing ones stay as they are
	@tools/compose_secrets.sh secrets

clean: ## remove what tests, builds and the demo leave behind
	@rm -rf build dist .demo .fuzz htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	@find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean ## ... and .venv
	@rm -rf .venv
