# make run    install, then judge an agent's kernels: a table and a run folder
# make test   install, then every check and test
# make check  ruff and mypy only
# make docs   the documentation as a site: build/site/index.html
# Nothing is installed twice: delete .venv to start afresh.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
# Two run the tests: the fixtures' models and the sandboxed players share the cores.
JOBS ?= 2

.PHONY: run test check docs lint types format clean

run: .venv/run.stamp
	$(BIN)/fk-gym eval --agent compile

test: check
	$(BIN)/pytest -n $(JOBS) --dist loadgroup

check: lint types

lint: .venv/dev.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# mypy does not see the folders that setuptools maps into the package: it is shown the package as it will be installed.
types: .venv/dev.stamp
	rm -rf .cache/package
	mkdir -p .cache/package/fastkernels_gym
	ln -s $(CURDIR)/fastkernels_gym/* $(addprefix $(CURDIR)/,tasks prompts envs baselines) .cache/package/fastkernels_gym
	MYPYPATH=.cache/package $(BIN)/mypy -p fastkernels_gym

docs: .venv/dev.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: .venv/dev.stamp
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv .cache build dist *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

.venv/run.stamp: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing into .venv (minutes the first time)"
	$(PIP) -e .
	@touch $@

.venv/dev.stamp: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing into .venv, development tools included (minutes the first time)"
	$(PIP) -e ".[dev]"
	@touch $@ .venv/run.stamp
