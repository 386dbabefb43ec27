# Everything a person or CI runs here. `make help` lists it. Needs Python 3.10-3.12 and make; uv is fetched when missing.
#   make test ENV=newest                    the same on newest pyspark, pyarrow and numpy, without petastorm
#   make test ENV=oldest                    on the oldest pyspark, pyarrow, numpy, pandas and others that pyproject.toml
#                                           allows, beside the usual torch; needs Python 3.10 or 3.11
#   make setup EXTRAS=gpu,petastorm,dev     other extras of pyproject.toml (`cpu` and `gpu` exclude each other); they
#                                           stay until EXTRAS names others
#   make setup PYTHON=python3.12            an environment of this Python
#   make test ARGS="-k resume"              further arguments for pytest, the quickstart or the benchmark

ENV ?= default
ARGS ?=
SHELL := /bin/bash
.DEFAULT_GOAL := help

ifeq ($(ENV),default)
  VENV := .venv
  CONSTRAINTS := constraints.txt
  USUAL_EXTRAS := cpu,petastorm,quickstart,docs,dev
else ifeq ($(ENV),newest)
  VENV := .venv-newest
  CONSTRAINTS := constraints-newest.txt
  USUAL_EXTRAS := cpu,quickstart,docs,dev
else ifeq ($(ENV),oldest)
  VENV := .venv-oldest
  CONSTRAINTS := constraints-oldest.txt
  USUAL_EXTRAS := cpu,quickstart,dev
  PYTHONS := python3.11 python3.10
else
  $(error ENV is `$(ENV)`; it must be `default`, `newest` or `oldest`)
endif

PYTHONS ?= python3.11 python3.12 python3.10 python3 python
comma := ,
BIN := $(VENV)/bin
# The stamp's name holds the extras (none has a dash in its name): asking for others installs them, and a make that
# names none keeps those of the environment that is there.
OLD_STAMP := $(firstword $(wildcard $(VENV)/.setup-*))
EXTRAS ?= $(or $(subst -,$(comma),$(patsubst $(VENV)/.setup-%,%,$(OLD_STAMP))),$(USUAL_EXTRAS))
STAMP := $(VENV)/.setup-$(subst $(comma),-,$(EXTRAS))

# Prints a Python that is in range and really runs (shims of version managers may exist and fail). In an activated
# environment that is the one it was made from, since the environment may be about to go.
BASE := getattr(sys, "_base_executable", sys.executable)
IN_RANGE := import sys; (3, 10) <= sys.version_info[:2] < (3, 13) and print($(BASE))
PYTHON ?= $(firstword $(foreach name,$(PYTHONS),\
  $(shell $(name) -c '$(IN_RANGE)' 2>/dev/null)))

# A Python that is named makes the environment anew where it is not the one inside; the standard library tells.
LIBRARY := import os; print(os.path.realpath(os.__file__))
library_of = $(shell $(1) -c '$(LIBRARY)' 2>/dev/null)
ifneq ($(filter command environment,$(origin PYTHON)),)
  OTHER_PYTHON := $(if $(filter-out $(call library_of,$(PYTHON)),$(call library_of,$(BIN)/python)),other-python)
endif

# A uv on the PATH when it runs and is new enough, else one of our own.
OWN_UV := .venv-uv/bin/uv
UV := $(shell uv pip install --help 2>/dev/null | grep -q torch-backend && echo uv || echo $(OWN_UV))

# Wheels in a local folder win (UV_FIND_LINKS, PIP_FIND_LINKS); otherwise a CPU machine asks for the CPU build of
# torch, which is a tenth of the CUDA build's size.
FIND_LINKS := $(or $(UV_FIND_LINKS),$(PIP_FIND_LINKS))
LOCAL_TORCH := $(foreach place,$(FIND_LINKS),$(wildcard $(place)/torch-*.whl))
WANTS_CPU := $(filter cpu,$(subst $(comma), ,$(EXTRAS)))
TORCH_BUILD := $(if $(LOCAL_TORCH),,$(if $(WANTS_CPU),--torch-backend=cpu))
RUN_UV := $(if $(FIND_LINKS),UV_FIND_LINKS="$(FIND_LINKS)" )$(UV)
# Where Python may not keep what it compiles, every process would compile torch anew.
COMPILE_ONCE := $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode )
INSTALL = $(RUN_UV) pip install $(COMPILE_ONCE)--python $(BIN)/python --constraint $(CONSTRAINTS) --editable '.[$(EXTRAS)]'

.PHONY: help setup other-python quickstart test test-slow test-gpu test-all bench clean lock
.PHONY: lint format-check ruff mypy imports spelling dockerfiles docs docs-check format

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "make %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## make .venv/ (nothing to do while pyproject.toml and the constraints are unchanged)

# One environment holds one set of extras: the cpu and gpu builds of fbgemm share their files.
$(STAMP): pyproject.toml $(CONSTRAINTS) $(OTHER_PYTHON) | $(filter $(OWN_UV),$(UV))
	@if [ -z "$(PYTHON)" ] || [ -z "$$($(PYTHON) -c '$(IN_RANGE)')" ]; then \
	  echo "make setup: shardrec needs Python 3.10, 3.11 or 3.12, and none runs here (got: PYTHON=$(PYTHON))." >&2; \
	  echo "  1) install one of them   2) make setup PYTHON=/path/to/python3.11" >&2; exit 2; fi
	@if [ -n "$(OTHER_PYTHON)" ]; then \
	  echo "$(VENV) has another Python than $(PYTHON): making it anew" >&2; rm -rf $(VENV); fi
	@if ls $(VENV)/.setup-* >/dev/null 2>&1 && [ ! -e $@ ]; then rm -rf $(VENV); fi
	@if ! [ -n "$$($(BIN)/python -c '$(IN_RANGE)' 2>/dev/null)" ]; then \
	  $(UV) venv --quiet --clear --python "$$($(PYTHON) -c '$(IN_RANGE)')" $(VENV); fi
	$(INSTALL) $(TORCH_BUILD)$(if $(TORCH_BUILD), || { \
	  echo "make setup: no CPU build of torch to be had from its own index; taking the usual one" >&2; $(INSTALL); })
	@touch $@

