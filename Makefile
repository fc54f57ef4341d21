# `make` lists what there is to do. Each target does its own set-up in .venv and skips it while it is up to date.

PYTHON ?= python3
VENV ?= .venv
# How often `make soak` runs the fault tests.
SOAK_ROUNDS ?= 50
# And how many rounds beside each other: about half of each round is waiting.
SOAK_JOBS ?= 2
# How long `make soak-control` takes.
SOAK_SECONDS ?= 600
# With which `make test-pythons` tests: those of 3.9 to 3.13 that are there.
PYTHONS ?= $(foreach minor,9 10 11 12 13,$(if $(shell python3.$(minor) -c 'print(1)' 2>/dev/null),python3.$(minor)))
# With which `make compat` runs CPython's tests: the oldest of those, the default one, the newest.
COMPAT_PYTHONS ?= $(sort $(firstword $(PYTHONS)) $(PYTHON) $(lastword $(PYTHONS)))
# What else the compatibility run is told: make compat COMPAT_OPTIONS='--start-methods spawn --classes *Pool*'.
COMPAT_OPTIONS ?=
# What else pytest is told: make test PYTEST_OPTIONS='-k killed -x'.
PYTEST_OPTIONS ?=
# What else the comparison is told: make bench BENCH_OPTIONS=--help.
BENCH_OPTIONS ?=

export PYTHON
export PYO3_PYTHON := $(abspath $(VENV))/bin/python
export VENV
# Without their bytecode all the interpreters that are started would compile the same modules again.
unexport PYTHONDONTWRITEBYTECODE
BIN := $(VENV)/bin

# The Python sources are not here: the installed package points at them.
RUST_SOURCES := Cargo.toml Cargo.lock pyproject.toml $(shell find crates -name '*.rs' -o -name Cargo.toml)

# The compiled module lies among the Python sources, where it may be cleaned away without our knowing.
ifeq ($(wildcard python/procession/_native.*.so),)
$(shell rm -f $(VENV)/.build-stamp $(VENV)/.test-build-stamp)
endif

.DEFAULT_GOAL := help
.PHONY: help run test test-rust test-python test-pythons compat compat-check bench bench-load load-truth faults lint format docs reference pictures soak soak-control build test-build wheel clean FORCE
.DELETE_ON_ERROR:

help: ## lists the targets
	@echo "make TARGET, with PYTHON=python3.13 or the like for another interpreter:"
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | while IFS="$$(printf '\t')" read -r target help; do printf '  %-12s %s\n' "$$target" "$$help"; done

run: build ## the main job on real input: maps a function over Python's own library, then compares and stress-tests
	@ci/run.sh

test: test-rust test-python ## every test: Rust, Python, examples, the fault table over three start methods

test-rust: $(VENV)/.python-stamp ## the tests of the crates only
	@ci/test_rust.sh

test-python: test-build ## the Python tests only
	@ci/test_python.sh $(PYTEST_OPTIONS)

test-pythons: ## the Python tests with each interpreter of PYTHONS, in a virtual environment for each
	@for python in $(PYTHONS); do \
		echo "== $$python"; \
		$(MAKE) --no-print-directory test-python PYTHON=$$python VENV=.venv-$$(basename $$python) || exit 1; \
	done

compat: compat-builds ## CPython's own tests of multiprocessing over procession, all start methods; writes docs/compatibility.md
	@$(BIN)/python tests/compat/run.py $(foreach python,$(COMPAT_PYTHONS),--python $(call compat_venv,$(python))/bin/python) \
		--write docs/compatibility.md $(COMPAT_OPTIONS)

compat-check: compat-builds ## runs the tests that are expected to differ, and fails if one of them passes
	@$(BIN)/python tests/compat/run.py $(foreach python,$(COMPAT_PYTHONS),--python $(call compat_venv,$(python))/bin/python) \
		--check --seconds-per-test 20 $(COMPAT_OPTIONS)

