# One door: what CI runs is what you run. `make help` lists the targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Another torch, for an older driver: make demo TORCH="torch==2.8.0 --index-url https://download.pytorch.org/whl/cu126"
TORCH ?=
PORT ?= 5000

.DEFAULT_GOAL := help
.PHONY: help setup demo test coverage quick check lint type docs ui conf report results bench bench-gpu gpu soak clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "mtexp needs Python 3.11, 3.12 or 3.13, $(PYTHON) is $$($(PYTHON) -V). Use: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "Could not make $(VENV). On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@if [ -n "$(TORCH)" ]; then $(BIN)/python -m pip install -q $(TORCH); grep -v '^torch==' constraints.txt; else cat constraints.txt; fi >$(VENV)/constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c $(VENV)/constraints.txt -e '.[dev]'
	@touch $@

setup: $(VENV)/.installed  ## make .venv and install everything

demo: setup  ## three mixes, on the GPU if there is one
	$(BIN)/python run.py -m mix=enc_only,dec_only,mixed

# three workers, also on two cores: a third of the time a test waits for the processes that it started
test: setup  ## the tests that need no GPU
	$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder

coverage: setup  ## the same, with the coverage of the packages; that takes twice as long
	$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered

quick: setup  ## the developer's loop: the tests of some seconds
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

check: lint type docs  ## everything that is checked without running a test: CI runs it first

lint: setup  ## ruff, format, layers, spelling, YAML
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/codespell mtexp analysis tests conf docs benchmarks README.md CONTRIBUTING.md CHANGELOG.md
	$(BIN)/yamllint conf

type: setup  ## mypy --strict
	$(BIN)/mypy

docs: setup  ## the documentation as a site in site/, offline; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

ui: setup  ## the MLflow UI of what was run, on 127.0.0.1
	$(BIN)/python -m mtexp.tracking.ui --port $(PORT)

gpu: setup  ## the tests that need a GPU
	MTEXP_REQUIRE_GPU=1 $(BIN)/python -m pytest -q -m gpu

report: setup  ## an HTML report of the latest sweep
	$(BIN)/python -m analysis.report --sweep latest

results: setup  ## the studies again, from their committed records
	set -e; for study in results/pairs/graphs results/pairs/eager archive/h200-causal-masks archive/h200-masks archive/h200 archive/h100; do $(BIN)/python -m analysis.report \
	  --records docs/$$study/records --out reports/$$study --no-images --markdown docs/$$study/findings.md --made-by "make results"; done
	set -e; for regime in graphs eager; do $(BIN)/python -m analysis.report --records docs/results/pairs/$$regime/records --out reports/figures/$$regime --images svg; \
	  cp reports/figures/$$regime/plots/stp-by-mix.svg docs/results/pairs/stp-$$regime.svg; done
	cp reports/figures/graphs/plots/interference-matrix.svg docs/results/pairs/who-slows-whom-graphs.svg
	$(BIN)/python -m analysis.report --records docs/results/partitions/axis/records --out reports/figures/axis --images svg
	cp reports/figures/axis/plots/one-axis.svg docs/results/partitions/one-axis.svg
	$(BIN)/python -m analysis.roofline docs/archive/h200/roofline.csv --device "NVIDIA H200"

bench: setup  ## the benchmarks a CPU can run (QUICK=--quick: a smoke run; OPTIMUM=PYTHON: beside optimum-benchmark)
	set -e; for name in perturbation undisturbed loop_price check_price telemetry_price start_skew designs side_by_side point_overhead \
	  tracking queries analysis compare_rules predictor_errors predicted_before coverage_over_runs planning wire_price versus_script versus_optimum; do $(BIN)/python -m benchmarks.$$name $(QUICK); done

bench-gpu: setup  ## those that need a GPU
	set -e; for name in perturbation undisturbed loop_price check_price telemetry_price start_skew designs side_by_side point_overhead \
	  second_context wire_price versus_script versus_optimum; do $(BIN)/python -m benchmarks.$$name --gpu $(QUICK); done

soak: setup  ## short runs with a random process killed, stopped or interrupted (RUNS=200 SEED=0)
	$(BIN)/python -m benchmarks.soak --runs $(or $(RUNS),200) --seed $(or $(SEED),0)

clean:  ## remove the environment; runs and results stay
	rm -rf $(VENV) *.egg-info
