# make demo: phantoms -> everything -> runs/demo/report.html     make test: all tests
# make docs: the documentation site -> site/index.html
# make test-fast: those not marked slow     make coverage: all, and the lines that they run     make check: style, types, spelling
# make package: the wheel and the source archive, checked, in dist/
# make fuzz: 3,000 mutated files, at most 10 minutes     make test-lowest: reading files by the lowest versions allowed
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

LOWEST := .venv-lowest
# A process for each core, with one thread: threads of processes that share cores wait for one another.
PYTEST := -m pytest --numprocesses auto --dist loadfile

.PHONY: demo docs test coverage test-fast test-lowest fuzz check package bench clean

demo: $(STAMP)
	$(BIN)/mammovae demo --out runs/demo

docs: $(STAMP)
	$(BIN)/python tools/reference_pages.py
	$(BIN)/zensical build --clean --strict

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST)

coverage: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) --cov --cov-report=term:skip-covered

test-fast: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) -m "not slow"

fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz.run_fuzz --count 3000 --seed 0

# What no file is read by (torch, pytest) comes from the first environment, behind the lowest versions.
test-lowest: $(STAMP)
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --requirement constraints-lowest.txt
	ls -d $(CURDIR)/$(VENV)/lib/python3*/site-packages > $$(ls -d $(LOWEST)/lib/python3*/site-packages)/first.pth
	OMP_NUM_THREADS=1 PYTHONPATH=src $(LOWEST)/bin/python $(PYTEST) -m "not slow" tests/imageio tests/data

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/codespell

# Built apart from this environment, by the backend of constraints.txt.
package: $(STAMP)
	rm -rf dist
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python benchmarks/run_benchmarks.py

clean:
	rm -rf runs/demo dist site .pytest_cache .ruff_cache

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)
