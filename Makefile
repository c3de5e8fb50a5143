# Everything runs from a fresh clone: each target first makes .venv from the lock if it is missing or stale.

.DEFAULT_GOAL := help
.PHONY: help setup demo up test test-all chaos soak measure hostile check audit fix bench lock

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The first Python on the path that is new enough; name another with `make PYTHON=…`.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-10s %s\n", $$1, $$2 }'

setup: $(STAMP)  ## Make .venv from the hashed lock and install the project into it

# Hashes are checked for everything; the project itself builds with the locked setuptools.
$(STAMP): requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it or run make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Installing into $(VENV): a few gigabytes (torch), about two minutes ..."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --require-hashes --requirement requirements.txt
	$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup  ## Start everything here, analyse photographs and generated images, print verdicts
	$(BIN)/distildire demo

up: setup  ## Start the whole service on this machine; Ctrl-C stops it
	$(BIN)/distildire up

# One thread for each process: the tests start several, and they share the cores.
test test-all chaos hostile: export OMP_NUM_THREADS := 1

test: setup  ## Run the tests, on real servers and processes (minutes)
	$(BIN)/pytest -m "not slow"

test-all: setup  ## Run every test, those marked slow included
	$(BIN)/pytest

SEED ?= 7
MINUTES ?= 5
JOBS ?= 1500

chaos: setup  ## Run the service under faults and check that no job is lost: make chaos SEED=7 MINUTES=5 JOBS=1500
	$(BIN)/python -m tests.chaos --seed $(SEED) --minutes $(MINUTES) --jobs $(JOBS)

soak: setup  ## Have servers and networks fail for long, and see whether the processes grow: make soak MINUTES=30 JOBS=5400
	$(BIN)/python -m tests.chaos --soak --seed $(SEED) --minutes $(MINUTES) --jobs $(JOBS)

WHAT ?= recovery

measure: setup  ## Measure what recovery costs: make measure WHAT=postgres-restart TIMES=20
	$(BIN)/python -m tests.chaos --measure $(WHAT) --seed $(SEED) $(if $(TIMES),--times $(TIMES))

hostile: setup  ## Send broken images of other projects, bombs and more through the service: make hostile PILLOW=11.0.0
	$(BIN)/python -m tests.hostile $(if $(PILLOW),--pillow $(PILLOW))

check: setup  ## Lint, format check, types, import rules, deployment files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/hadolint deploy/docker/api.Dockerfile deploy/docker/worker.Dockerfile

audit: setup  ## Ask for known vulnerabilities of what is locked; says NOT AUDITED where nobody answers
	.ci/audit

fix: setup  ## Repair what the linter and the formatter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## Measure the model and the service on this machine
	$(BIN)/distildire bench

# One lock for people and CI, one for each image; the images' locks may not differ from the first.
COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --python-version 3.11 \
	--custom-compile-command "make lock"

lock: setup  ## Write the locks anew from pyproject.toml
	$(BIN)/python -m pip install -qq uv
	$(COMPILE) --upgrade --extra dev --output-file requirements.txt pyproject.toml
	for image in api worker; do \
		echo setuptools | $(COMPILE) --constraint requirements.txt --extra $$image \
			--output-file deploy/docker/$$image.txt pyproject.toml - || exit 1; \
	done
