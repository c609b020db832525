# Two commands set everything up: `make demo` and `make test`. Each makes its own environment in .venv.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
MINUTES ?= 5

bin := $(VENV)/bin
# Stamps: an environment is filled once, and again only when the dependencies change.
dev_stamp := $(VENV)/.installed-dev
demo_stamp := $(VENV)/.installed-demo
bench_stamp := $(VENV)/.installed-bench
serving_stamp := $(VENV)/.installed-bench-serving

.PHONY: help test lint test-slow conformance fuzz-import docs demo bench bench-gpu bench-serving format clean

help:
	@echo "make demo       compile a trained model, run it on four rotations of a page, compare with ONNX Runtime"
	@echo "make test       style, types, folder order and the fast tests"
	@echo "make test-slow  long sweeps and whole-model checks"
	@echo "make conformance  the ONNX backend suite, beside ONNX Runtime"
	@echo "make fuzz-import  damaged models against the importer and the compiler, for MINUTES=5"
	@echo "make docs       write docs/operators.md anew"
	@echo "make bench      the model zoo against ONNX Runtime and OpenVINO"
	@echo "make bench-gpu  kernels and models for a GPU beside torch; needs a GPU, torch and the packages' compiler"
	@echo "make bench-serving  the model server: images, overhead, reloads, faults, beside MLServer"
	@echo "make format     rewrite the code in the project's style"
	@echo "make clean      remove the environment and the caches"
	@echo "PYTHON=python3.12 picks the interpreter (3.11 to 3.13)."

test: lint
	$(bin)/python -m pytest -n $(WORKERS) -m "not slow and not gpu"

lint: $(dev_stamp)
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy --strict
	$(bin)/lint-imports

test-slow: $(dev_stamp)
	$(bin)/python -m pytest -n $(WORKERS) -m "slow and not gpu"

conformance: $(dev_stamp)
	$(bin)/graphc conformance --against onnxruntime

fuzz-import: $(dev_stamp)
	$(bin)/graphc fuzz import --minutes $(MINUTES) --seed $$(date +%s) --keep tests/frontend/corpus

docs: $(dev_stamp)
	$(bin)/graphc operators --markdown > docs/operators.md.new
	mv docs/operators.md.new docs/operators.md

demo: $(demo_stamp)
	$(bin)/python -m examples.demo

bench: $(bench_stamp)
	$(bin)/python -m bench --against onnxruntime,openvino --plot docs/assets/zoo.svg

bench-gpu:
	$(PYTHON) -m bench.gpu run --plot docs/assets/gpu.svg

bench-serving: $(serving_stamp)
	$(bin)/python -m bench.serving

format: $(dev_stamp)
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(bin)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "graphc needs Python 3.11 to 3.13; '$(PYTHON)' is not one. Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(dev_stamp): pyproject.toml | $(bin)/python
	$(bin)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(demo_stamp): pyproject.toml | $(bin)/python
	$(bin)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

$(bench_stamp): pyproject.toml | $(bin)/python
	$(bin)/python -m pip install --quiet --disable-pip-version-check -e '.[cpu,bench]'
	@touch $@

$(serving_stamp): pyproject.toml | $(bin)/python
	$(bin)/python -m pip install --quiet --disable-pip-version-check -e '.[bench-serving]'
	@touch $@
