# `make help` lists what there is. Every target sets up what it needs first, which is quick the second time.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check docs site clean kernel-wheel proof proof-roots proof-vm bench soak fuzz

VENV ?= .venv
export VENV
python := $(VENV)/bin/python
testbed := $(VENV)/bin/testbed
mkdocs := NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs
JOBS ?= auto
SIDE_BY_SIDE := -n $(JOBS) --maxprocesses=4 --dist=loadfile --no-loadscope-reorder
QUICK := tests/unit tests/integration tests/browser
GUEST := tests/guest tests/end_to_end
ORDINARY := not proof and not soak and not alone

help:  ## list all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## install what is missing: Debian packages, .venv (or VENV), the guest kernel
	@scripts/setup

demo: setup  ## time collectives between ten workers in five datacenters
	@$(testbed) run microsoft-openai-five collectives --set workload.sizes='{from: 4 KiB, to: 1 MiB}'

test: setup  ## run the tests, one file on each CPU (JOBS=auto)
	@status=0; \
	  $(python) -m pytest $(QUICK) -m '$(ORDINARY)' $(SIDE_BY_SIDE) --cov --cov-report=term || status=1; \
	  $(python) -m pytest $(GUEST) -m '$(ORDINARY)' $(SIDE_BY_SIDE) || status=1; \
	  $(python) -m pytest $(QUICK) $(GUEST) -m alone || status=1; \
	  exit $$status

check: setup  ## lint, formatting, types, import layers, files in .github, links of the documentation
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*.yml
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(mkdocs) build --strict --site-dir "$$folder"

docs: setup  ## regenerate JSON schemas and the references of topology files, options and commands from the models
	@$(testbed) topo schema > topologies/schema.json
	@$(testbed) topo reference > docs/topology-reference.md
	@$(testbed) reference > docs/run-options.md
	@$(python) scripts/commands_page.py > docs/commands.md
	@for file in plan summary status; do $(testbed) schema $$file > docs/schemas/$$file.json; done

site: setup  ## build the documentation into site/ (open site/index.html)
	@$(mkdocs) build --strict

clean:  ## remove .venv (or VENV) and the caches of tools; keep results and the guest kernel
	@rm -rf "$(VENV)" build dist site .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	  .import_linter_cache *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

lock:  ## choose the newest Python packages that pyproject.toml allows, and pin them in requirements.lock
	@scripts/setup --lock

kernel-wheel: setup  ## make a wheel of the guest kernel, in dist/
	@$(python) scripts/kernel_wheel.py

proof: setup  ## reproduce published measurements (takes minutes)
	@$(python) -m pytest -m proof -s --ignore=tests/proof/test_roots.py --ignore-glob='tests/proof/test_vm_*.py'

proof-roots: setup  ## set up the testbed on fresh systems (as root; mmdebstrap, 2 GB of downloads for each release)
	@$(python) -m pytest -m proof -s tests/proof/test_roots.py

proof-vm: setup  ## check docs/vm.md with the real Vagrant: over SSH, then in a VM of libvirt (as root; 40 minutes without KVM)
	@$(python) -m pytest -m proof -s tests/proof/test_vm_session.py tests/proof/test_vm_libvirt.py

bench: setup  ## time each stage of the testbed
	@$(python) scripts/bench.py

soak: setup  ## start and end random runs and sweeps for an hour, and count leftovers (MINUTES=60)
	@$(python) -m pytest -m soak
	@$(python) scripts/soak.py --minutes $(or $(MINUTES),60) $(if $(SEED),--seed $(SEED))

fuzz: setup  ## an hour of damaged files that commands read (MINUTES=60)
	@$(python) scripts/fuzz.py --minutes $(or $(MINUTES),60) $(if $(SEED),--seed $(SEED))
