# `make run` shows the program at work, `make test` checks it; both set up what they need.

VENV := .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: help run test soak bench clean

help:
	@echo "make run    mirror 12 made-up slides from a stand-in GDC on this machine"
	@echo "make test   ruff, mypy and the tests"
	@echo "make soak   the tests that take long: hundreds of kills, every fault"
	@echo "make bench  speed, side by side with the published way"
	@echo "make clean  remove what the others made"

run: $(READY)
	@$(PY) -m tests.demo

test: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PY) -m pytest

soak: $(READY)
	TCGAMIRROR_SOAK=1 TCGAMIRROR_KILLS=200 $(PY) -m pytest --timeout 7200

bench: $(READY)
	$(PY) -m tests.bench

clean:
	rm -rf $(VENV) .build dist demo-mirror .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -exec rm -rf {} +

# Debian's python3 can make virtual environments only with python3-venv beside it.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name it by make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(MAKE) --no-print-directory venv-package
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

.PHONY: venv-package
venv-package:
	@root=; [ "$$(id -u)" = 0 ] || root=sudo; \
	$$root apt-get update -qq && $$root apt-get install -qq -y python3-venv \
		|| { echo "install your system's package of Python's venv (python3-venv) first"; exit 1; }
