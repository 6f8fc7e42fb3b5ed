# Two commands set everything up on a fresh machine with Python 3.11+ and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SEED ?= 0
# One thread a process: two on a busy machine wait for each other. A process more than cores, because some tests wait.
# Compiled modules are kept, whatever the environment says: tests start Python hundreds of times.
PYTEST := env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist worksteal

.PHONY: demo test pytest oldest coverage lint docs bench soak mutants dist clean

demo: $(INSTALLED)
	$(BIN)/fima demo --out runs/demo --seed $(SEED)

# Side by side: the type checker has one core's worth of work, and half a minute of it.
test: $(INSTALLED)
	$(MAKE) --no-print-directory -j 2 lint pytest

pytest: $(INSTALLED)
	$(PYTEST) -m "not slow"

# The tests with the oldest libraries that pyproject.toml allows; these warn of newer ones, so a warning is no error.
OLDEST := $(VENV)-oldest
oldest:
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet uv
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST) --resolution lowest-direct -e '.[dev]'
	$(subst $(BIN),$(OLDEST)/bin,$(PYTEST)) -m "not slow" -o filterwarnings=default

# All tests, and whether they run enough of `fima/`. Counting lines makes them take a third longer.
coverage: $(INSTALLED)
	$(PYTEST) --cov --cov-report=json
	$(BIN)/python -m tests.check_coverage coverage.json

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Opened with a browser as site/index.html. The variable silences a notice of the theme about its successor.
docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(INSTALLED)
	$(BIN)/python benchmarks/motion_textures.py --seeds 0 1 2

# The slow tests, 2,000 changed videos, 3,500 checkpoints, 26,000 lists and tables.
soak: $(INSTALLED)
	$(PYTEST) -m slow
	$(BIN)/python -W ignore benchmarks/fuzz_videos.py --videos 2000
	FUZZ_EXAMPLES=2000 $(BIN)/python -m pytest tests/test_checkpoint_fuzz.py tests/test_list_fuzz.py
	$(BIN)/python -W ignore benchmarks/soak_loader.py
	$(BIN)/python benchmarks/soak.py

# What the tests of the method, the backbones, clips, crops and the schedule would not notice; ONLY="fima.method.losses*"
# for a part. Repeated, it goes on where it was stopped.
ONLY ?=
mutants: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt -e '.[mutants]'
	OMP_NUM_THREADS=1 $(BIN)/mutmut run --max-children 1 $(ONLY)
	$(BIN)/mutmut results

# The same bytes every time: the times in both files are fixed, or those of SOURCE_DATE_EPOCH.
dist: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt -e '.[release]'
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist
	$(BIN)/python -m twine check --strict dist/*

clean:
	rm -rf $(VENV) $(OLDEST) runs site dist mutants

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --upgrade-strategy only-if-needed -c constraints.txt -e '.[dev]'
	touch $@
