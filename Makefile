# Shorthands; each target says what it runs. Nothing here is needed: bin/test makes its own environment.
VENV ?= $(or $(P2P_TEST_VENV),.venv-test)
PYTHON ?= python3

FUZZ_VENV ?= .venv-fuzz
SECONDS ?= 60

.PHONY: help check test format bench soak swarm fuzz protos demo

help:
	@echo "make check   ruff, mypy and the tables of two pages; edits nothing"
	@echo "make test    everything that CI runs"
	@echo "make format  let ruff edit the code"
	@echo "make demo    a tracker and peers on this machine"
	@echo "make bench   all benchmarks, beside the comparators that are here; bench/run.py --list tells more"
	@echo "make soak    loads that a tracker and a peer must survive, an hour of them mixed (Linux); tests/load/soak.py --help tells more"
	@echo "make swarm   one to 16 behind shaped links, beside the engines that are here (root, iproute2)"
	@echo "make fuzz    fuzz every parser for SECONDS=60 in all, guided by coverage where atheris can be installed"
	@echo "make protos  bring the code of protos/transfer.proto and the tables of PROTOCOL.md up to date"

check:
	$(PYTHON) bin/test --checks

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

fuzz:
	@test -x $(FUZZ_VENV)/bin/python || $(PYTHON) -m venv $(FUZZ_VENV)
	@$(FUZZ_VENV)/bin/python -c "import grpc_reflection, grpc_health" 2>/dev/null \
		|| $(FUZZ_VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'grpcio>=1.60.2,<2' 'grpcio-health-checking>=1.60.2,<2' 'grpcio-reflection>=1.60.2,<2' \
		|| { echo "grpcio cannot be installed into $(FUZZ_VENV); with another environment that has it: python tests/fuzz/run.py" >&2; exit 1; }
	@$(FUZZ_VENV)/bin/python -c "import atheris" 2>/dev/null \
		|| $(FUZZ_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: atheris==3.0.0 \
		|| echo "atheris 3.0.0 cannot be installed here (it has wheels for CPython 3.11 to 3.13 on Linux): plain mutation instead" >&2
	$(FUZZ_VENV)/bin/python tests/fuzz/run.py --seconds $(SECONDS) $(FUZZ)

protos:
	$(PYTHON) bin/test --protos
	$(PYTHON) protos/tables.py
	@echo "the code of transfer.proto and the tables of PROTOCOL.md are current"
