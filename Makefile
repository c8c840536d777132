# Every command a person types. `make` alone lists them.
# The virtual environment is made on first use, and again installed into when the pinned requirements change.

PORT := 8080
DATA := .data
T :=
B :=
SEED :=
MINUTES := 10
UPGRADE :=

VENV := .venv
BIN := $(VENV)/bin
PYTHON := $(BIN)/python

# The newest suitable interpreter on PATH; a name may exist and not work (shims), so each is tried.
SUITABLE := import sys; sys.exit(sys.version_info < (3, 11))
HOST_PYTHON = $(shell for name in python3.13 python3.12 python3.11 python3; do \
	if $$name -c '$(SUITABLE)' >/dev/null 2>&1; then command -v $$name; break; fi; done)
INSTALL_PYTHON := apt-get install python3 python3-venv make
PIP_INSTALL := -m pip install --quiet --no-input --disable-pip-version-check --require-hashes

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help run demo test bench faults fuzz check contracts audit sbom up down secrets lock clean
.DELETE_ON_ERROR:

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.embedded ## Start everything on http://127.0.0.1:8080 with an embedded MongoDB (PORT=9000 DATA=/some/dir move it)
	@exec $(PYTHON) -m services --port "$(PORT)" --data "$(DATA)"

demo: $(VENV)/.embedded ## Walk through the whole story: API, client, code, tokens, webhooks, refresh, revocation
	@exec $(PYTHON) -m examples.demo

test: $(VENV)/.test ## Prove it all against a real MongoDB and a real RabbitMQ (T="tests/unit -k pkce" for some of it)
	@exec $(PYTHON) -m pytest $(T)

bench: $(VENV)/.test ## Measure against a bare handler in the same run (B=webhooks for some of it; B=--help lists what there is)
	@exec $(PYTHON) -m bench $(B)

faults: $(VENV)/.test ## Kill everything under load and see that nothing is lost or doubled; 20 minutes (SEED=… as it was then)
	@exec $(PYTHON) -m tests.faults --report docs/faults.md $(if $(SEED),--seed "$(SEED)")

fuzz: $(VENV)/.test ## Make up requests, definitions, events, answers, and see that none surprises (MINUTES=60, or SEED=… as then)
	@exec $(PYTHON) -m tests.fuzz --minutes "$(MINUTES)" $(if $(SEED),--seed "$(SEED)")

check: $(VENV)/.test ## Lint, types, import rules, drift of the generated contracts
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(BIN)/lint-imports
	$(PYTHON) -m contracts.generate --check

contracts: $(VENV)/.test ## Write contracts/generated/ anew from the models
	$(PYTHON) -m contracts.generate

audit: $(VENV)/.test ## Ask a database of vulnerabilities about every pinned package; says so where it cannot be reached
	@exec $(PYTHON) -m deploy.audit_dependencies requirements/test.txt

sbom: $(VENV)/.test ## Write sbom.cdx.json: what the image is made of (CycloneDX), as its build writes it into it
	@$(PYTHON) deploy/components.py requirements/run.txt > sbom.cdx.json || { rm -f sbom.cdx.json; exit 1; }

up: secrets ## Start the full stack in containers: one a service, RabbitMQ, MongoDB, the edge on :8080
	docker compose up --build --wait

down: ## Stop the stack of containers; its data stays
	docker compose down

secrets: | $(PYTHON) ## Make the passwords and keys of the containers in .secrets/, those that are missing
	@$(PYTHON) -c 'import nacl.public' 2>/dev/null || $(PYTHON) $(PIP_INSTALL) -r requirements/run.txt
	@$(PYTHON) -m deploy.make_secrets .secrets

lock: $(VENV)/.test ## Pin what requirements/*.in ask for (UPGRADE=--upgrade: the newest versions they allow)
	$(call pin,run)
	$(call pin,embedded,-c requirements/run.txt)
	$(call pin,test,-c requirements/run.txt)

clean: ## Remove the virtual environment and every cache; data stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

define pin
$(BIN)/uv pip compile --quiet $(UPGRADE) --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-header --no-annotate $(2) requirements/$(1).in -o requirements/$(1).txt
endef

$(PYTHON):
	@test -n "$(HOST_PYTHON)" || { echo "Python 3.11 or later is needed: $(INSTALL_PYTHON)" >&2; exit 1; }
	@$(HOST_PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "Python's venv module is missing: $(INSTALL_PYTHON)" >&2; exit 1; }
	@$(HOST_PYTHON) -m venv $(VENV)

$(VENV)/.embedded: requirements/embedded.txt requirements/run.txt | $(PYTHON)
	@echo "installing the pinned dependencies into $(VENV)"
	@$(PYTHON) $(PIP_INSTALL) -r $<
	@touch $@

$(VENV)/.test: requirements/test.txt | $(PYTHON)
	@echo "installing the pinned dependencies and the test tools into $(VENV)"
	@$(PYTHON) $(PIP_INSTALL) -r $<
	@touch $@
