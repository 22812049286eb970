# The verbs of the project. `make demo` and `make test` set themselves up; nothing but Python is needed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: help setup demo test coverage test-lowest check mutate torture bench bench-check docs site gallery alone changelog viewer clean
help:            ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# what a user has
$(VENV)/.user: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[all]'
	@touch $@

# what a developer has as well: every framework, the test runner, the linters; by uv, which takes a minute where pip takes five (pip where uv lacks an index)
UV := UV_FIND_LINKS="$(PIP_FIND_LINKS)" $(BIN)/uv
$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) uv
	$(UV) pip install -q --python $(BIN)/python --compile-bytecode -c constraints.txt -e '.[all,dev]' || $(PIP) -e '.[all,dev]'
	@touch $(VENV)/.user $@

setup: $(VENV)/.dev  ## a .venv with the package and all that its tests need

demo: $(VENV)/.user  ## train a real network on real digits, record it, film it
	$(BIN)/weightlapse demo

# the viewer's tools; its tests run them too where Node is there (tests/test_view_bundle.py)
viewer/node_modules: viewer/package-lock.json
	cd viewer && npm ci --no-fund --no-audit
	@touch $@

test: $(VENV)/.dev   ## run the tests
	$(BIN)/python -m pytest -n 3 --dist worksteal -q

TESTS ?=
# Out of `make test`, which it makes 1.4 times as long. What the compiler runs (kernels of numba) counts as not reached.
coverage: $(VENV)/.dev ## how many lines of each package the tests reach; of some tests alone: TESTS=tests/test_store_log.py
	rm -rf out/coverage && mkdir -p out/coverage
	$(BIN)/python -m coverage run -m pytest -n 3 --dist worksteal -q $(TESTS)
	$(BIN)/python -m coverage combine -q && $(BIN)/python -m tests.covered

# What users may have: of every dependency the lowest version that pyproject.toml allows, resolved by uv, in an environment of its own. The package index
# has torch of that age with CUDA alone (gigabytes), so the one that is installed here is taken; with the lowest (or the index's: leave UV_TORCH_BACKEND out):
# make test-lowest TORCH=torch==2.4.0 UV_TORCH_BACKEND=cpu
LOWEST := out/lowest
TORCH  ?= $(shell $(BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))')
USERS  := torch film view keras jax lightning transformers sklearn export query ray
TRIED  := surface extras third_minute 'store_[cfg]*' 'recording_[eqr]*' 'capture_[cgik]*' 'cli_*' measures 'film_[cm]*' picture differences_numbers \
  view_server view_widget frameworks_keras frameworks_jax frameworks_sklearn frameworks_lightning frameworks_transformers growth_widen wiring_spec

$(LOWEST)/.made: pyproject.toml constraints.txt | $(VENV)/.dev
	rm -rf $(LOWEST) && mkdir -p $(LOWEST) && echo '$(TORCH)' > $(LOWEST)/torch.txt
	$(UV) pip compile -q --resolution lowest-direct --override $(LOWEST)/torch.txt $(addprefix --extra ,$(USERS)) pyproject.toml -o $(LOWEST)/requirements.txt
	$(UV) venv -q --python $(BIN)/python $(LOWEST)/venv
	$(UV) pip install -q --python $(LOWEST)/venv/bin/python -r $(LOWEST)/requirements.txt pytest pytest-xdist hypothesis httpx websockets playwright
	@touch $@

# Their own warnings are theirs: what was deprecated since is told, and is no failure.
test-lowest: $(LOWEST)/.made ## the tests of the core, with the lowest allowed version of every dependency
	@grep -E '^(numpy|pcodec|click|rich|torch|scipy|numba|av|matplotlib|pillow|starlette|pyarrow|zarr|duckdb|keras|jax)==' $(LOWEST)/requirements.txt | tr '\n' ' '; echo
	$(LOWEST)/venv/bin/python -m pytest -n 2 --dist loadgroup -q -o filterwarnings=default $(foreach t,$(TRIED),tests/test_$(subst ',,$(t)).py)

check: $(VENV)/.dev  ## format, lint, types, layers: all that needs no running
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy weightlapse
	$(BIN)/python -m pytest -q tests/test_layers.py tests/typing/check_typing.py
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory viewer/node_modules && cd viewer && npm run --silent check && npm test --silent; \
	else echo "no Node here: the viewer's TypeScript was not checked"; fi

MINUTES ?= 20
# Alone, since it takes long; out of `make test`, whose tests it runs again and again.
mutate: $(VENV)/.dev  ## do tests fail where a decision is changed? MINUTES=20 of mutants of FILES (below weightlapse/; all that tests/mutate.py names)
	$(BIN)/python -m tests.mutate $(FILES) --minutes $(MINUTES)

torture: $(VENV)/.dev ## damage, faults and kills for MINUTES=20; writes bench/results/torture.md
	$(BIN)/python -m tests.torture $(MINUTES)

bench: $(VENV)/.dev  ## measure beside the peers; writes bench/RESULTS.md
	$(BIN)/python bench/run_all.py

bench-check: $(VENV)/.dev ## two minutes: has a ratio become worse, beyond noise, than what bench/results/ratios.json keeps
	OMP_NUM_THREADS=1 $(BIN)/python bench/check.py

# Without a network; fails on a snippet that does not run, a broken link, a public name without a docstring.
docs: $(VENV)/.dev   ## run the documentation's snippets and build the site into out/site
	$(BIN)/python -m pytest -n 3 --dist worksteal -q tests/test_docs.py
	$(MAKE) --no-print-directory site

site: $(VENV)/.dev   ## build the site alone
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "out/site/index.html"

gallery: $(VENV)/.dev ## rebuild the gallery: run the five studies in full, keep their pictures, films and pages
	$(BIN)/python docs/build.py

alone: $(VENV)/.user   ## the built wheel in an empty environment: every verb and function, each line of docs/third-minute.md
	rm -rf out/wheel && $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w out/wheel .
	$(BIN)/python tests/programs/third_minute.py out/wheel/*.whl

changelog:           ## gather changes/ into CHANGELOG.md
	$(PYTHON) changes/gather.py

viewer: viewer/node_modules  ## build the browser bundle into weightlapse/view/page (needs Node)
	cd viewer && npm run build

clean:               ## remove what make made
	rm -rf $(VENV) weightlapse-demo .pytest_cache .mypy_cache .ruff_cache
