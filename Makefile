PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export WANDB_MODE ?= offline

.PHONY: install demo test check notebooks clean

install: $(VENV)/.installed

# Upgraded pip: the one that comes with Python may not read the metadata of current wheels.
$(VENV)/.installed: requirements.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

# Trains on the built-in synthetic set and prints initial shapes, learned shapes and the true modes.
demo: install
	$(BIN)/python -m anchor_lightning fit --config synthetic.yaml

# One thread: the tensors are small, and threads that wait for each other on a shared machine cost minutes.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/jupyter-lab: install
	$(BIN)/python -m pip install --quiet --editable ".[notebooks]"

notebooks: $(BIN)/jupyter-lab
	$(BIN)/jupyter lab notebooks

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
