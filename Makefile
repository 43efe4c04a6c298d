# make train   installs into .venv, then trains and evaluates the quick start
# make test    installs into .venv, then runs the tests
# make lint    style and types
# make check   what has to pass before a change is done: lint and test
# make proofs  the long tests
# make bench   the measurements of benchmarks/
# make schema  writes experiments/params.schema.json anew

PYTHON ?= python3
VENV ?= .venv
EXPERIMENT ?= experiments/digits
BIN := $(VENV)/bin

.PHONY: train test lint check proofs bench schema

train: $(VENV)/installed
	$(BIN)/python train.py --model_dir $(EXPERIMENT)

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

proofs: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m proof -s

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.triplet_loss
	$(BIN)/python -m benchmarks.metrics
	$(BIN)/python -m benchmarks.doctor

schema: $(VENV)/installed
	$(BIN)/python -m model.params > experiments/params.schema.json

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@
