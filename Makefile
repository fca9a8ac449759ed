# One command for each thing to do here; `make help` lists them.
#
# Everything is installed from the lock files, with hashes, into .venv. Stamp files below .venv say
# what has been done, so that a second run starts at once and needs no network.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
OLD    := .venv-openai027
STAMPS := $(VENV)/.stamps
CONFIG ?= config.yaml

PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# --- run ------------------------------------------------------------------------------------------

.PHONY: serve
serve: $(STAMPS)/runtime  ## Set up, then start the gateway (GATEWAY_ARGS='--port 9000' adds arguments)
	$(BIN)/gateway serve --config $(CONFIG) $(GATEWAY_ARGS)

.PHONY: setup
setup: $(STAMPS)/dev $(OLD)/.stamp $(STAMPS)/servers  ## Set up all that `make test` and `make check` need

# --- prove ----------------------------------------------------------------------------------------

.PHONY: test
# Most tests wait for processes and sockets, so three at a time keep two cores busy. A file's tests stay
# together: they share what its fixtures start.
test: setup  ## Set up, then run all tests but the long ones (ARGS='-k name' adds arguments)
	$(BIN)/python -m pytest -n 3 --dist loadfile $(ARGS)

.PHONY: check check-lint check-format check-types check-layers check-generated check-cost
check: check-lint check-format check-types check-layers check-generated check-cost  ## Lint, format, types, layers, generated files, cost of a request (-k: all of them, whatever fails)
check-lint: $(STAMPS)/dev
	$(BIN)/ruff check
check-format: $(STAMPS)/dev
	$(BIN)/ruff format --check
check-types: $(STAMPS)/dev
	$(BIN)/mypy
check-layers: $(STAMPS)/dev
	$(BIN)/lint-imports --no-logo
check-generated: $(STAMPS)/dev
	$(BIN)/python tools/generated --check
# Instructions of a hit, a replay, a relay and a stream; ARGS=--rebase writes new ceilings.
check-cost: $(STAMPS)/dev
	$(BIN)/python -m tests.bench.guard $(ARGS)

.PHONY: fix
fix: $(STAMPS)/dev  ## Put right what a tool can: lint, format, generated files
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/python tools/generated

.PHONY: bench
bench: $(STAMPS)/dev $(STAMPS)/bench  ## Measure (ARGS='hit relay --quick' takes some cases, in seconds; ARGS=--help)
	$(BIN)/python -m tests.bench $(ARGS)

.PHONY: faults soak
faults: setup  ## Break what the gateway stands on: disks, files, processes
soak: setup  ## Load it for minutes
# pytest exits with 5 where it found no test: said here, and no failure.
faults soak:
	@$(BIN)/python -m pytest -m $@ -o faulthandler_timeout=0 $(ARGS); status=$$?; \
	  if [ $$status -eq 5 ]; then echo "make $@: there is no test marked '$@' yet"; \
	  else exit $$status; fi

.PHONY: test-real
test-real: $(STAMPS)/dev  ## Run tests/real/ against a real model: make test-real LLAMA=http://127.0.0.1:PORT
	@test -n "$(LLAMA)" || { \
	  echo "make test-real: say where the model is, LLAMA=http://127.0.0.1:PORT" >&2; exit 2; }
	LLAMA=$(LLAMA) $(BIN)/python -m pytest -m real -o faulthandler_timeout=0 $(ARGS)

# --- keep -----------------------------------------------------------------------------------------

.PHONY: lock
lock: $(STAMPS)/dev  ## Remake the lock files from pyproject.toml (ARGS=--upgrade takes newer versions)
	tools/lock $(ARGS)

.PHONY: clean
clean:  ## Remove the environments and caches, not data/
	rm -rf $(VENV) $(OLD) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache \
	  .hypothesis .import_linter_cache
	find gateway tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help:  ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- set-up ---------------------------------------------------------------------------------------

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: Python 3.11 or newer is needed; name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: Python's venv module is missing; on Debian: apt-get install python3-venv" >&2; \
	  exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@mkdir -p $(STAMPS) && touch $@

# The project itself is installed in place. Its build backend is in the lock, so nothing unlocked is
# downloaded for it.
$(STAMPS)/runtime: $(STAMPS)/venv requirements.lock pyproject.toml
	$(BIN)/python $(PIP_INSTALL) -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-build-isolation --no-deps --no-index --editable .
	@touch $@

$(STAMPS)/dev: $(STAMPS)/runtime requirements-dev.lock
	$(BIN)/python $(PIP_INSTALL) -r requirements-dev.lock
	@touch $@

# OpenAI's first-generation client cannot be installed beside the current one.
$(OLD)/.stamp: tests/requirements-openai027.lock
	$(PYTHON) -m venv --clear $(OLD)
	$(OLD)/bin/python $(PIP_INSTALL) -r $<
	@touch $@

# Programs from Debian that the tests start: installed, or a plain word of what is missing.
$(STAMPS)/servers: tests/debian-packages.txt tools/debian-packages $(STAMPS)/venv
	tools/debian-packages $<
	@touch $@
$(STAMPS)/bench: tests/bench/debian-packages.txt tools/debian-packages $(STAMPS)/venv
	tools/debian-packages $<
	@touch $@
