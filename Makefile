# Commands for development; `make` lists them.

PYTHON ?= python3
CLUSTER ?= local
IMAGE_OPERATOR ?=
IMAGE_TRAINER ?=
IMAGE_SERVING ?=
HUB_ENDPOINT ?=
VALUES ?=
VERSION ?=
REGISTRY ?=
RELEASE ?=
COMPONENTS ?=
FOR ?= 3.12
CUDA ?= 130
URL ?=

run_current = $(if $(filter current,$(CLUSTER)),--current \
	--image-operator '$(IMAGE_OPERATOR)' --image-trainer '$(IMAGE_TRAINER)' \
	--image-serving '$(IMAGE_SERVING)' --hub-endpoint '$(HUB_ENDPOINT)' --values '$(VALUES)')

.DEFAULT_GOAL := help
.PHONY: help run down status images venv fmt generate lock scan recording screenshots tutorial docs check test mutants \
	search e2e conformance bench gpu-bundle ftj-archive release

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

run: ## Run the demo: local cluster, operator, tuned model. CLUSTER=current uses your cluster
	@$(PYTHON) dev/cluster run $(run_current)

down: ## Stop and remove the local cluster
	@$(PYTHON) dev/cluster down

status: ## Show the processes of the local cluster
	@$(PYTHON) dev/cluster status

images: ## Build the images whose inputs changed
	@$(PYTHON) dev/cluster images

venv: ## Create .venv with the packages of operator, trainer and development
	@$(PYTHON) dev/checks venv

fmt: ## Format the code and apply the fixes of the linter
	@$(PYTHON) dev/checks fmt

generate: venv ## Write the generated files: CRD, chart README, reference pages
	@PYTHONPATH=crds .venv/bin/python -m finetune_api.crd.generate
	@PYTHONPATH=dev .venv/bin/python -m chartdocs
	@.venv/bin/python dev/dashboards
	@PYTHONPATH=crds:trainer .venv/bin/python dev/clidocs

lock: ## Write the hashes of the packages in constraints/, after a change of a version
	@$(PYTHON) dev/checks lock

scan: ## Scan the pinned packages for known vulnerabilities
	@$(PYTHON) dev/checks scan

recording: ## Record make run, and render the pictures of the README from it
	@$(PYTHON) dev/recording quickstart

screenshots: venv ## Draw the pictures of the page, from the running local cluster
	@.venv/bin/python dev/screenshots

tutorial: venv ## Run the tutorial on an empty local cluster, and write its page
	@.venv/bin/python dev/tutorial run

docs: ## Build the documentation site in build/site; fails on dead links
	@$(PYTHON) dev/checks docs

check: ## Check format, lint, types, import rules and generated files; run the unit tests
	@$(PYTHON) dev/checks check

test: ## Run all checks and tests, including the end-to-end tests on the local cluster
	@$(PYTHON) dev/checks test

mutants: venv ## Plant small faults in the pure packages; list those that no test detects
	@PYTHONPATH=operator:crds:trainer:dev .venv/bin/python dev/mutants

search: venv ## Search for histories that break a law, and run all variants of the tests; takes half an hour
	@$(PYTHON) dev/checks search

e2e: ## Run only the end-to-end tests
	@$(PYTHON) dev/checks e2e

conformance: ## Test other versions of Kubernetes, Helm and Python, Argo CD, a proxy, an upgrade, all model families and planted faults
	@$(PYTHON) dev/conformance run $(COMPONENTS)
	@$(if $(COMPONENTS),,.venv/bin/python dev/families run)
	@$(if $(COMPONENTS),,$(PYTHON) dev/checks variants)

bench: ## Run all benchmarks and write docs/reference/benchmarks.md; takes about three hours
	@$(PYTHON) dev/checks bench

gpu-bundle: ## Write build/gpu-bundle.tar.xz: the GPU benchmark for a machine without a network
	@$(PYTHON) dev/gpubundle --python $(FOR) --cuda $(CUDA)

ftj-archive: venv ## Write build/ftj: the command-line tool for this platform without Python, and its krew manifest
	@.venv/bin/python dev/ftjarchive --output build/ftj $(if $(URL),--url '$(URL)')

release: venv ## Write dist/VERSION and publish it: VERSION=0.1.0 REGISTRY=registry.example.com/team
	@PYTHONPATH=dev:crds .venv/bin/python dev/release "$$VERSION" --registry "$$REGISTRY" $(RELEASE)
