# Every developer command. `make` alone lists them.
# Python packages come from whatever index pip is set up for; the locks pin them by hash.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
# The tests start hundreds of processes: whatever the environment says, each finds its modules compiled.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# Five on two cores: many tests wait for processes, for the disk and for time.
WORKERS ?= 5
PARALLEL := -n $(WORKERS) --dist worksteal
MEASURED := tests/core tests/tokens
# What `check` runs, and `test` not again.
CHECKED := $(filter-out %/test_services.py,$(wildcard tests/architecture/test_*.py))
CODE := $(wildcard src tests bench)
PIP := $(BIN)/python -m pip --disable-pip-version-check

RUN_STAMP := $(VENV)/.run-installed
DEV_STAMP := $(VENV)/.dev-installed
# npm writes this file when it is done.
NODE_STAMP := node_modules/.package-lock.json
# The npm package, which everything else in JavaScript takes as it is published.
PACKAGE := client/dist/index.js
PACKAGE_SOURCES := $(shell find client/src client/package.json client/tsdown.config.ts -type f)
# What the demo serves.
PAGE := src/keyturn/demo/static/index.html
PAGE_SOURCES := $(shell find examples/demo/src examples/demo/*.* -type f)
# The application of examples/nextjs, built by two versions of Next.js for an address that the tests replace by theirs.
NEXT_STAMP := compat/next-15/build/.next/BUILD_ID
NEXT_SOURCES := $(shell find compat/next-15/*.* examples/nextjs -type f \
	-not -path '*/.next/*' -not -name next-env.d.ts -not -name '*.tsbuildinfo')
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header --no-annotate

.PHONY: help
help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: install
install: $(DEV_STAMP) ## Make .venv with everything for development (needs Python >= 3.11)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Keyturn needs Python 3.11 or newer: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# A lock is whole, so pip resolves nothing (pip before 23.3 would look for a newer release of what another package wants
# with an extra, and fail once there is one). The project comes after it, without build isolation, so nothing comes in
# that no hash covers.
$(RUN_STAMP): requirements/run.txt pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --no-deps --require-hashes -r requirements/run.txt
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(DEV_STAMP): requirements/dev.txt pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --no-deps --require-hashes -r requirements/dev.txt
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $(RUN_STAMP) $@

.PHONY: demo
demo: $(RUN_STAMP) $(PAGE) ## Install what the server needs and run it with a web page to try it
	$(BIN)/keyturn demo

$(NODE_STAMP): package-lock.json package.json
	@command -v npm >/dev/null && node -e '[major, minor] = process.versions.node.split("."); process.exit(major * 100 + +minor < 2019 ? 1 : 0)' \
		|| { echo "npm with Node 20.19 or newer is missing: building the page needs it, running it does not" >&2; exit 1; }
	npm ci
	@touch $@

$(PACKAGE): $(NODE_STAMP) $(PACKAGE_SOURCES)
	npm run --silent build --workspace keyturn
	@touch $@

$(PAGE): $(PACKAGE) $(PAGE_SOURCES)
	npm run --silent build --workspace examples/demo
	@touch $@

.PHONY: next
next: $(NEXT_STAMP) ## Build the Next.js example for the browser tests

$(NEXT_STAMP): $(PACKAGE) $(NEXT_SOURCES)
	export NEXT_TELEMETRY_DISABLED=1 KEYTURN_URL=http://keyturn.invalid:1 && \
		npm run --silent build --workspace examples/nextjs --workspace compat/next-15
	@touch $@

.PHONY: test
test: ## Everything that has to pass; installs what it needs
	@# Side by side: what waits for the network, and then the checks of Python and those of the fronts, a core each.
	$(MAKE) --no-print-directory -j2 services $(NODE_STAMP)
	$(MAKE) --no-print-directory -j2 --output-sync=target compiled fronts
	@# Every branch of core and tokens has to be taken by these. Measuring slows tests down by a sixth, so the others go without.
	rm -f .coverage .coverage.*
	$(PYTEST) $(PARALLEL) --cov --cov-report= $(MEASURED)
	@$(BIN)/coverage report --precision=2 --fail-under=100 \
		|| { echo "core and tokens need every branch tested; see the lines above" >&2; exit 1; }
	$(PYTEST) $(PARALLEL) $(MEASURED:%=--ignore=%) $(CHECKED:%=--ignore=%) --ignore=tests/browser tests
	@# In a process of their own: the browser's driver occupies the event loop of its thread.
	$(PYTEST) $(PARALLEL) tests/browser

# Once, while the fronts still build, and not four times when the workers of the tests begin. What does not load they say.
.PHONY: compiled
compiled: check
	@$(PYTEST) --collect-only -q tests >/dev/null || true

# One after the other: Python has the other core.
.PHONY: fronts
fronts:
	$(MAKE) --no-print-directory -j1 web $(PAGE) next

.PHONY: web
web: $(PACKAGE) ## The browser client: lint, types, drift from the contract, tests, budgets, the packed artefact
	npm run --silent check --workspaces --if-present
	npm run --silent test
	npm run --silent --workspace keyturn size
	npm run --silent --workspace keyturn pack-check

.PHONY: check
check: $(DEV_STAMP) ## Lint, types, import contracts, budgets: no service needed
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/python -m keyturn.contract --check spec
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/mypy $(CODE)
	$(BIN)/basedpyright
	$(PYTEST) -q $(CHECKED)

.PHONY: unit
unit: $(DEV_STAMP) $(PAGE) ## The quick tests: no service, no proofs, no chaos
	$(PYTEST) -q $(PARALLEL) -m "not services" --ignore=tests/proofs --ignore=tests/chaos tests

.PHONY: contract
contract: $(DEV_STAMP) ## Write spec/errors.json and spec/openapi.json anew from the code
	$(BIN)/python -m keyturn.contract spec

# The long versions may be silent for hours, so the watch on hanging tests is off.
.PHONY: prove
prove: firefox webkit $(PACKAGE) ## The proofs at full length: model, simulation, the soak of eight tabs; the client in Chromium with windows, Firefox and WebKit; a standalone Next.js
	$(PYTEST) tests/proofs --prove -o faulthandler_timeout=0
	$(PYTEST) tests/browser/client --browser-family chromium --prove -o faulthandler_timeout=0
	$(PYTEST) tests/browser/next/test_standalone.py --prove

# In an environment of its own: the tools of the tests as ever, and over them what the package itself asks for.
LOWEST := build/lowest/bin/python
.PHONY: lowest
lowest: services $(PAGE) ## The Python tests with the lowest versions that pyproject.toml allows
	$(PYTHON) -m venv --clear build/lowest
	for lock in dev lowest; do \
		$(LOWEST) -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes -r requirements/$$lock.txt; \
	done
	$(LOWEST) -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation -e .
	$(LOWEST) -m pytest $(PARALLEL) --ignore=tests/architecture --ignore=tests/bench --ignore=tests/browser --ignore=tests/chaos \
		--ignore=tests/proofs tests

.PHONY: firefox
firefox: PROGRAMS := firefox-esr
firefox: services $(NODE_STAMP) ## The browser client's tests in Firefox
	$(PYTEST) tests/browser/client --browser-family firefox

.PHONY: webkit
webkit: PROGRAMS := webkit2gtk-driver xvfb faketime
webkit: services $(NODE_STAMP) ## The browser client's tests in WebKit, the engine of Safari
	$(PYTEST) tests/browser/client --browser-family webkit

.PHONY: chaos
chaos: PROGRAMS := pgbouncer nginx haproxy caddy apache2 faketime
chaos: services ## Kill, restart and cut off servers and databases, at full length
	$(PYTEST) tests/chaos --chaos -o faulthandler_timeout=0

.PHONY: bench
bench: PROGRAMS := valgrind
bench: services $(NODE_STAMP) ## The benchmarks; every figure is a ratio within one run
	$(BIN)/python -m bench

# The tests start their own servers and only need the programs. A package may come with a service
# that starts by itself; a policy says no while we install, so nothing of ours runs beside it.
# PROGRAMS are what a target needs beside those of all tests, by the names of their packages.
# The shell of Chromium saves the tests time and nothing else, so they go without where there is none to have.
BROWSER_SHELL := chromium-headless-shell
.PHONY: services
services: $(DEV_STAMP)
	@missing=; $(BIN)/python -m tests.services $(PROGRAMS) >/dev/null 2>&1 || missing=1; \
	if [ -z "$$missing" ] && command -v $(BROWSER_SHELL) >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		policy=/usr/sbin/policy-rc.d; ours=; \
		if [ ! -e $$policy ]; then printf '#!/bin/sh\nexit 101\n' >$$policy; chmod +x $$policy; ours=1; fi; \
		trap '[ -z "$$ours" ] || rm -f $$policy' EXIT; \
		export DEBIAN_FRONTEND=noninteractive; install="apt-get install -y -qq --no-install-recommends"; \
		apt-get update -qq || [ -z "$$missing" ]; \
		[ -z "$$missing" ] || $$install postgresql redis-server chromium curl $(PROGRAMS) >/dev/null; \
		$$install $(BROWSER_SHELL) >/dev/null 2>&1 || echo "no $(BROWSER_SHELL) here: the browser tests take longer"; \
	fi; \
	$(BIN)/python -m tests.services $(PROGRAMS)

.PHONY: dist
dist: $(DEV_STAMP) $(PAGE) ## Build what is published into dist/: wheel with the page, sdist, npm package
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist
	npm run --silent build --workspace keyturn
	npm pack --silent --workspace keyturn --pack-destination dist

.PHONY: lock
lock: | $(BIN)/python ## Write requirements/*.txt anew, with the newest versions that fit
	@test -x $(BIN)/uv || $(PIP) install --quiet uv
	rm -f requirements/*.txt
	$(COMPILE) --extra server --extra fastapi --extra redis pyproject.toml requirements/run.in -o requirements/run.txt
	$(COMPILE) --all-extras pyproject.toml requirements/run.in requirements/dev.in -c requirements/run.txt \
		--override requirements/overrides.in -o requirements/dev.txt
	$(COMPILE) --all-extras --resolution lowest-direct pyproject.toml -o requirements/lowest.txt

.PHONY: clean
clean: ## Remove what the commands made, .venv included
	rm -rf node_modules client/dist src/keyturn/demo/static examples/nextjs/.next compat/next-15/build
	rm -rf $(VENV) build dist .coverage .coverage.* htmlcov .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
