# `make demo` and `make test` are all that a fresh machine with Python 3.11 needs.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: help demo test lint format

help:
	@echo "make demo    install, train CTR-GCN + CSRE on generated clips, print a result table (minutes)"
	@echo "make test    install, run the tests"
	@echo "make lint    check style and types"
	@echo "make format  put the code into the project's style"

$(VENV)/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Python 3.11 is needed; name one with: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

demo: $(VENV)/installed
	$(RUN) main.py --config config/demo/ctrgcn_csre_joint.yaml

test: $(VENV)/installed-dev
	$(RUN) -m pytest -n auto --maxprocesses 8 --dist loadscope --no-loadscope-reorder

lint: $(VENV)/installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(VENV)/installed-dev
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .
