# `make help` lists what there is. Every target sets up what it needs first, which is quick the second time.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check docs proof bench soak

python := .venv/bin/python
testbed := .venv/bin/testbed

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## install what is missing: Debian packages, .venv, the guest kernel
	@scripts/setup

demo: setup  ## time collectives between ten workers in five datacenters
	@$(testbed) run microsoft-openai-five collectives

test: setup  ## run the tests
	@$(python) -m pytest

check: setup  ## lint, formatting, types, import layers
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo

docs: setup  ## write anew what is made from the models: the schema and the reference of topology files
	@$(testbed) topo schema > topologies/schema.json
	@$(testbed) topo reference > docs/topology-reference.md

proof: setup  ## reproduce published measurements (takes minutes)
	@$(python) -m pytest -m proof -s

bench: setup  ## time what the testbed itself takes, stage by stage
	@$(python) scripts/bench.py

soak: setup  ## an hour of random runs with random ends, counting what is left (MINUTES=60)
	@$(python) -m pytest -m soak
	@$(python) scripts/soak.py --minutes $(or $(MINUTES),60)
