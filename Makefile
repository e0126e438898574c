# A GPU user keeps the installed torch:  make demo PY=$(which python)
PYTHON ?= python3
PY ?= .venv/bin/python
TORCH ?= torch==2.13.0

VENV_PY := .venv/bin/python
# One stamp per interpreter; the one of our own environment goes when that goes.
STAMP := $(if $(filter $(VENV_PY),$(PY)),.venv/.installed,build/installed$(subst /,-,$(PY)))
export HF_HUB_OFFLINE ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo test lint bench clean

help:
	@echo "make demo    train, gate and evaluate the tiny preset on this CPU -> runs/demo"
	@echo "make test    run the test suite (no network, no GPU)"
	@echo "make lint    ruff, mypy and the layering check"
	@echo "make bench   run every benchmarks/bench_*.py"
	@echo "make clean   remove caches and build output; keeps .venv and runs/"
	@echo
	@echo "The first of these builds .venv (a few minutes). Variables, with their values now:"
	@echo "  PYTHON=$(PYTHON)   interpreter that .venv is made from (3.11 or newer)"
	@echo "  PY=$(PY)   use another environment as it is: make demo PY=\$$(which python)"
	@echo "  TORCH=$(TORCH)   installed only where 'import torch' fails"

install: $(STAMP)

$(VENV_PY):
	@echo "== making .venv with $(PYTHON)"
	$(PYTHON) -m venv .venv

$(STAMP): pyproject.toml constraints.txt $(filter $(VENV_PY),$(PY))
	@$(PY) -c 'import torch' 2>/dev/null || { echo "== installing $(TORCH)"; $(PY) -m pip install -q "$(TORCH)"; }
	@echo "== installing specact_rl and its pinned dependencies"
	$(PY) -m pip install -q -c constraints.txt -e '.[dev]'
	@mkdir -p $(@D) && touch $@

demo: $(STAMP)
	$(PY) -m specact_rl.cli run --preset tiny --out runs/demo

test: $(STAMP)
	$(PY) -m pytest

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

bench: $(STAMP)
	@set -- benchmarks/bench_*.py; [ -e "$$1" ] || { echo "no benchmarks/bench_*.py here" >&2; exit 1; }; \
	for script in "$$@"; do echo "== $$script"; $(PY) "$$script" || exit 1; done

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
