# Shorthands. bin/test makes its own environment, so nothing must be installed.
VENV ?= $(or $(P2P_TEST_VENV),.venv-test)
PYTHON ?= python3

FUZZ_VENV ?= .venv-fuzz
SECONDS ?= 60

.PHONY: help check quick test format bench soak swarm fuzz protos demo

help:
	@echo "make check   ruff, mypy and the tables of two pages; edits nothing"
	@echo "make quick   check, and the unit, property, contract and simulation tests"
	@echo "make test    everything that CI runs"
	@echo "make format  let ruff edit the code"
	@echo "make demo    a tracker and peers on this machine"
	@echo "make bench   all benchmarks, beside the comparators found (bench/run.py --list)"
	@echo "make swarm   one to 16 behind shaped links, beside other engines (root, iproute2)"
	@echo "make soak    the load tests, the last of them for an hour (Linux; tests/load/soak.py --help)"
	@echo "make fuzz    fuzz every parser for SECONDS=60 in all, guided by coverage if atheris installs"
	@echo "make protos  generate the code of transfer.proto and the tables of PROTOCOL.md"

check:
	$(PYTHON) bin/test --checks

quick:
	$(PYTHON) bin/test --quick

test:
	$(PYTHON) bin/test

format:
	$(PYTHON) bin/test --env
	$(VENV)/bin/python -m ruff check --fix .
	$(VENV)/bin/python -m ruff format .

demo:
	$(PYTHON) bin/demo

bench:
	$(PYTHON) bench/run.py

soak:
	$(PYTHON) tests/load/soak.py

swarm:
	$(PYTHON) bench/run.py swarm

FUZZ_PYTHON = $(FUZZ_VENV)/bin/python
FUZZ_PIP = $(FUZZ_PYTHON) -m pip install --quiet --disable-pip-version-check
GRPC = 'grpcio>=1.60.2,<2' 'grpcio-health-checking>=1.60.2,<2' 'grpcio-reflection>=1.60.2,<2'

fuzz:
	@test -x $(FUZZ_PYTHON) || $(PYTHON) -m venv $(FUZZ_VENV)
	@$(FUZZ_PYTHON) -c "import grpc_reflection, grpc_health" 2>/dev/null || $(FUZZ_PIP) $(GRPC) \
		|| { echo "grpcio cannot be installed into $(FUZZ_VENV)" >&2; exit 1; }
	@$(FUZZ_PYTHON) -c "import atheris" 2>/dev/null || $(FUZZ_PIP) --only-binary :all: atheris==3.0.0 \
		|| echo "atheris has wheels for CPython 3.11 to 3.13 on Linux only: plain mutation instead" >&2
	$(FUZZ_PYTHON) tests/fuzz/run.py --seconds $(SECONDS) $(FUZZ)

protos:
	$(PYTHON) bin/test --protos
	$(PYTHON) protos/tables.py
	@echo "the code of transfer.proto and the tables of PROTOCOL.md are current"
