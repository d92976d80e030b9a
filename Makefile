# Every target does its own set-up: system packages, .venv, pinned Python packages.

PYTHON_IN_VENV = .venv/bin/python
# More workers than processors: half of the tests wait for sound in real time.
PARALLEL = -n 6 --dist loadgroup
INPUTS = pyproject.toml deploy/constraints.txt deploy/setup.sh

.PHONY: setup setup-train demo run test test-combinations test-unit test-wheel test-newest test-all test-cluster test-tflite-runtime test-train \
	deb packages chaos bench docs lint clean

setup: .venv/.run
setup-train: .venv-train/.done

.venv/.run: $(INPUTS)
	@deploy/setup.sh run
	@touch $@

.venv/.dev: $(INPUTS)
	@deploy/setup.sh dev
	@touch .venv/.run $@

# The whole pipeline on the demo recording with the live page; once if CI is set or without a terminal.
demo: setup
	@$(PYTHON_IN_VENV) -m speech_emotion demo

# The whole pipeline on the default microphone with the live page.
run: setup
	@$(PYTHON_IN_VENV) -m speech_emotion run --dashboard

# Everything but training, measurements, the documents' commands and the further cases of costly tests.
test: .venv/.dev
	$(PYTHON_IN_VENV) -m pytest $(PARALLEL) -m "not slow and not combination"

# The further cases of costly tests: each stage killed, each proxy, each format.
test-combinations: .venv/.dev
	$(PYTHON_IN_VENV) -m pytest $(PARALLEL) -m "combination and not slow"

# Pure functions and single modules, with coverage; the pure cores must be at 100 % of lines.
PURE = alerts/evaluation.py,alerts/rules.py,common/bundle/grid.py,common/hub/ledger.py,features/core/*,features/extractor.py,features/gate.py,infer/decision.py
test-unit: .venv/.dev
	$(PYTHON_IN_VENV) -m pytest -n 3 --dist loadgroup -q -m "not slow" tests/unit --hypothesis-profile=quick --cov --cov-report=
	$(PYTHON_IN_VENV) -m coverage report --skip-covered
	$(PYTHON_IN_VENV) -m coverage report --include='$(PURE)' --fail-under=100

# The wheel, built and installed in an environment of its own, outside the checkout.
test-wheel: .venv/.dev
	SEP_EMPTY_VENV=1 $(PYTHON_IN_VENV) -m pytest -q tests/system/test_wheel.py

# The parts of documents that a command writes.
docs: .venv/.dev
	$(PYTHON_IN_VENV) -m tools.documents

test-all: .venv/.dev test-tflite-runtime test-train
	$(PYTHON_IN_VENV) -m pytest $(PARALLEL)

.venv-tflite-runtime/.done: $(INPUTS) deploy/constraints-tflite-runtime.txt
	@deploy/setup.sh tflite-runtime
	@touch $@

# Inference and the end-to-end tests on the other TFLite runtime, with numpy 1.
test-tflite-runtime: .venv-tflite-runtime/.done
	.venv-tflite-runtime/bin/python -m pytest $(PARALLEL) -m "not slow" tests/unit/infer/test_model.py \
		tests/system/test_alone.py tests/system/test_bad_input.py::test_a_broken_bundle \
		tests/system/test_pipeline.py -k "not realtime and not real_time"

# Recordings on a Ray cluster of two nodes, of which a worker and a node are killed; Ray takes 260 MB.
test-cluster: .venv/.cluster
	$(PYTHON_IN_VENV) -m pytest tests/system/test_cluster.py

.venv/.cluster: .venv/.dev
	@$(PYTHON_IN_VENV) -m pip install -q -c deploy/constraints.txt -e ".[cluster]"
	@touch $@

.venv-train/.done: $(INPUTS) deploy/constraints-train.txt
	@deploy/setup.sh train
	@touch $@

.venv-newest/.done: $(INPUTS)
	@deploy/setup.sh newest
	@mkdir -p .venv-newest
	@touch $@

# The unit tests and the demo on the newest Python that this machine has.
test-newest: .venv-newest/.done
	@[ ! -x .venv-newest/bin/python ] || \
		{ .venv-newest/bin/python -m pytest $(PARALLEL) -q tests/unit --hypothesis-profile=quick && \
		CI=1 .venv-newest/bin/python -m speech_emotion demo --speed max; }

# Training from end to end on a tiny made-up corpus, with TensorFlow.
test-train: .venv-train/.done
	.venv-train/bin/python -m pytest tests/unit/train tests/system/test_train_smoke.py

# The Debian package and the wheel, into dist/, with podman; BASE=IMAGE names another system.
deb:
	podman build --format docker --file deploy/container/Containerfile $(if $(BASE),--build-arg BASE=$(BASE)) \
		--target files --output type=local,dest=dist .

# Container, Debian package and pipx on bare systems, as root: the table of docs/DEPLOYMENT.md.
packages:
	deploy/package/trial.sh $(SUITE)

# Every fault, measured, into docs/RELIABILITY.md: half an hour on a quiet machine.
chaos: .venv/.dev
	$(PYTHON_IN_VENV) -m tests.chaos $(if $(ONLY),--only $(ONLY)) \
		--json docs/reliability.json --write docs/RELIABILITY.md

# Everything in docs/PERFORMANCE.md, measured on this machine, in half an hour. Parts of
# it: make bench ONLY=ring,features
bench: .venv/.dev
	$(PYTHON_IN_VENV) -m bench $(if $(ONLY),--only $(ONLY)) $(if $(BUNDLE),--bundle $(BUNDLE))

lint: .venv/.dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/codespell
	$(PYTHON_IN_VENV) -m tools.import_contracts --no-logo

clean:
	rm -rf .venv .venv-newest .venv-tflite-runtime .venv-train build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
