# Shorthands; each target says what it runs. Nothing here is needed: bin/test makes its own environment.
VENV ?= $(or $(P2P_TEST_VENV),.venv-test)
PYTHON ?= python3

.PHONY: help check test format bench soak swarm protos demo

help:
	@echo "make check   ruff, mypy and the tables of two pages; edits nothing"
	@echo "make test    everything that CI runs"
	@echo "make format  let ruff edit the code"
	@echo "make demo    a tracker and peers on this machine"
	@echo "make bench   all benchmarks, beside the comparators that are here; bench/run.py --list tells more"
	@echo "make soak    loads that a tracker and a peer must survive, an hour of them mixed (Linux); bench/soak.py --help tells more"
	@echo "make swarm   one to 16 behind shaped links, beside the engines that are here (root, iproute2)"
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
	$(PYTHON) bench/soak.py

swarm:
	$(PYTHON) bench/swarm.py

protos:
	$(PYTHON) bin/test --protos
	$(PYTHON) protos/tables.py
	@echo "the code of transfer.proto and the tables of PROTOCOL.md are current"
