# Every target does its own set-up: system packages, .venv, pinned Python packages.

PYTHON_IN_VENV = .venv/bin/python
INPUTS = pyproject.toml deploy/constraints.txt deploy/setup.sh

.PHONY: setup demo run test test-all lint clean

setup: .venv/.run

.venv/.run: $(INPUTS)
	@deploy/setup.sh run
	@touch $@

.venv/.dev: $(INPUTS)
	@deploy/setup.sh dev
	@touch .venv/.run $@

# The whole pipeline on the demo clip, in real time.
demo: setup
	@$(PYTHON_IN_VENV) supervisor.py --source file:examples/demo.flac

# The whole pipeline on the microphone.
run: setup
	@$(PYTHON_IN_VENV) supervisor.py

test: .venv/.dev
	$(PYTHON_IN_VENV) -m pytest -m "not slow"

test-all: .venv/.dev
	$(PYTHON_IN_VENV) -m pytest

lint: .venv/.dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
