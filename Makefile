# Two commands matter: `make demo` and `make test`. Both can be run again after an interruption; `make help` names the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt
# Where pip looks for more wheels; the public index serves torch with its CUDA libraries (about 3 GB) on x86-64.
# A machine without a GPU can ask for the small build: make demo EXTRA_INDEX=https://download.pytorch.org/whl/cpu
EXTRA_INDEX ?=
DEMO_EXTRAS := torch,images,dicom,cpu
TEST_EXTRAS := $(DEMO_EXTRAS),kernels,bench,dev

export MPLBACKEND := Agg
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help demo test test-pythons coverage lint figures evidence records bench clean tools compiler

help:
	@echo "make demo      install into .venv, then run the main job on real images"
	@echo "make test      lint, unit, kernel, protocol and process tests; the time of each group"
	@echo "make test-pythons  unit and protocol tests under each of Python 3.11 to 3.13 that this machine has"
	@echo "make coverage  the share of the package's lines that unit and protocol tests run"
	@echo "make lint      ruff, mypy and the import contracts alone"
	@echo "make figures   every figure of bench/figures.toml: its bound and its measured value (ID=\"relu lite0\" for some)"
	@echo "make evidence  campaigns of kills, faults and attacks against real processes; goes on where it was (PART=kills for one)"
	@echo "make records   the tests and the figures, written to out/records"
	@echo "make bench     micro-benchmarks, stored by machine and revision, with the last of this machine (SUITE=ring for one)"
	@echo "make clean     remove .venv, out/ and all caches"

tools:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is missing. Install it: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1), and Python 3.11 or later is needed." >&2; \
	  echo "Install the package python3.11 and python3.11-venv (or later), then: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: Python's venv is missing. Install it: apt-get install python3-venv" >&2; exit 1; }

compiler:
	@command -v g++ >/dev/null || { echo "error: g++ is missing; the tests compile the kernels for this machine. Install it: apt-get install g++" >&2; exit 1; }

# Each stamp is written last, so that an interrupted installation is taken up again and a finished one is skipped.
$(VENV)/.created: | tools
	@echo "Creating $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

define install
@echo "Installing gpumpc[$(1)] into $(VENV), versions from constraints.txt. Downloads, where pip has none in its cache:"
@echo "  torch              190 MB for the CPU build; a CUDA build and its libraries, about 3 GB"
@echo "  numba, llvmlite     60 MB"
@echo "  numpy, cryptography, pyzmq, pillow, nibabel and the rest of the core  40 MB"
@$(if $(findstring dev,$(1)),echo "  test tools          85 MB (mypy, ruff, scipy, scikit-learn, matplotlib, pytest)";) \
 $(if $(findstring kernels,$(1)),echo "  NVRTC and nvdisasm  110 MB (they compile the kernels and need no GPU)";) \
 echo "  On disk afterwards: about 1.7 GB with the CPU build."
@$(PIP) -q setuptools wheel
@$(PIP) -q $(if $(EXTRA_INDEX),--extra-index-url $(EXTRA_INDEX)) --no-build-isolation -e '.[$(1)]'
@touch $@
endef

$(VENV)/.demo-installed: pyproject.toml constraints.txt $(VENV)/.created
	$(call install,$(DEMO_EXTRAS))

$(VENV)/.test-installed: pyproject.toml constraints.txt $(VENV)/.created
	$(call install,$(TEST_EXTRAS))
	@touch $(VENV)/.demo-installed

demo: tools $(VENV)/.demo-installed
	$(BIN)/gpumpc demo

test: tools compiler $(VENV)/.test-installed
	$(BIN)/python tests/run_groups.py $(GROUP)

test-pythons: tools compiler
	$(PYTHON) tests/run_pythons.py

coverage: tools compiler $(VENV)/.test-installed
	$(BIN)/python tests/run_groups.py coverage

lint: tools $(VENV)/.test-installed
	$(BIN)/python tests/run_groups.py lint

figures: tools $(VENV)/.test-installed
	$(BIN)/python -m bench.figures $(ID)

evidence: tools $(VENV)/.test-installed
	$(BIN)/python -m bench.evidence $(foreach part,$(PART),--part $(part))

records: tools compiler $(VENV)/.test-installed
	@mkdir -p out/records
	set -o pipefail; $(BIN)/python tests/run_groups.py | tee out/records/tests.txt
	set -o pipefail; $(BIN)/python tests/run_groups.py coverage evidence | tee -a out/records/tests.txt
	$(BIN)/python -m bench.figures --json > out/records/figures.json
	set -o pipefail; $(PYTHON) tests/run_pythons.py | tee out/records/pythons.txt

bench: tools $(VENV)/.test-installed
	$(BIN)/python -m bench.suite $(SUITE)

clean:
	rm -rf $(VENV) out build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
