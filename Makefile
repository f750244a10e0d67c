# Everything a developer types. `make` alone explains.

PYTHON ?= python3
CLUSTER ?= local
IMAGE_OPERATOR ?=
IMAGE_TRAINER ?=
IMAGE_SERVING ?=
HUB_ENDPOINT ?=
VALUES ?=

run_current = $(if $(filter current,$(CLUSTER)),--current \
	--image-operator '$(IMAGE_OPERATOR)' --image-trainer '$(IMAGE_TRAINER)' \
	--image-serving '$(IMAGE_SERVING)' --hub-endpoint '$(HUB_ENDPOINT)' --values '$(VALUES)')

.DEFAULT_GOAL := help
.PHONY: help run down status images venv fmt generate recording docs check test mutants e2e bench

help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

run: ## Local cluster, operator, and a tuned model that answers. CLUSTER=current: your cluster
	@$(PYTHON) dev/cluster run $(run_current)

down: ## Stop and remove the local cluster
	@$(PYTHON) dev/cluster down

status: ## What of the local cluster runs
	@$(PYTHON) dev/cluster status

images: ## Build the images whose inputs changed
	@$(PYTHON) dev/cluster images

venv: ## .venv with the operator's, the trainer's and the development packages
	@$(PYTHON) dev/checks venv

fmt: ## Format, and fix what the linter can
	@$(PYTHON) dev/checks fmt

generate: venv ## Write the generated files: CRD, chart README, reference pages
	@PYTHONPATH=crds .venv/bin/python -m finetune_api.crd.generate
	@PYTHONPATH=dev .venv/bin/python -m chartdocs

recording: ## Record make run, and draw the README's pictures from it
	@$(PYTHON) dev/recording quickstart

docs: ## Build the documentation site (build/site); a dead link is an error
	@$(PYTHON) dev/checks docs

check: ## Format, lint, types, import rules, generated files, unit tests
	@$(PYTHON) dev/checks check

test: ## Every check and test, the end-to-end ones on the local cluster included
	@$(PYTHON) dev/checks test

mutants: venv ## Plant small faults in the pure packages; print those that no test notices
	@PYTHONPATH=operator:crds:trainer:dev .venv/bin/python dev/mutants

e2e: ## The end-to-end tests alone
	@$(PYTHON) dev/checks e2e

bench: ## Measure everything and write docs/reference/benchmarks.md; some three hours
	@$(PYTHON) dev/checks bench
