PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export WANDB_MODE ?= offline

.PHONY: install demo test test-fast test-min check docs figures notebooks clean

install: $(VENV)/.installed

# Upgraded pip: the one that comes with Python may not read the metadata of current wheels.
$(VENV)/.installed: requirements.txt setup.cfg pyproject.toml
	@echo "Installing into $(VENV): torch and what else the project and its tests need, some GB; this takes minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

# Trains on the built-in synthetic set and prints initial shapes, learned shapes and the true modes.
demo: install
	$(BIN)/python -m anchor_lightning fit --config synthetic.yaml

# Two workers with one thread each: the tensors are small, and threads that wait for each other cost minutes.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

test: install
	$(PYTEST)

# Without what trains through the command line or starts processes of its own.
FAST = $(addprefix tests/,anchors data detectors fitting metrics visualization test_imports.py test_structures.py)

test-fast: install
	$(PYTEST) $(FAST)

# The lowest versions that requirements.txt and the test extra allow, and the command line on them. Not part of CI.
test-min:
	$(PYTHON) -m venv --clear $(VENV)-min
	$(VENV)-min/bin/python -m pip install --quiet uv
	$(VENV)-min/bin/uv pip install --python $(VENV)-min/bin/python --resolution lowest-direct --editable ".[test]"
	OMP_NUM_THREADS=1 $(VENV)-min/bin/python -m pytest -q -n 2 --dist worksteal tests/test_cli.py tests/commands

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# The site, in build/site; a broken link or reference is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(BIN)/jupyter-lab: install
	$(BIN)/python -m pip install --quiet --editable ".[notebooks]"

# Makes the pictures of the README, executes the notebooks and stores their figures: make figures DATA=FOLDER
figures: install
	WANDB_MODE=offline $(BIN)/python notebooks/execute.py --data $(DATA)

notebooks: $(BIN)/jupyter-lab
	$(BIN)/jupyter lab notebooks

clean:
	rm -rf $(VENV) $(VENV)-min build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
