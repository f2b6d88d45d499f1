# The two commands of the README, and what they need. PYTHON is any Python from 3.10 on.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

.PHONY: demo test lint clean

demo: $(VENV)/demo
	$(RUN)/smalti generate "a red circle left of a blue square" -o demo.png --seed 0
	@echo "Open demo.png"

test: $(VENV)/test
	$(RUN)/python -m pytest

lint: $(VENV)/test
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

# Each marker file says that its dependencies are installed; a changed pyproject.toml or constraints.txt installs again.
$(VENV)/demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(RUN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/test: $(VENV)/demo
	$(RUN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) demo.png
