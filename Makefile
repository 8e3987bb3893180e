# Two commands need nothing but Python 3.11+ and make: `make run` and `make test`.
# What they install is remembered by stamp files in .venv, so that the second time is quick.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PAGE := src/maze/viewer/page/index.html
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: run test test-slow check bench page check-page format clean

run: $(VENV)/run.stamp  ## Play fifty episodes of CartPole.
	$(BIN)/maze-run env=gym_env

test: $(VENV)/test.stamp  ## Run the tests.
	$(BIN)/python -m pytest -n 2

test-slow: $(VENV)/test.stamp  ## Run the slow tests, which `make test` leaves out.
	$(BIN)/python -m pytest -n 2 -m slow

check: $(VENV)/lint.stamp  ## Format, lint, types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/test.stamp  ## Measure the speed budget.
	$(BIN)/python benchmarks/rollout_benchmarks.py

page: viewer/node_modules/.stamp  ## Build the viewer's page, which ships as data of the package.
	cd viewer && npm run build

# Users and tests need no Node. Where it is there, the page has to be what viewer/ builds.
check-page:  ## Build the viewer's page anew and compare.
	@if ! command -v npm >/dev/null; then \
		echo "check-page: not checked, as npm is not installed"; \
	elif ! $(MAKE) --no-print-directory viewer/node_modules/.stamp; then \
		echo "check-page: not checked, as its packages cannot be installed"; \
	else cd viewer && npm run build -- --outDir build && cmp build/index.html $(abspath $(PAGE)); fi

viewer/node_modules/.stamp: viewer/package.json viewer/package-lock.json
	cd viewer && npm ci --no-audit --no-fund
	touch $@

format: $(VENV)/lint.stamp  ## Format and mend what can be mended.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove what these commands made.
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist

$(VENV)/python.stamp:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Maze needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	touch $@

# The core, and what is needed for pictures and tables, so that every first command works.
$(VENV)/run.stamp: $(VENV)/python.stamp pyproject.toml constraints.txt
	$(INSTALL) -e ".[render,pandas]"
	touch $@

$(VENV)/test.stamp: $(VENV)/python.stamp pyproject.toml constraints.txt tests/ecosystem.txt
	$(INSTALL) -e ".[test]"
	-$(INSTALL) --no-deps -r tests/ecosystem.txt
	touch $@ $(VENV)/run.stamp

# Types are checked against the libraries that the tests use.
$(VENV)/lint.stamp: $(VENV)/test.stamp
	$(INSTALL) -e ".[test,lint]"
	touch $@
