# Everything one types here: `make demo`, `make test`, `make lint`, `make format`. Needs python3 (3.10 or newer) only.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
DEMO_RUN := runs/phantom

.PHONY: demo test lint format

# Train on the embedded data set, score the held-out split, ask one question about one held-out image. An interrupted
# training goes on where it stopped, a finished one is not repeated.
demo: $(DEMO_RUN)/recipe.yaml
	@echo "== scoring the held-out test split (with images, and with all images blanked)"
	$(BIN)/flamingo-med evaluate --model $(DEMO_RUN) --split test
	@echo "== asking about one image of the test split"
	$(BIN)/flamingo-med ask --model $(DEMO_RUN) --image docs/phantom.png --question "On which side is the pleural effusion?"

$(DEMO_RUN)/recipe.yaml: | $(INSTALLED)
	@echo "== training on phantom, the embedded data set (three to seven minutes on two cores)"
	$(BIN)/flamingo-med train phantom --output_dir $(DEMO_RUN) --resume_from_checkpoint true

test: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): pyproject.toml constraints-cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "error: $(PYTHON) is older than 3.10; run: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo "== installing into .venv (about a minute, more on a slow line)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -c constraints-cpu.txt -e ".[dev]"
	@touch $@
