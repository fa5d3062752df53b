# `make` lists what there is. PYTHON= names the interpreter to use (3.10 to 3.14).

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-gpu gpu-bundle coverage lint docs bench report graphs lock clean

BIN := .venv/bin
FIND_PYTHON := $(or $(PYTHON),$(wildcard $(BIN)/python),python3)
GROUP := demo
PYTEST = ROS_PYTHON_CHECK_FIELDS=1 $(BIN)/python -m pytest
# Processes that share the tests, a file at a time; 0 = this one alone.
WORKERS := 2
# A process that dies ends the run with the name of its test: xdist 3.8 hangs when it replaces one
# under loadfile. A test that takes 15 minutes hangs: its process writes its stacks and dies.
SHARED = $(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 \
    -o faulthandler_timeout=900 -o faulthandler_exit_on_timeout=true
QUICK = $(SHARED) test/node test/unit  # in this order: the nodes, which take longest, begin

# A sourced ROS 2 must not leak into the virtual environment.
unexport AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH PYTHONHOME PYTHONPATH
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup:  ## make .venv for GROUP=demo|view|evaluate|train|docs|gpu|fleet|test (does only what is missing)
	@command -v $(FIND_PYTHON) >/dev/null || { echo "error: there is no $(FIND_PYTHON); install \
	Python 3.10 to 3.14 (Debian, Ubuntu: apt install python3 python3-venv python3-dev), or name \
	it: make setup PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(FIND_PYTHON) tools/environment.py $(GROUP) $(if $(PYTHON),--this-python)

# Each of these sets up what it needs.
demo: GROUP := $(if $(VIEW),view,demo)
test test-all test-gpu gpu-bundle coverage lint bench report: GROUP := test
docs: GROUP := docs

demo: setup  ## a sequence through the real node, every image (SOURCE=, LIMIT=, RATE= for real time, PROFILE=, OUTPUT=, VIEW=1)
	@$(BIN)/python -m aliked_ros.cli demo $(if $(SOURCE),--source "$(SOURCE)") \
	    $(if $(LIMIT),--limit $(LIMIT)) $(if $(RATE),--rate $(RATE)) \
	    $(if $(PROFILE),--profile $(PROFILE)) $(if $(OUTPUT),--output "$(OUTPUT)") \
	    $(if $(VIEW),--view)

test: setup lint  ## lint, unit tests and tests of running nodes: minutes
	$(QUICK)

test-all: test  ## all checks and tests: also evaluation, training, packaging, exports, GPU
	$(SHARED) test/lab test/gpu

gpu-bundle: setup  ## build/gpu_bundle/: a folder to try a GPU on a machine without network, data or ROS
	@$(BIN)/python tools/gpu_bundle.py $(if $(OUTPUT),--output "$(OUTPUT)")

test-gpu: setup  ## the tests that need an NVIDIA GPU, TensorRT and pycuda
	$(PYTEST) test/gpu

coverage: setup  ## which lines unit and node tests run, nodes' processes included (htmlcov/index.html)
	$(QUICK) --cov --cov-report=term --cov-report=html

lint: setup  ## ruff, mypy and the layers of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup  ## the documentation as a site in site/, which needs no network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup  ## time the front-end against its reference on this machine
	$(BIN)/aliked_ros bench

report: setup  ## docs/benchmarks/REPORT.md: every evaluation and benchmark (an hour; goes on where it was)
	$(BIN)/aliked_ros bench report

graphs: GROUP := train
graphs: setup  ## models/graphs/: export the networks' graphs again, after a change of a network
	$(BIN)/python -m aliked_ros.models.export

lock: setup  ## remake requirements/*.txt from the *.in files (UPGRADE=1: the newest versions)
	UPGRADE=$(UPGRADE) UV=$(CURDIR)/$(BIN)/uv tools/lock.sh

clean:  ## remove all that was made in this tree (fetched weights stay in the cache)
	rm -rf .venv build install log demo_output site htmlcov *.egg-info .coverage*
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
