# `make demo` sees it work, `make test` runs the tests, `make bench` compares it with its rivals. Each sets up its own
# virtual environment first, once.
# Needed on the machine: make, and Python 3.11 or later with venv.

VENV ?= .venv
# The first of these that is recent enough; if none is, python3, for the message.
IS_RECENT = import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(or $(shell for each in python3 python3.14 python3.13 python3.12 python3.11; do \
    $$each -c '$(IS_RECENT)' 2>/dev/null && echo $$each && break; done),python3)
WORKERS ?= 2
# For make bench: --quick, or what else `python -m bench --help` lists; and what it needs from Debian.
BENCH ?=
BENCH_PACKAGES = nginx-light libnginx-mod-stream haproxy wrk nghttp2-client
# What is compared and is a Python program itself: its requirements may conflict with ours, so it has its own environment.
RIVALS = mitmproxy pproxy proxy.py

# The tests start hundreds of processes: without its bytecode at hand, each would compile the whole program first.
unexport PYTHONDONTWRITEBYTECODE

INSTALL = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
PYTEST = $(VENV)/bin/python -m pytest -n $(WORKERS)

.PHONY: demo test test-portable test-again test-slow bench check clean

demo: $(VENV)/.installed
	@$(VENV)/bin/koguma demo

test: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow"

# What another Python or OpenSSL may do otherwise: argparse, pickle, asyncio, ssl. CI runs it on another Debian.
test-portable: $(VENV)/.installed-dev
	$(PYTEST) tests/e2e/test_workers.py tests/tls \
	    $(addprefix tests/proxy/test_,options.py tls_accept.py tls_stream.py workers_channel.py workers_process.py)

# What failed last time, one after the other and with the machine to itself.
test-again: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest -p no:randomly --last-failed --last-failed-no-failures none

test-slow: $(VENV)/.installed-dev
	$(PYTEST) -m slow

bench: $(VENV)/.installed-bench
	@if ! command -v dpkg >/dev/null || dpkg -s $(BENCH_PACKAGES) >/dev/null 2>&1; then :; \
	elif [ "$$(id -u)" -ne 0 ]; then echo "Wanted: apt-get install $(BENCH_PACKAGES)"; \
	else export DEBIAN_FRONTEND=noninteractive; apt-get update -qq; \
	    apt-get install -y -qq --no-install-recommends $(BENCH_PACKAGES) >/dev/null || echo "not all could be installed"; fi
	$(if $(findstring --quick,$(BENCH)),,@$(MAKE) --silent $(VENV)/rivals/.installed || \
	    echo "WARNING: not all of $(RIVALS) could be installed (see above): what is missing is LEFT OUT")
	$(VENV)/bin/python -m bench $(if $(findstring --quick,$(BENCH)),,--output docs/performance) $(BENCH)

check: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

$(VENV)/bin/python:
	@$(PYTHON) -c '$(IS_RECENT)' || { echo 'Python 3.11 or later is needed: make PYTHON=/path/to/python3.11'; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(INSTALL) --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(INSTALL) --editable '.[dev]'
	touch $(VENV)/.installed $@

$(VENV)/.installed-bench: pyproject.toml | $(VENV)/bin/python
	$(INSTALL) --editable '.[bench]'
	touch $(VENV)/.installed $@

# Each by itself: one that cannot be installed keeps no other away.
$(VENV)/rivals/.installed: Makefile | $(VENV)/bin/python
	$(VENV)/bin/python -m venv $(VENV)/rivals
	failed=; for each in $(RIVALS); do \
	    $(VENV)/rivals/bin/python -m pip install --quiet --disable-pip-version-check $$each || failed=yes; \
	done; test -z "$$failed"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
