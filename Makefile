# Every command of the project; `make` alone lists them. The virtual environment is created on first use, and updated
# when the pinned requirements change.

PORT :=
# Of `make test`: each worker has a MongoDB and a RabbitMQ of its own; one is enough for some of the tests. `make run`
# starts one process, unless WORKERS= is given to it.
WORKERS = $(if $(T),1,2)
DATA := .data
T :=
B :=
SEED :=
MINUTES := 10
UPGRADE :=
CLUSTER :=
V :=
BASE :=
S :=
PLATFORMS :=

VENV := .venv
BIN := $(VENV)/bin
PYTHON := $(BIN)/python

# The newest suitable interpreter on PATH; a name may exist and not work (shims), so each is tried.
SUITABLE := import sys; sys.exit(sys.version_info < (3, 11))
HOST_PYTHON = $(shell for name in python3.13 python3.12 python3.11 python3; do \
	if $$name -c '$(SUITABLE)' >/dev/null 2>&1; then command -v $$name; break; fi; done)
INSTALL_PYTHON := apt-get install python3 python3-venv make
PIP := -m pip install --quiet --no-input --disable-pip-version-check
INSTALL := deploy/install_packages.py
# The `tokenwire` command: points to this checkout, downloads nothing.
PIP_INSTALL_TOKENWIRE := -W ignore $(PIP) --no-index --no-deps --no-build-isolation --editable .
NEED_HOST_PYTHON = test -n "$(HOST_PYTHON)" || { echo "Python 3.11 or later is needed, on PATH as python3 or python3.11 to python3.13: $(INSTALL_PYTHON)" >&2; exit 1; }
NEED_RUN = $(PYTHON) -c 'import nacl.public, yaml' 2>/dev/null || $(PYTHON) $(INSTALL) requirements/run.txt
# What needs no broker and no running stack.
QUICK := tests/unit tests/faults/test_judge.py tests/security/test_rows.py tests/security/test_hardening_rows.py \
	$(addprefix tests/deployment/test_,compose.py rabbitmq_definitions.py makefile.py packaging.py readme.py)

CLUSTER_FILES := $() --file compose.yaml --file compose.cluster.yaml

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help run demo quick test test-compose bench faults faults-compose fuzz check contracts audit sbom release images up roll down secrets lock clean
.DELETE_ON_ERROR:

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

GIVEN_WORKERS = $(if $(filter command,$(origin WORKERS)),$(WORKERS))
run: $(VENV)/.embedded ## Start everything on http://127.0.0.1:8080 with an embedded MongoDB (PORT=9000 DATA=/some/dir to change them; WORKERS=auto: a process for each core)
	@exec $(if $(GIVEN_WORKERS),env TOKENWIRE_WORKERS="$(GIVEN_WORKERS)") $(PYTHON) -m services $(if $(PORT),--port "$(PORT)") --data "$(DATA)"

demo: $(VENV)/.embedded ## Walk through the whole flow: API, client, code, tokens, webhooks, refresh, revocation (BASE=http://… for a running stack)
	@exec $(if $(BASE),env TOKENWIRE_URL="$(BASE)") $(PYTHON) -m examples.demo

quick: $(VENV)/.test ## Run the tests that need no RabbitMQ and no running stack, in under two minutes
	@exec $(PYTHON) -m pytest -q -n 2 --dist loadfile $(QUICK)

test: $(VENV)/.test ## Run all tests against a real MongoDB and a real RabbitMQ, in about 20 minutes (T="tests/unit -k pkce" for some of them)
	@exec $(PYTHON) -m pytest $(if $(filter-out 1,$(WORKERS)),-n $(WORKERS) --dist loadfile) $(T)

test-compose: $(VENV)/.test ## Run the tests of the container stack; they need a Docker engine
	@exec $(PYTHON) -m pytest $(or $(T),tests/compose)

# Help needs no installation.
HELP := $(filter -h --help,$(B))
bench: $(if $(HELP),,$(VENV)/.test) ## Measure throughput relative to a bare handler in the same run (B=webhooks for one part; B=--help lists the parts)
	$(if $(HELP),@$(NEED_HOST_PYTHON))
	@exec $(if $(HELP),$(HOST_PYTHON) -m bench.options,$(PYTHON) -m bench) $(B)

faults: $(VENV)/.test ## Kill everything under load; fails if an event is lost or duplicated; 20 minutes (SEED=… repeats a run)
	@exec $(PYTHON) -m tests.faults --report docs/faults.md $(if $(SEED),--seed "$(SEED)")

faults-compose: $(VENV)/.test images ## Break the containers of compose.yaml under load in the same way; 15 minutes (SEED=… repeats a run)
	@docker compose build --quiet
	@exec $(PYTHON) -m tests.faults --containers --report docs/faults.md $(if $(SEED),--seed "$(SEED)")

