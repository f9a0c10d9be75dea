# Two commands for a fresh machine: `make search` and `make test`. Needs python >= 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2

py := $(VENV)/bin/python
version := $(shell $(PYTHON) -c 'import sys; print("%d%d" % sys.version_info[:2])' 2>/dev/null)
pins := $(wildcard constraints/py$(version).txt)
install := $(py) -m pip install --quiet --disable-pip-version-check $(addprefix --constraint ,$(pins))
pytest := $(py) -m pytest -n $(WORKERS) --dist loadfile

.PHONY: help search test test-fast test-all lint bench clean

help:
	@echo 'make search     search on the packaged pictures, 2 CPU devices'
	@echo 'make test       the test suite, without the slow tests'
	@echo 'make test-fast  the tests that compile next to nothing'
	@echo 'make test-all   every test'
	@echo 'make lint       format, lint, types'
	@echo 'make bench      speed beside other ways to do the same'
	@echo 'make clean      remove what make has made (runs/ stays)'

search: $(VENV)/.run
	$(py) -m darts_dist search configs/sample.toml

test: $(VENV)/.dev
	$(pytest) -m 'not slow'

test-fast: $(VENV)/.dev
	$(pytest) -m 'not (medium or slow or multiprocess)'

test-all: $(VENV)/.dev
	$(pytest)

lint: $(VENV)/.dev
	$(py) -m ruff format --check .
	$(py) -m ruff check .
	$(py) -m pyright --pythonpath $(py)

bench: $(VENV)/.dev
	$(py) tools/bench.py input
	$(py) tools/bench.py kernels
	$(py) tools/bench.py search --quick
	$(py) tools/bench.py rnn

clean:
	rm -rf $(VENV) build dist darts_dist.egg-info .pytest_cache .ruff_cache

# The package is installed editable: an edit needs no second install, only a change of what is
# depended on does. A stamp is touched last, so an install that broke off is done again.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is `$(PYTHON) --version 2>&1`; darts-dist needs Python >= 3.11:" \
	       "make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml $(pins) | $(VENV)/bin/python
	$(install) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml $(pins) | $(VENV)/bin/python
	$(install) --editable '.[dev]'
	@touch $@ $(VENV)/.run
