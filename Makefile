# make train      installs into .venv, then trains and evaluates the quick start
# make test       installs into .venv, then runs the tests but the slow ones, in a process for each core but at most JOBS
# make test-all   the same with the slow ones
# make lint       style and types
# make check      what has to pass before a change is done: lint and test-all
# make proofs     the long tests, whose results go to benchmarks/results/reliability.txt
# make bench      the quick measurements of benchmarks/, which take libraries of their own: requirements-bench.txt
# make docs       the site, site/docs/index.html; warnings are errors
# make pages      what is generated in docs/: pictures, parameters, code map, notebook
# make schema     writes experiments/params.schema.json anew

PYTHON ?= python3
VENV ?= .venv
EXPERIMENT ?= experiments/digits
JOBS ?= 4
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses $(JOBS) --dist worksteal

.PHONY: train test test-all lint check proofs bench docs pages schema

train: $(VENV)/installed
	$(BIN)/python train.py --model_dir $(EXPERIMENT)

test: $(VENV)/installed-dev
	$(PYTEST) -m "not slow and not proof"

test-all: $(VENV)/installed-dev
	$(PYTEST)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test-all

proofs: $(VENV)/installed-dev
	RELIABILITY=benchmarks/results/reliability.txt $(BIN)/python -m pytest -m proof -s

bench: $(VENV)/installed-bench
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.triplet_loss
	$(BIN)/python -m benchmarks.metric_losses
	$(BIN)/python -m benchmarks.metrics
	$(BIN)/python -m benchmarks.doctor
	$(BIN)/python -m benchmarks.feeding

docs: $(VENV)/installed-dev
	$(BIN)/sphinx-build -b html -c docs --fail-on-warning --keep-going . site

pages: $(VENV)/installed-dev
	$(BIN)/python -m docs.tools.figures
	$(BIN)/python -m docs.tools.parameters
	$(BIN)/python -m docs.tools.code_map
	$(BIN)/python -m docs.tools.notebook

schema: $(VENV)/installed
	$(BIN)/python -m model.params > experiments/params.schema.json

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

$(VENV)/installed-bench: requirements-bench.txt $(VENV)/installed
	$(BIN)/python -m pip install --quiet -r requirements-bench.txt
	touch $@
