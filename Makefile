# make demo    set everything up and run the main job on embedded data
# make test    set everything up and pass the tests
# make quick   the tests that are not marked slow, in about a minute
# make lint    ruff, mypy and the import contract
# make docs    build the documentation into site/; make docs-serve shows it while it is written
# make dist    the wheel and the source distribution, into dist/
# make bench   what speed is measured by; half an hour on a quiet machine
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: demo test quick lint docs docs-serve dist bench setup clean
.DEFAULT_GOAL := demo

demo: setup
	$(BIN)/robustprune run recipes/quickstart.yaml

test: setup
	$(BIN)/pytest

quick: setup
	$(BIN)/pytest -m 'not slow'

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Quiet about MkDocs 2, which we do not use.
docs docs-serve: export NO_MKDOCS_2_WARNING = 1
docs: setup
	$(BIN)/mkdocs build

docs-serve: setup
	$(BIN)/mkdocs serve

dist: setup
	$(BIN)/robustprune schema > recipes/recipe.schema.json
	$(BIN)/python -m build --no-isolation

bench: setup
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/certify.py
	$(BIN)/python benchmarks/bounds.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/masks.py
	$(BIN)/python benchmarks/operations.py
	$(BIN)/python benchmarks/processes.py
	$(BIN)/python benchmarks/runtime.py
	$(BIN)/python benchmarks/step.py --models cnn_small cnn_large
	$(BIN)/python benchmarks/step.py --models vgg16_bn_cifar resnet18_cifar wrn_28_4 \
		--objectives trades --phases prune --channels-last --label step-large

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "robustprune needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	PIP_CONSTRAINT=constraints.txt $(BIN)/robustprune setup
	touch $(READY)

clean:
	rm -rf $(VENV) build dist site recipes/recipe.schema.json *.egg-info runtime/build runtime/*.egg-info .mypy_cache .ruff_cache .pytest_cache
