# The commands of suffice. `make run` and `make test` do everything they need by themselves.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo $$p && break; done)
PORT ?= 8080
METRICS_PORT ?=
DATA ?= .suffice
UPSTREAM ?=
ENGINE := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
# pip finds torch's CPU build by its own configuration, or in the index named here.
TORCH_INDEX ?=
TREE := build/tree
TESTS ?=
# Least percentage of branches of policies/ and ledger/ that the tests reach.
COVERAGE ?= 0

.PHONY: help run test check setup docs lock clean
.DELETE_ON_ERROR:

help: ## list the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

UP = @exec .venv/bin/suffice up --end-with-parent --port $(PORT) --data-dir $(DATA) \
	$(if $(METRICS_PORT),--metrics-port $(METRICS_PORT))

ifeq ($(UPSTREAM),)
run: setup ## start vLLM and the gateway, send one budgeted request, serve until Ctrl-C
	$(UP)
else
run: .venv/.done
	$(UP) --upstream $(UPSTREAM)
endif

test: setup ## the whole suite, real engine included; branches of policies/ and ledger/ are measured
	SUFFICE_REQUIRE_ENGINE=1 .venv/bin/coverage run -m pytest $(TESTS)
	@.venv/bin/coverage report --fail-under=$(COVERAGE) >coverage.txt || { cat coverage.txt; exit 1; }

check: .venv/.done ## lint, layers, types, docstrings
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	@# The directories are not laid out like the import names, so layers and types are checked in an installed copy.
	@rm -rf build
	@.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation --target $(TREE) .
	PYTHONPATH=$(TREE) .venv/bin/lint-imports
	MYPYPATH=$(TREE) .venv/bin/mypy -p suffice
	.venv/bin/interrogate policies server clients/python

setup: .venv/.done .venv-engine/.done ## make both environments, start nothing

docs: .venv/.done ## write the generated tables of README.md anew
	.venv/bin/python tests/docs/tables.py README.md

lock: .venv/.done ## resolve the gateway's versions anew
	.venv/bin/python -m pip install -q uv
	.venv/bin/uv pip compile -q pyproject.toml --extra server --group dev --universal --generate-hashes \
		--no-annotate --no-header --no-emit-index-url --no-emit-find-links -o deploy/locks/gateway.txt

clean: ## remove environments, data and what was built
	rm -rf .venv .venv-engine $(DATA) build

.venv/.done: deploy/locks/gateway.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "failed: Python 3.11 or newer is needed and was not found (or name it: PYTHON=...)"; exit 1; }
	@$(PYTHON) deploy/environment.py --name gateway --folder .venv --lock deploy/locks/gateway.txt --project \
		-- --require-hashes
	@touch $@

# The project goes in for its plugin; the engine's own setuptools is too old to build it.
.venv-engine/.done: deploy/locks/engine-$(ENGINE).txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "failed: Python 3.11 or newer is needed and was not found (or name it: PYTHON=...)"; exit 1; }
	@$(PYTHON) deploy/environment.py --name engine --folder .venv-engine --lock deploy/locks/engine-$(ENGINE).txt \
		--project --isolated-build \
		$(if $(filter cpu,$(ENGINE)),--missing \
			"torch's CPU build was not found; name PyTorch's index of CPU wheels: make run TORCH_INDEX=...") \
		-- $(if $(filter cpu,$(ENGINE)),--no-deps) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	@touch $@