# pip refuses to install for the user on some systems (PEP 668) and venv is missing on others: one of the two works.
$(OWN_UV):
	@test -n "$(PYTHON)" || { echo "make setup: no Python 3.10, 3.11 or 3.12 runs here; install one of them" >&2; exit 2; }
	@echo "uv is missing or too old: installing one into .venv-uv"
	@if $(PYTHON) -m venv --clear .venv-uv && .venv-uv/bin/python -m pip install --quiet uv; then :; else \
	  rm -rf .venv-uv && $(PYTHON) -m pip install --quiet --user uv && mkdir -p .venv-uv/bin && \
	  ln -s "$$($(PYTHON) -m site --user-base)/bin/uv" $@; fi || { \
	  echo "make setup: neither venv nor pip works in $(PYTHON)." >&2; \
	  echo "  1) install uv by hand and run make again   2) install your system's python3-venv package" >&2; exit 2; }

quickstart: setup ## MovieLens-100K from raw ratings to recommendations on 2 ranks
	$(BIN)/shardrec quickstart $(ARGS)

# Side by side, whole files at a time since their tests share what is made once; tests/conftest.py orders the files.
# Each worker may hold a Spark session and some ranks, so there are no more of them on a large machine.
PYTEST = $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Spark starts in half the processor time where the classes it loads are in an archive.
SPARK_ARCHIVE := $(VENV)/spark.jsa
$(SPARK_ARCHIVE): $(STAMP) $(wildcard tests/support/spark_jvm.py)
	@echo "keeping what Spark loads for the tests in $@"
	@$(BIN)/python -m tests.support.spark_jvm || echo "no archive: the tests take longer, and are the same" >&2

test: setup $(SPARK_ARCHIVE) ## the tests of what most people use, about a quarter of an hour
	$(PYTEST) $(ARGS)

test-slow: setup $(SPARK_ARCHIVE) ## all others: rare input, many ways of sharding, minutes of training, a Spark cluster
	$(PYTEST) -m '(slow or thorough or cluster) and not gpu' $(ARGS)

test-all: setup $(SPARK_ARCHIVE) ## both of them
	$(PYTEST) -m 'not gpu' $(ARGS)

test-gpu: setup ## the tests that need CUDA (make setup EXTRAS=gpu,petastorm,quickstart,docs,dev)
	$(BIN)/python -m pytest -m gpu $(ARGS)

bench: setup ## measure reading, preparing and training, as in docs/benchmarks.md
	$(BIN)/python -m tests.benchmarks.bench_read $(ARGS)
	$(BIN)/python -m tests.benchmarks.bench_pipeline $(ARGS)
	$(BIN)/python -m tests.benchmarks.bench_synth $(ARGS)

lint: format-check ruff mypy imports spelling dockerfiles docs-check ## every check that is not a test (use -k to see all findings)

format-check: setup
	$(BIN)/ruff format --check .

ruff: setup
	$(BIN)/ruff check .

mypy: setup
	$(BIN)/mypy

imports: setup
	$(BIN)/lint-imports

spelling: setup
	$(BIN)/codespell

# Versions of Debian's packages are those of the image that we begin with.
dockerfiles: setup
	$(BIN)/hadolint --ignore DL3008 docker/Dockerfile.*

format: setup ## let ruff mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup ## generate the reference pages and build the site into site/
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-check: setup
	$(BIN)/python docs/generate.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Versions only, for all Pythons in range; torch's build and its CUDA libraries are left to the machine.
PINS = sed -E -e '/^(nvidia-|cuda-|triton)/d' -e 's/^torch==([0-9.]+).*/torch==\1/' \
  -e 's/^fbgemm-gpu-cpu==(.*)/fbgemm-gpu==\1\n&/' | awk '!seen[$$0]++'
COMPILE = $(RUN_UV) pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate pyproject.toml
# What shardrec itself asks for is oldest; torch, torchrec and fbgemm must fit each other; tools are as new as may be.
TRIPLE = grep -E '^(torch|torchrec|fbgemm-gpu-cpu)==' constraints.txt
OLDEST = $(COMPILE) --resolution lowest-direct --extra cpu --extra faiss --extra mlflow

lock: | $(filter $(OWN_UV),$(UV)) ## move the constraints files to the newest allowed versions
	set -o pipefail; { echo "# Versions of the default environment; made by make lock."; \
	  $(COMPILE) --extra cpu --extra petastorm --extra quickstart --extra docs --extra dev | $(PINS); } > constraints.txt
	set -o pipefail; { echo "# Versions of the newest environment (no petastorm); made by make lock."; \
	  $(COMPILE) --extra cpu --extra quickstart --extra docs --extra dev | $(PINS); } > constraints-newest.txt
	set -o pipefail; folder=$$(mktemp -d); trap 'rm -r "$$folder"' EXIT; $(TRIPLE) > "$$folder/triple" && \
	  $(OLDEST) --constraint "$$folder/triple" > "$$folder/oldest" && \
	  { echo "# Versions of the oldest environment (no petastorm); made by make lock."; \
	  $(COMPILE) --constraint "$$folder/oldest" --extra cpu --extra quickstart --extra dev | $(PINS); } > constraints-oldest.txt

clean: ## remove caches and built files; environments and runs/ stay
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache spark-warehouse
	find . -path './.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
