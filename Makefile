# `make run` shows the program at work, `make test` checks it; both set up what they need.

VENV := .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: help run check test test-slurm soak bench clean build test-binary install lock build-packages

help:
	@echo "make run    mirror 12 made-up slides from a stand-in GDC on this machine"
	@echo "make check  what a change is held to: ruff, mypy, layers, the fast tests"
	@echo "make test   ruff, mypy and the tests"
	@echo "make test-slurm  the script of schedule slurm, by a real Slurm on this machine"
	@echo "make soak   the tests that take long: hundreds of kills and nights, every fault"
	@echo "make bench  speed, side by side with the published way"
	@echo "make build  dist/tcgamirror, one executable for machines without Python"
	@echo "make build ARCH=aarch64  dist/tcgamirror-aarch64, the same for ARM; needs root elsewhere"
	@echo "make dist   all that a release has, in dist/: executables, wheel, source, digests"
	@echo "make test-binary  what the source is tested by, for the executable"
	@echo "make install PREFIX=/usr/local  the executable, its man page, completions"
	@echo "make clean  remove what the others made"

run: $(READY)
	@$(PY) -m tests.support.demo

# One more than two cores: half of a worker's time it waits for a server or a command.
WORKERS ?= 3
PYTEST := $(PY) -m pytest --numprocesses $(WORKERS) --dist loadfile

test: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo
	$(PYTEST)

# What a change is held to while it is worked on: less than a minute, without the whole commands.
FAST := tests/test_layout.py tests/model tests/system tests/net \
	tests/catalogue/test_catalogue.py tests/catalogue/test_listing.py tests/catalogue/test_queue.py \
	tests/catalogue/test_reports.py tests/catalogue/test_sample.py \
	tests/imaging/test_tiff.py tests/imaging/test_svs.py tests/imaging/test_resample.py

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy --platform darwin --cache-dir .mypy_cache/darwin
	$(VENV)/bin/lint-imports --no-logo
	$(PYTEST) --quiet $(FAST) tcgamirror

# The tests' Slurm lives in a folder of its own; services of the system are left alone.
test-slurm: $(READY)
	@PATH=$$PATH:/usr/sbin; command -v slurmctld && command -v slurmd && command -v munged \
		|| $(MAKE) --no-print-directory slurm-packages
	$(PY) -m pytest tests/cli/test_slurm.py

.PHONY: slurm-packages
slurm-packages:
	@root=; [ "$$(id -u)" = 0 ] || root=sudo; \
	$$root apt-get update -qq && $$root apt-get install -qq -y --no-install-recommends \
		slurmctld slurmd slurm-client munge \
		|| { echo "install your system's Slurm (slurmctld, slurmd) and munge first"; exit 1; }

soak: $(READY)
	TCGAMIRROR_SOAK=1 TCGAMIRROR_KILLS=200 $(PYTEST) --timeout 7200

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

# The executable (see build/README.md) --------------------------------------------

# The system's Python: its library is half the size of a self-compiled one's.
BUILD_PYTHON ?= $(firstword $(wildcard /usr/bin/python3) $(PYTHON))
HOST := $(shell uname -m)
ARCH ?= $(HOST)
BUILD_VENV := .build/$(HOST)/venv
BUILD_PACKAGES := gcc libc6-dev binutils libzstd-dev python3-venv libpython3.11
PREFIX ?= /usr/local
NAME := tcgamirror$(patsubst %,-%,$(filter-out x86_64,$(ARCH)))

build dist: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 315532800)

ifeq ($(ARCH),$(HOST))
build: $(BUILD_VENV)/.ready
	$(BUILD_VENV)/bin/python build/pack.py
else
build:
	sh build/foreign.sh $(ARCH) $(BUILD_PACKAGES)
endif

.PHONY: dist
dist: $(BUILD_VENV)/.ready
	rm -rf dist
	$(MAKE) build ARCH=x86_64
	$(MAKE) build ARCH=aarch64
	$(BUILD_VENV)/bin/python build/release.py

test-binary: $(READY)
	TCGAMIRROR_BINARY=$(CURDIR)/dist/$(NAME) $(PYTEST) tests/build/test_binary.py tests/mirror/test_doctor.py \
		$$(grep -rl --include="test_*.py" "tests.support.command" tests | grep -v -e test_binary -e test_doctor)

install:
	install -D -m 755 dist/$(NAME) $(DESTDIR)$(PREFIX)/bin/tcgamirror
	install -D -m 644 dist/tcgamirror.1 $(DESTDIR)$(PREFIX)/share/man/man1/tcgamirror.1
	install -D -m 644 dist/completions/tcgamirror.bash \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/tcgamirror
	install -D -m 644 dist/completions/_tcgamirror \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_tcgamirror
	install -D -m 644 dist/completions/tcgamirror.fish \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/tcgamirror.fish

# Writes down what pip takes today, for this Python and each processor: see what changed before it
# is committed.
lock:
	$(BUILD_PYTHON) build/lock.py

$(BUILD_VENV)/.ready: build/requirements-$(HOST).lock
	@sh build/tools.sh $(BUILD_PYTHON) || $(MAKE) --no-print-directory build-packages
	rm -rf $(BUILD_VENV)
	$(BUILD_PYTHON) -m venv $(BUILD_VENV)
	$(BUILD_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --only-binary :all: --requirement build/requirements-$(HOST).lock
	@touch $@

build-packages:
	@root=; [ "$$(id -u)" = 0 ] || root=sudo; \
	$$root apt-get update -qq && $$root apt-get install -qq -y --no-install-recommends $(BUILD_PACKAGES) \
		|| { echo "install gcc, binutils, zstd's static library, and Python with its own"; exit 1; }