fuzz: $(VENV)/.test ## Fuzz requests, definitions, events and responses; fails on any 5xx or unhandled exception (MINUTES=60; SEED=… repeats a run)
	@exec $(PYTHON) -m tests.fuzz --minutes "$(MINUTES)" $(if $(SEED),--seed "$(SEED)")

check: $(VENV)/.test ## Lint, types, import rules, generated contracts, private attributes of libraries, the console's templates, Kubernetes manifests
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(BIN)/lint-imports
	$(PYTHON) -m contracts.generate --check
	$(PYTHON) -m deploy.reference --check
	$(PYTHON) -m deploy.check_private_attributes
	$(PYTHON) -m djlint --lint --quiet services/console/templates
	$(PYTHON) -m deploy.check_templates
	$(PYTHON) -m deploy.check_manifests

contracts: $(VENV)/.test ## Regenerate contracts/generated/ and docs/reference/ from the code
	$(PYTHON) -m contracts.generate
	$(PYTHON) -m deploy.reference

audit: $(VENV)/.test ## List known vulnerabilities of the pinned packages (OSV); says so if OSV cannot be reached
	@exec $(PYTHON) -m deploy.audit_dependencies requirements/test.txt

sbom: $(VENV)/.test ## Write sbom.cdx.json, the bill of materials of the image (CycloneDX)
	@$(PYTHON) deploy/components.py requirements/run.txt > sbom.cdx.json || { rm -f sbom.cdx.json; exit 1; }

release: images ## Make a release in dist/: image, bill of materials, notes, checksums (docs/releases.md; PLATFORMS=linux/amd64 for one)
	@exec $(PYTHON) -m deploy.release $(if $(PLATFORMS),--platforms "$(PLATFORMS)")

images: | $(PYTHON) ## Pull the images that the container stack is made of, or build stand-ins where no registry can be reached (S=prometheus: also this one)
	@$(NEED_RUN)
	@$(PYTHON) -m deploy.images $(S)

up: images secrets ## Start the container stack: one container per service, RabbitMQ, MongoDB, the edge on :8080 (CLUSTER=1: three RabbitMQ nodes, three MongoDB members)
	docker compose$(if $(CLUSTER),$(CLUSTER_FILES)) up --build --wait
	@address=http://$$(docker compose port edge 8080) && echo "Tokenwire is at $$address; its operator key is in" \
		".secrets/bootstrap_operator_key. A first request:" && echo "  curl $$address/api/apis" \
		"-H \"Authorization: \$$(cat .secrets/bootstrap_operator_key)\""

roll: | $(PYTHON) ## Restart the container stack without a failed request, on new images where they have changed (S=token: only this)
	@exec $(if $(CLUSTER),env COMPOSE_FILE=compose.yaml:compose.cluster.yaml) $(PYTHON) -m deploy.roll $(S)

down: ## Stop the container stack; its data stays (V=1 deletes it)
	docker compose$(if $(V),$(CLUSTER_FILES)) --profile '*' down --remove-orphans$(if $(V), --volumes)

secrets: | $(PYTHON) ## Create the missing passwords and keys of the container stack in .secrets/
	@$(NEED_RUN)
	@$(PYTHON) -m deploy.make_secrets .secrets

lock: $(VENV)/.test ## Pin the versions for requirements/*.in (UPGRADE=--upgrade: the newest ones)
	$(call pin,run)
	$(call pin,embedded,-c requirements/run.txt)
	$(call pin,test,-c requirements/run.txt)

clean: ## Remove the virtual environment and all caches; data stays
	rm -rf $(VENV) .wheels build tokenwire.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

define pin
$(BIN)/uv pip compile --quiet $(UPGRADE) --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-header --no-annotate $(2) requirements/$(1).in -o requirements/$(1).txt
endef

$(PYTHON):
	@$(NEED_HOST_PYTHON)
	@$(HOST_PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "Python's venv module is missing: $(INSTALL_PYTHON)" >&2; exit 1; }
	@$(HOST_PYTHON) -m venv $(VENV)

$(VENV)/.embedded: requirements/embedded.txt requirements/run.txt | $(PYTHON)
	@echo "installing the pinned dependencies into $(VENV), once; about a minute"
	@$(PYTHON) $(INSTALL) $<
	@$(PYTHON) $(PIP_INSTALL_TOKENWIRE)
	@touch $@

$(VENV)/.test: requirements/test.txt | $(PYTHON)
	@echo "installing the pinned dependencies and the test tools into $(VENV), once; a minute or two"
	@$(PYTHON) $(INSTALL) $<
	@$(PYTHON) $(PIP_INSTALL_TOKENWIRE)
	@touch $@
