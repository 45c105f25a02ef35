# make pretrain   set-up, then all stages on the sample corpus: text to fine-tuned heads
# make test       set-up, then linters, type checker and tests
# make test-long  the tests that take minutes: clusters, servers, the README's commands, compiled kernels
# make faults     kills of workers and commands on a real local cluster
# make cluster    set-up, then a Ray cluster of NODES nodes (3) on this machine; make cluster-stop
# make install    set-up alone

PYTHON ?= python3
BIN := .venv/bin
CONFIG ?= jobs/configs/demo.yaml
NODES ?= 3
# Of `make test`. Each has a Ray cluster of its own.
PROCESSES ?= 2
# The source package of the installed transformers, which carries a test-suite for models.
TRANSFORMERS := $(shell sed -n 's/^transformers==/transformers-/p' constraints.txt)
export TRANSFORMERS_SOURCE ?= .venv/$(TRANSFORMERS)

.PHONY: install pretrain test test-long faults cluster cluster-stop lint clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	# torch first: DeepSpeed and seqeval are source packages that look for their builders at hand.
	$(BIN)/python -m pip install --quiet -c constraints.txt torch setuptools setuptools_scm wheel
	$(BIN)/python -m pip install --quiet --no-build-isolation -c constraints.txt -e ".[dev]"
	# An independent LAMB for the tests; its other needs would replace torch.
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt timm
	# The kernels' tests run in Triton's interpreter; torch for GPUs brings the Triton that it needs.
	$(BIN)/python -c 'import triton' 2>/dev/null || $(BIN)/python -m pip install --quiet triton==3.9.0
	touch $@

pretrain: install
	$(BIN)/python -m jobs.pretrain --config $(CONFIG) $(SET)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(TRANSFORMERS_SOURCE): | install
	-$(BIN)/python -m pip download --quiet --no-deps --no-build-isolation -c constraints.txt \
		--no-binary transformers -d .venv transformers \
		&& tar -xzf .venv/$(TRANSFORMERS).tar.gz -C .venv
	test -d $@ || echo "No source package of transformers: its own tests will be skipped."

test: lint $(TRANSFORMERS_SOURCE)
	$(BIN)/python -m pytest -m "not long and not kills" -n $(PROCESSES) --dist loadfile

test-long: install
	$(BIN)/python -m pytest -m "long and not kills"

faults: install
	$(BIN)/python -m pytest tests/faults tests/pipeline/training/faults

cluster: install
	$(BIN)/python cluster/local.py start --nodes $(NODES)

cluster-stop:
	$(BIN)/python cluster/local.py stop

clean:
	rm -rf .venv runs build *.egg-info
