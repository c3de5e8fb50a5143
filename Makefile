# Everything runs from a fresh clone: each target first makes .venv from the lock if it is missing or stale.

.DEFAULT_GOAL := help
.PHONY: help setup demo up test test-all test-pythons test-lowest chaos soak measure hostile mutants check audit fix docs bench lock

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Of the Pythons on the path that can make a virtual environment, the one that the tests run on most: 3.11 runs all of
# them, the next ones some (`make test-pythons`), and for 3.15 not everything that is locked has a wheel. Name another
# with `make PYTHON=…`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null \
	&& echo $$p && break; done)

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'

setup: $(STAMP)  ## Make .venv from the hashed lock and install the project into it

# The lock is whole, so pip resolves nothing: a resolver would look at releases that came out after the lock was written,
# and fail on those that have no hash in it. Nor does pip build anything that is locked: it would take the build tools of
# the day. The project itself builds with the locked setuptools. `pip check` then says whether anything is missing.
$(STAMP): requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 to 3.14 with venv is needed, and none is on the path. Install it" \
		"(Debian: apt install python3-venv) or run make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Installing into $(VENV): a few gigabytes (torch), about two minutes ..."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install -qq --no-deps --only-binary :all: --require-hashes --requirement requirements.txt
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m pip check
	@touch $@

demo: setup  ## Start everything here, analyse photographs and generated images, print verdicts
	$(BIN)/distildire demo

up: setup  ## Start the whole service on this machine; Ctrl-C stops it
	$(BIN)/distildire up

# One thread for each process: the tests start several, and they share the cores.
test test-all chaos hostile: export OMP_NUM_THREADS := 1

# With two processes, each has servers of its own and runs whole files, in their order: the tests of a file share what
# they start. 0: in this process alone, because a few tests measure time and may fail on a machine that is busy.
PROCESSES ?= 0

test: setup  ## Run the tests, on real servers and processes (minutes): make test PROCESSES=2 is faster
	$(BIN)/pytest -m "not slow" --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

test-all: setup  ## Run every test, those marked slow included
	$(BIN)/pytest

test-pythons:  ## Install with each of Python 3.11 to 3.14 that is here, and run the unit tests and the wheel on it
	.ci/test-pythons

test-lowest:  ## Run the unit tests and those on real servers with the lowest releases that pyproject.toml allows
	.ci/test-lowest

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

MODULE ?=

mutants: $(VENV)/mutants/.installed  ## Plant faults, one at a time, and list those no test notices: make mutants MODULE=signing
	$(BIN)/python -m tests.mutants $(MODULE)

# An environment of mutmut's own, of the versions that are locked, which sees what is installed for the project.
$(VENV)/mutants/.installed: $(STAMP) .ci/mutants.txt
	rm -rf $(VENV)/mutants
	$(BIN)/python -m venv $(VENV)/mutants
	$(VENV)/mutants/bin/python -m pip install -qq --no-deps --only-binary :all: --require-hashes --requirement .ci/mutants.txt
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$($(VENV)/mutants/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	@touch $@

check: setup  ## Lint, format check, types, import rules, deployment files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml deploy/docker/seaweedfs.yml
	$(BIN)/hadolint deploy/docker/*.Dockerfile

audit: setup  ## Ask for known vulnerabilities of what is locked; says NOT AUDITED where nobody answers
	.ci/audit

fix: setup docs  ## Repair what the linter and the formatter can, and the documentation's tables
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup  ## Write the documentation's tables of settings, errors, events and commands from the code
	$(BIN)/python -m docs.reference

bench: setup  ## Measure the model and the service on this machine
	$(BIN)/distildire bench

# One lock for people and CI, one for each image; the images' locks may not differ from the first. uv is installed apart:
# .venv holds what is locked and nothing else.
UV := $(VENV)/lock/bin/uv
COMPILE = $(UV) pip compile --quiet --universal --generate-hashes --no-annotate --python-version 3.11 \
	--custom-compile-command "make lock"

lock: setup  ## Write the locks anew from pyproject.toml, and ask whether all has wheels for each Python and machine
	test -x $(UV) || { $(BIN)/python -m venv $(VENV)/lock && $(VENV)/lock/bin/pip install -qq uv; }
	$(COMPILE) --upgrade --extra dev --output-file requirements.txt pyproject.toml
	for image in api worker; do \
		echo setuptools | $(COMPILE) --constraint requirements.txt --extra $$image \
			--output-file deploy/docker/$$image.txt pyproject.toml - || exit 1; \
	done
	echo mutmut | $(COMPILE) --constraint requirements.txt --output-file .ci/mutants.txt -
	for python in 3.11 3.12 3.13 3.14; do for machine in x86_64 aarch64; do \
		$(UV) pip install --quiet --dry-run --target $(VENV)/lock/none --no-deps --no-build \
			--python-version $$python --python-platform $$machine-manylinux_2_28 --requirement requirements.txt \
			|| { echo "not for Python $$python on $$machine: see above" >&2; exit 1; }; \
	done; done
