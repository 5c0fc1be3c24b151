# make demo: phantoms -> everything -> runs/demo/report.html     make test: all tests
# make fuzz: 3,000 mutated files, at most 10 minutes     make test-lowest: reading files by the lowest versions allowed
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

LOWEST := .venv-lowest

.PHONY: demo test test-lowest fuzz check bench clean

demo: $(STAMP)
	$(BIN)/mammovae demo --out runs/demo

test: $(STAMP)
	$(BIN)/python -m pytest

fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz.run_fuzz --count 3000 --seed 0

# What no file is read by (torch, pytest) comes from the first environment, behind the lowest versions.
test-lowest: $(STAMP)
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --requirement constraints-lowest.txt
	ls -d $(CURDIR)/$(VENV)/lib/python3*/site-packages > $$(ls -d $(LOWEST)/lib/python3*/site-packages)/first.pth
	PYTHONPATH=src $(LOWEST)/bin/python -m pytest tests/imageio tests/data

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python benchmarks/run_benchmarks.py

clean:
	rm -rf runs/demo .pytest_cache .ruff_cache

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)
