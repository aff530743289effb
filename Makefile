# Every target does its own set-up on a machine that has Python 3.11 or later, git and make.
PYTHON ?= python3
# An extra package index, for example one that has torch built for CPUs alone: make demo TORCH_INDEX=…
TORCH_INDEX ?=
BIN := .venv/bin

.PHONY: demo test lint export notebooks docs bench lab serve clean help

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1|/' | column -t -s '|'

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("seatrial needs Python 3.11 or later, and $(PYTHON) is " + sys.version.split()[0] + "; say make PYTHON=…") if sys.version_info < (3, 11) else None'
	@echo "Setting up .venv (once: a few minutes and about 2 GB on disk, more where torch brings CUDA)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e '.[dev]'
	@touch $@

.venv-clients/ready: tests/clients.txt .venv/ready
	@$(BIN)/python -m venv .venv-clients
	@.venv-clients/bin/python -m pip install --quiet --disable-pip-version-check -r tests/clients.txt
	@touch $@

demo: .venv/ready  ## sail the whole voyage once, on real data (at most 10 minutes)
	@$(BIN)/seatrial demo

test: .venv/ready .venv-clients/ready  ## everything that must hold: lint, export in sync, floors, notebooks, tests
	@$(BIN)/python tools/check.py

lint: .venv/ready  ## the static part of make test
	@$(BIN)/python tools/check.py --static

export: .venv/ready  ## notebooks -> src/seatrial, settings and report templates -> the package, index -> README.md
	@$(BIN)/python tools/export.py

notebooks: .venv/ready  ## run every notebook and store its outputs (authoring)
	@$(BIN)/nbdev-test --save --n-workers 1 --do-print && $(BIN)/nbdev-clean

docs: .venv/ready  ## build the site into _docs and check every link
	@$(BIN)/python tools/docsite.py && $(BIN)/python tools/links.py _docs

bench: .venv/ready  ## measure, side by side, what is claimed
	@$(BIN)/python -m tools.bench

lab: .venv/ready  ## JupyterLab on the notebooks
	@$(BIN)/jupyter lab --notebook-dir=nbs

serve: .venv/ready  ## serve every registered champion
	@$(BIN)/seatrial serve

clean:  ## remove what was built, keep artifacts
	@rm -rf _proc _docs build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
