SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The yr engine's scripts call `python` and want it to be 3.9: the environment's comes first.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

SOURCES = $(wildcard *.py src examples tests benchmarks tools)
PYTEST_ARGS ?=
BENCH_ARGS ?=

.PHONY: help setup demo test test-unit test-crashes test-clusters test-soak test-ranks demo-ranks demo-serve lint flags services-up services-down bench bench-scale bench-scale-ranks bench-learning bench-freshness bench-serving lock clean

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

setup: ## install what is missing: system packages, .venv, Kafka jars
	@tools/setup.sh

demo: setup ## the whole flow on sample rows: Kafka, consumer, training, loss lines
	@python examples/quickstart.py

demo-serve: setup ## rows in, a served model out: a page that shows it, and how fresh it is
	@python -m examples.live

demo-ranks: setup ## the whole flow on two ranks, by each of the two launchers
	@python examples/quickstart.py --ranks=2 --launcher=network --steps=50
	@python examples/quickstart.py --ranks=2 --launcher=mpirun --steps=50

test: setup ## all tests: the ones with real services, and the unit tests beside them
	@python -m pytest -n 3 --dist loadgroup --no-loadscope-reorder $(PYTEST_ARGS)

test-unit: setup ## the tests that need no services
	@python -m pytest -m "not integration" $(PYTEST_ARGS)

test-crashes: setup ## kill every part again and again; prints a table
	@python -m pytest -m crashes tests/integration $(PYTEST_ARGS)

test-clusters: setup ## three brokers, transactions, large checkpoints: under ten minutes
	@python -m pytest -m clusters $(PYTEST_ARGS)

test-soak: setup ## half an hour at the highest rate: memory stays flat, files stay bounded
	@python -m pytest -s -m soak tests/integration/test_soak.py $(PYTEST_ARGS)

test-ranks: setup ## many ranks, by both launchers, with faults; prints a table
	@python -m pytest -m ranks $(PYTEST_ARGS)

lint: setup ## ruff (rules and format), mypy --strict, and which room may import which
	python -m ruff check $(SOURCES)
	python -m ruff format --check $(SOURCES)
	python -m mypy --strict $(SOURCES)
	lint-imports

flags: setup ## write docs/flags.md from the parsers of the scripts
	@python -m tools.write_flags

services-up: setup ## start Kafka and the yr engine and leave them running
	@python examples/local_services.py up

services-down: ## stop what services-up started
	@if [ -x .venv/bin/python ]; then python examples/local_services.py down; fi

bench: setup ## time every stage against the documented way; fails when a target is missed
	@python -m benchmarks $(BENCH_ARGS)

bench-scale: setup ## how cost grows with windows, batches, vocabulary, partitions, dictionaries
	@python -m benchmarks.scaling.sizes $(BENCH_ARGS)

bench-scale-ranks: setup ## rows/s on one rank and on two, and what AllReduce takes of a step
	@python -m benchmarks.scaling.ranks $(BENCH_ARGS)

bench-learning: setup ## how well each way learns: upstream, documented, adaptive, Vowpal Wabbit
	@python -m benchmarks.learning $(BENCH_ARGS)

bench-freshness: setup ## how long until an answer has learnt from a row, and where the time goes
	@python -m benchmarks.freshness $(BENCH_ARGS)

bench-serving: setup ## latency of answers with and without swaps, and faults under load
	@python -m benchmarks.serving $(BENCH_ARGS)

lock: setup ## make requirements*.txt anew from requirements*.in
	@tools/lock.sh

clean: services-down ## remove everything that was made, .venv included
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
