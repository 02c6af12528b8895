# Everything a checkout needs, from a machine with Python >= 3.11, make and a C compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: run test lint check dist clean

run: $(INSTALLED)  ## set up, then the main job on embedded real data
	$(BIN)/gam-kg run configs/demo.yaml

test: $(INSTALLED)  ## set up, then the tests in two processes, the many short files last
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/ty check gam_kg pipelines
	$(BIN)/lint-imports

check: lint test  ## what every commit must pass

dist: $(INSTALLED)  ## sdist and wheel
	rm -rf build dist
	$(BIN)/python -m build

$(INSTALLED): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python >= 3.11 is needed, $(PYTHON) is $$($(PYTHON) --version); name another: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist runs