# Each interpreter has a virtual environment of its own, the default one that which everything else uses.
compat_venv = $(if $(filter $(PYTHON),$(1)),$(VENV),.venv-$(notdir $(1)))

.PHONY: compat-builds
compat-builds: test-build
	@for python in $(filter-out $(PYTHON),$(COMPAT_PYTHONS)); do \
		$(MAKE) --no-print-directory test-build PYTHON=$$python VENV=.venv-$$(basename $$python) || exit 1; \
	done

bench: ## measures against rivals in one run and prints the ratios (bench/README.md)
	@bench/setup.sh
	@bench/.venv/bin/python bench/run.py $(BENCH_OPTIONS)

bench-load: ## measures the load generator against its rivals in one run (bench/load/README.md)
	@bench/load/setup.sh
	cargo build --release --locked --quiet -p procession-load --example bench_url
	@python3 bench/load/run.py $(BENCH_OPTIONS)

load-truth: test-build ## the load generator's stall tests at full length (some minutes)
	PROCESSION_LOAD_TRUTH=1 $(BIN)/python -m pytest -q -s tests/python/test_load_truth.py -k five_percent
	PROCESSION_LOAD_TRUTH=1 cargo test --release --locked --quiet -p procession-load --test runs a_stall_is_seen_whole

faults: ## writes docs/fault-matrix.md: what each pool makes of each fault, ours and its rivals', in one run
	@bench/setup.sh
	@bench/.venv/bin/python bench/faults.py

lint: test-build ## formatting, clippy, ruff, mypy, stubs against the compiled module, layers, hygiene
	@ci/lint.sh

format: $(VENV)/.tools-stamp ## formats Rust and Python sources
	cargo fmt --all
	$(BIN)/ruff check --quiet --fix . || true
	$(BIN)/ruff format --quiet .

docs: test-build ## builds the reference, denies broken links, checks that generated pages are up to date
	@ci/docs.sh

reference: test-build ## writes the generated pages of docs/reference anew
	@$(BIN)/python ci/reference.py --write

pictures: build ## takes the pictures of docs/pictures anew, from real runs (needs tmux and chromium)
	@$(BIN)/python ci/pictures.py
	@$(BIN)/python ci/load_pictures.py

soak: test-build ## kills workers at random for a while, then runs the fault tests SOAK_ROUNDS times in a row (50)
	@$(BIN)/python tests/python/soak.py --rounds $(SOAK_ROUNDS) --jobs $(SOAK_JOBS)

soak-control: test-build ## kills, stops, limits, cancels and retries at thousands of tasks a second, for SOAK_SECONDS (600)
	@$(BIN)/python tests/python/control_soak.py --seconds $(SOAK_SECONDS)

build: $(VENV)/.build-stamp ## compiles and installs the package and the command into .venv

test-build: $(VENV)/.test-build-stamp ## the same, compiled faster and with the places where tests can make a worker die

wheel: $(VENV)/.tools-stamp ## builds a wheel into dist/
	$(BIN)/maturin build --release --locked --interpreter $(PYO3_PYTHON) --out dist

clean: ## removes what was built, .venv included
	rm -rf target dist .venv .venv-* bench/.venv .mypy_cache .ruff_cache .pytest_cache python/procession/*.so
	find python tests examples ci bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# Asked each time, touched only when the interpreter changed.
$(VENV)/.python-stamp: FORCE
	@ci/venv.sh $(PYTHON) $(VENV)

$(VENV)/.tools-stamp: requirements-dev.txt $(VENV)/.python-stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

$(VENV)/.build-stamp: $(RUST_SOURCES) $(VENV)/.tools-stamp
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --locked --quiet
	@rm -f $(VENV)/.test-build-stamp
	@touch $@

# One installation at a time: each of the two builds takes the place of the other.
$(VENV)/.test-build-stamp: $(RUST_SOURCES) $(VENV)/.tools-stamp
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --profile quick --features crash-points --locked --quiet
	@rm -f $(VENV)/.build-stamp
	@touch $@

FORCE:
