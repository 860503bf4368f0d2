.PHONY: setup check test backends every-backbone oracles docs tutorials demo

PYTHON ?= python3
BIN = .venv/bin
# What runs on every backend of Keras.
PORTABLE = $(addprefix tests/test_, layers.py functional.py metrics.py \
	explainers.py attach.py)

setup: .venv/ready

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -e ".[dev]"
	touch $@

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: setup
	$(BIN)/python -m pytest

backends: setup
	$(BIN)/pip install -q -e ".[test,backends]"
	KERAS_BACKEND=jax $(BIN)/python -m pytest $(PORTABLE)
	KERAS_BACKEND=torch $(BIN)/python -m pytest $(PORTABLE)
	$(BIN)/python -m pytest -m across_backends

every-backbone: setup
	$(BIN)/python -m pytest -m every_backbone

oracles: setup
	$(BIN)/pip install -q --no-deps -r benchmarks/requirements.txt
	$(BIN)/python -m pytest -m oracles

docs: setup
	$(BIN)/pip install -q -e ".[docs]"
	$(BIN)/mkdocs build --strict

tutorials: setup
	$(BIN)/pip install -q -e ".[test,tutorials]"
	$(BIN)/python -m pytest --nbval tutorials

demo: setup
	$(BIN)/keras-lficam demo
