# Two commands to remember: `make reproduce` and `make test`. Both make and reuse .venv.

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: reproduce test check roots clean

reproduce: $(READY)
	dvc repro
	@reforge audit . roots.json || echo "The roots differ from the recorded ones: see the likely causes above."
	@echo "Report: file://$(CURDIR)/artifacts/report/report.html"

test: $(READY)
	pytest

check: $(READY)
	ruff check .
	ruff format --check .
	mypy
	lint-imports

# After a change that is meant to change the bits, and a run of `make reproduce`.
roots: $(READY)
	reforge audit --record roots.json

# Back to a fresh clone: what the targets above made goes, what you wrote stays.
clean:
	rm -rf $(VENV) artifacts metrics runs dvc_plots dvc.lock .dvc/cache .dvc/tmp build *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find stages megatron_core kernels pipelines tests -name __pycache__ -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Reforge needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 …")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[texts,dev]'
	touch $@
