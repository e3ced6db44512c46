# The commands of suffice. `make run` and `make test` do everything they need by themselves.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo $$p && break; done)
PORT ?= 8080
DATA ?= .suffice
UPSTREAM ?=
ENGINE := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
# pip finds torch's CPU build by its own configuration, or in the index named here.
TORCH_INDEX ?=
PIP := -m pip --disable-pip-version-check install --progress-bar $(if $(CI),off,on)

.PHONY: setup run test check lock clean help
.DELETE_ON_ERROR:

help: ## list the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

setup: .venv/.done .venv-engine/.done ## make both environments, start nothing

ifeq ($(UPSTREAM),)
run: setup ## start vLLM and the gateway, send one budgeted request, serve until Ctrl-C
	@exec .venv/bin/suffice up --port $(PORT) --data-dir $(DATA)
else
run: .venv/.done
	@exec .venv/bin/suffice up --upstream $(UPSTREAM) --port $(PORT) --data-dir $(DATA)
endif

test: setup ## the whole suite, real engine included
	SUFFICE_REQUIRE_ENGINE=1 .venv/bin/python -m pytest

check: .venv/.done ## lint, types, layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports

lock: .venv/.done ## resolve the gateway's versions anew
	.venv/bin/python -m pip install -q uv
	.venv/bin/uv pip compile -q pyproject.toml --extra server --group dev --universal --generate-hashes \
		--no-annotate --no-header --no-emit-index-url --no-emit-find-links -o deploy/locks/gateway.txt

clean: ## remove environments and data
	rm -rf .venv .venv-engine $(DATA)

.venv/.done: deploy/locks/gateway.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and was not found"; exit 1; }
	@echo "== gateway environment (.venv), about a minute"
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@.venv/bin/python $(PIP) --require-hashes -r deploy/locks/gateway.txt
	@.venv/bin/python $(PIP) -q --no-deps --no-build-isolation -e .
	@touch $@

.venv-engine/.done: deploy/locks/engine-$(ENGINE).txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and was not found"; exit 1; }
	@echo "== engine environment (.venv-engine, $(ENGINE)), about two minutes"
	@test -x .venv-engine/bin/python || $(PYTHON) -m venv .venv-engine
	@.venv-engine/bin/python $(PIP) $(if $(filter cpu,$(ENGINE)),--no-deps) \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r deploy/locks/engine-$(ENGINE).txt || \
		{ echo "If torch's CPU build was not found, name PyTorch's CPU wheel index: make setup TORCH_INDEX=..."; exit 1; }
	@touch $@
