# Each target first creates .venv with the exact versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: quickstart test test-all lint docs bench clean

# The stories of `make bench`. To use your own: make bench CORPUS=my_stories/
CORPUS ?= sample

# The tests of a file share trained models, so each file runs in one process; tests/conftest.py sets the order.
AT_ONCE := -n auto --dist loadfile --no-loadscope-reorder

quickstart: $(READY)
	$(BIN)/python train_hf.py quickstart --overwrite_output_dir

test: lint
	$(BIN)/python -m pytest $(AT_ONCE) -m "not slow" --durations=10

test-all: lint
	$(BIN)/python -m pytest $(AT_ONCE) --durations=20

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/mkdocs build --strict --quiet

bench: $(READY)
	$(BIN)/python benchmarks/run_all.py --corpus $(CORPUS)

clean:
	rm -rf $(VENV) site *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache

$(READY): setup.cfg constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
