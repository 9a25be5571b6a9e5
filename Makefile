# Every task of this project. Each sets itself up in .venv, from a fresh clone too.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
# Options for JupyterLab, as in: make lab LAB_ARGS="--port 8890 --no-browser"
LAB_ARGS ?=
# Options for pytest, as in: make test PYTEST_ARGS="-k partition -x"
PYTEST_ARGS ?=
# Options for the benchmarks, as in: make bench BENCH_ARGS="--only lenet_round --repeats 9"
BENCH_ARGS ?=
# The port of the hub on this machine, as in: make hub HUB_PORT=8100
HUB_PORT ?= 8000
# Test processes at once. Two suit a two-core machine; the browser and notebook tests are heavy.
TEST_WORKERS ?= 2

# Where torch's build for the images comes from, as in: make laptop-images TORCH_INDEX=ADDRESS
TORCH_INDEX ?=
VERSION := $(shell sed -nE 's/^version = "(.*)"/\1/p' pyproject.toml)

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PEERS := $(VENV)/.peers
DEMO := build/demo
PROXY := build/hub/proxy/.tried

# Flower reports usage unless it is told not to.
export FLWR_TELEMETRY_ENABLED := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo lab hub test coverage lint bench micro-fl chaos cluster-test laptop-images laptop-secrets clean

help: ## Show this help.
	@echo "Usage: make TASK"
	@echo
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) \
		| while IFS=$$'\t' read -r task text; do printf '  %-16s%s\n' "$$task" "$$text"; done
	@echo
	@echo "The first task makes .venv and installs into it (some minutes); PYTHON=python3.12 make ..."
	@echo "chooses another Python."

$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
		echo "There is no '$(PYTHON)' here; install Python 3.11 or later, or name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "'$(PYTHON)' is $$($(PYTHON) --version), and Flautim Lab needs Python 3.11 or later; name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' cannot make virtual environments; install its venv module (on Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
	@test -x $(BIN)/python || { echo "Making $(VENV) with $$($(PYTHON) --version)."; $(PYTHON) -m venv $(VENV); }
	@echo "Installing Flautim Lab and its tools into $(VENV); the first time takes some minutes."
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

# The proxy of the hub on this machine; without it its test is skipped, and says so.
$(PROXY): $(INSTALLED) hub_config/proxy/package-lock.json
	@$(BIN)/python -m hub_local.proxy $(@D) || true
	@mkdir -p $(@D) && touch $@

# Ray alone, of all that the peers need: it is large, and nothing but the benchmarks uses it.
$(PEERS): $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	@touch $@

demo: export FLAUTIM_LAB_HOME := $(CURDIR)/$(DEMO)/home
demo: $(INSTALLED) ## Run the first notebook and leave its result and its loss plot in build/demo.
	@mkdir -p $(DEMO)
	@$(BIN)/flautim-lab run notebooks/01_first_experiment.ipynb -o $(DEMO)/01_first_experiment.ipynb
	@$(BIN)/flautim-lab plot last -o $(DEMO)/loss.png
	@$(BIN)/flautim-lab show last
	@echo
	@echo "To see the same thing live: make lab, then open 01_first_experiment.ipynb."

# JupyterLab refuses to start as root (as in a container) unless told.
lab: $(INSTALLED) ## Open JupyterLab on the notebooks (this machine only, with a token).
	@$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir=notebooks \
		$(if $(filter 0,$(shell id -u)),--allow-root) $(LAB_ARGS)

hub: export HUB_PORT := $(HUB_PORT)
hub: $(INSTALLED) ## Start a JupyterHub on this machine: two institutions, three users (HUB_PORT=8000).
	@$(BIN)/python -m hub_local.start build/hub

# One thread per process: two test workers with as many torch threads as cores fight for them.
test: export OMP_NUM_THREADS := 1
test: $(INSTALLED) $(PROXY) ## Run every test that can run here, notebooks and browser included.
	@$(BIN)/pytest -m "not chaos" --ignore=tests/benchmarks --ignore=tests/cluster -n $(TEST_WORKERS) \
		--dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# Apart from make test: counting lines makes the tests that train half as long again.
coverage: ## Run the same tests and count the lines they reach; fails below 90 %.
	@$(MAKE) test PYTEST_ARGS="--cov --cov-report=term --cov-fail-under=90 $(PYTEST_ARGS)"

lint: $(INSTALLED) ## Check style, types, layers and notebooks; changes nothing.
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/nbstripout --verify notebooks/*.ipynb || { \
		echo "A notebook holds outputs; empty it: $(BIN)/nbstripout notebooks/*.ipynb" >&2; exit 1; }

bench: $(PEERS) ## Measure speed against Flower and plain PyTorch (half an hour; BENCH_ARGS="--only imports").
	@$(BIN)/python tests/benchmarks/run.py $(BENCH_ARGS)

micro-fl: $(INSTALLED) ## Repeat Micro-FL's evaluation: healthy, server killed, worker killed (20 minutes).
	@$(BIN)/python tests/benchmarks/micro_fl.py $(BENCH_ARGS)

chaos: $(INSTALLED) ## The long tier of tests that kill things while they run.
	@$(BIN)/pytest -m chaos --ignore=tests/benchmarks --ignore=tests/cluster $(PYTEST_ARGS)

cluster-test: $(INSTALLED) ## The long tier on a Kubernetes cluster (KUBECONFIG, FLAUTIM_LAB_IMAGE).
	@$(BIN)/pytest tests/cluster $(PYTEST_ARGS)

# docker or buildah, whichever is there. TORCH_INDEX: see the head of the Dockerfile.
BUILD := $(if $(shell command -v docker),docker build,buildah build --layers)
laptop-images: ## Build the three images of a hub (docker or buildah; TORCH_INDEX=ADDRESS for torch's CPU build).
	@for image in flautim-lab:run flautim-lab-notebook:notebook flautim-lab-hub:hub; do \
		$(BUILD) --tag "$${image%:*}:$(VERSION)" --target "$${image#*:}" --build-arg "TORCH_INDEX=$(TORCH_INDEX)" .; \
	done

laptop-secrets: ## Make the passwords and tokens of a hub on a laptop, once, and print how to log in.
	@k8s/overlays/laptop/secrets.sh

clean: ## Remove what the tasks made, the environment .venv included.
	rm -rf $(VENV) build dist htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
