PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test test-slow test-faults lint clean
.DEFAULT_GOAL := run

# a small study on embedded data, start to report
run: $(VENV)/installed
	$(BIN)/python -m mlp_lib run --profile quick

test: $(VENV)/installed-test
	$(BIN)/python -m pytest

# simulated studies with known truth, 500 each: some minutes
test-slow: $(VENV)/installed-test
	$(BIN)/python -m pytest -m slow tests/test_simulation.py

# sixty kills at random instants, ten starts in one second: half an hour and more
test-faults: $(VENV)/installed-test
	$(BIN)/python -m pytest -m slow tests/test_faults.py tests/test_truth.py -s

lint: $(VENV)/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# a half-made environment has no pip yet: made again
define install
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e '$(1)'
endef

$(VENV)/installed: pyproject.toml
	$(call install,.)
	touch $@

$(VENV)/installed-test: pyproject.toml
	$(call install,.[test])
	touch $(VENV)/installed $@
