# make demo: phantoms -> everything -> runs/demo/report.html     make test: all tests
# make docs: the documentation site -> site/index.html
# make fuzz: 3,000 mutated files, at most 10 minutes     make test-lowest: reading files by the lowest versions allowed
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

LOWEST := .venv-lowest
# A process for each core, with one thread: threads of processes that share cores wait for one another.
PYTEST := -m pytest --numprocesses auto --dist loadfile

.PHONY: demo docs test test-lowest fuzz check bench clean

demo: $(STAMP)
	$(BIN)/mammovae demo --out runs/demo

docs: $(STAMP)
	$(BIN)/python tools/reference_pages.py
	$(BIN)/zensical build --clean --strict

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST)

fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz.run_fuzz --count 3000 --seed 0

# What no file is read by (torch, pytest) comes from the first environment, behind the lowest versions.
test-lowest: $(STAMP)
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --requirement constraints-lowest.txt
	ls -d $(CURDIR)/$(VENV)/lib/python3*/site-packages > $$(ls -d $(LOWEST)/lib/python3*/site-packages)/first.pth
	OMP_NUM_THREADS=1 PYTHONPATH=src $(LOWEST)/bin/python $(PYTEST) tests/imageio tests/data

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python benchmarks/run_benchmarks.py

clean:
	rm -rf runs/demo site .pytest_cache .ruff_cache

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)
