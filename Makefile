PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run lab site pool verify test test-slow test-faults test-floors browser-test parameters constraints lint hooks clean newest
.DEFAULT_GOAL := run

# a small study on embedded data, start to report
run: $(VENV)/installed
	$(BIN)/python -m mlp_lib run --profile quick

# JupyterLab on this machine alone, with this environment's kernel even where the user has another of its name
lab: $(VENV)/installed
	JUPYTER_PATH= JUPYTER_PREFER_ENV_PATH=1 $(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir=. \
		--LabApp.news_url=None --LabApp.default_url=/lab/tree/notebooks/00_explore.ipynb $(if $(filter 0,$(shell id -u)),--allow-root)

# README, docs and the kept reports as linked static pages: build/site/index.html, from a folder or on any host
site: $(VENV)/installed-test
	rm -rf build/site_source && mkdir -p build/site_source
	git archive HEAD README.md CONTRIBUTING.md LICENSE docs executed | tar -x -C build/site_source
	$(BIN)/mkdocs build --strict

# executed/pool, the trainings of all kept studies as one data set (docs/data.md)
pool: $(VENV)/installed-test
	$(BIN)/python tests/write_pool.py

# trainings of the kept studies again, drawn at random, against what is recorded of them: long
KEPT := $(patsubst %/search/search_meta.yaml,%,$(wildcard $(addsuffix /search/search_meta.yaml, \
	executed/example executed/reference/* executed/reference/*/*)))
verify: $(VENV)/installed
	failed=; for run in $(KEPT); do \
		echo $$run; $(BIN)/python -m mlp_lib verify $$run --sample $(or $(SAMPLE),20) || failed="$$failed $$run"; done; \
	test -z "$$failed" || { echo "not all agree:$$failed" >&2; exit 1; }

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# simulated studies with known truth, and twenty small ones on digits that should agree: long
test-slow: $(VENV)/installed-test
	$(BIN)/python -m pytest -m slow tests/test_simulation.py tests/test_searches_simulation.py tests/test_widths.py tests/test_agreement.py

# sixty kills at random instants, ten starts in one second, files lost at random, bad surroundings: an hour and more
test-faults: $(VENV)/installed-test
	$(BIN)/python -m pytest -m slow tests/test_faults.py tests/test_truth.py tests/test_losses.py tests/test_surroundings.py -s

# the tests with the oldest versions that pyproject.toml allows, in an environment of its own: with PYTHON=python3.10
test-floors: $(VENV)/installed
	$(BIN)/python -m pip install uv
	$(BIN)/uv venv --clear --python $(PYTHON) build/floors
	$(BIN)/uv pip install --python build/floors --resolution lowest-direct -e '.[test]'
	build/floors/bin/python -m pytest -m 'not slow and not browser'

# JupyterLab in a headless browser; a part of the tests too where there is a chromium
browser-test: $(VENV)/installed-test
	command -v chromium || { apt-get update && apt-get install -y chromium; } || \
		{ echo 'the browser tests need chromium: install it, or run this as root on Debian' >&2; exit 1; }
	$(BIN)/python -m pytest -m browser

# params/, the notebooks' parameters cells and the table in docs/, written from the fields in mlp_lib
parameters: $(VENV)/installed
	$(BIN)/python tests/write_parameters.py

# constraints.txt, with the newest versions that go together; to be committed once the tests pass with them
constraints: $(VENV)/installed
	$(BIN)/python -m pip install uv
	sed -i '/^[^#]/d' constraints.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.10 --all-extras --no-header --no-annotate pyproject.toml \
		>> constraints.txt

lint: $(VENV)/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/nbstripout --keep-id --verify notebooks/*.ipynb

# once a clone: git strips the outputs of notebooks, and a commit is checked as `make lint` does
hooks: $(VENV)/installed-test
	git config include.path ../.ci/gitconfig
	$(BIN)/pre-commit install

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# by the versions in constraints.txt, or with NEWEST=1 by the newest of today; a half-made environment has no pip yet: made again
define install
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check \
		$(if $(NEWEST),-U --upgrade-strategy eager,-c constraints.txt) -e '$(1)'
endef

$(VENV)/installed: pyproject.toml constraints.txt $(if $(NEWEST),newest)
	$(call install,.)
	touch $@

$(VENV)/installed-test: pyproject.toml constraints.txt $(if $(NEWEST),newest)
	$(call install,.[test])
	touch $(VENV)/installed $@
