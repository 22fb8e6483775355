# Each target sets up all that it needs in .venv; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help drill test oldest lint bench torture second-writer powercut fuzz completion docs

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

drill: $(READY) ## the main job for real: stream a recorded node, kill, restore, compare (URL=... for your own destination)
	$(BIN)/backup-cli drill $(URL)

lint: $(READY) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint ## ruff, mypy --strict and every test
	$(BIN)/pytest -n auto

oldest: $(READY) ## the tests nearest to the dependencies, with the oldest of each that setup.cfg allows
	$(PYTHON) -m venv $(VENV)/oldest
	sed -n '/^install_requires/,/^$$/s/^ *\(.*\) >= \([0-9.]*\)/\1==\2.*/p' setup.cfg > $(VENV)/oldest/requirements.txt
	$(VENV)/oldest/bin/pip install --quiet --disable-pip-version-check \
		--requirement $(VENV)/oldest/requirements.txt --editable '.[test]'
	$(VENV)/oldest/bin/pytest -n auto tests/database tests/plugin tests/cli tests/end_to_end/test_recordings.py

bench: $(READY) ## the benchmark: this plugin, a bare one, SQLite's replica, an unsynced one (DIR=... for another disk)
	$(BIN)/python -m contrib.bench --directory $(or $(DIR),/var/tmp) --json bench.json --svg docs/latency.svg

torture: $(READY) ## kill -9 at random, thousands of rounds (ROUNDS=..., SEED=...)
	$(BIN)/python -m tests.end_to_end.torture --rounds $(or $(ROUNDS),5000) $(if $(SEED),--seed $(SEED))

second-writer: $(READY) ## a second writer disturbs a stream, a thousand times (ROUNDS=..., SEED=...)
	$(BIN)/python -m tests.end_to_end.second_writer --rounds $(or $(ROUNDS),1000) $(if $(SEED),--seed $(SEED))

powercut: $(READY) ## as root: cut the power at every call (FILESYSTEMS=ext4,xfs,btrfs, RECORDING=..., EVERY=n, SEED=...)
	$(BIN)/python -m tests.powercut.campaign $(if $(FILESYSTEMS),--filesystems $(FILESYSTEMS)) \
		$(if $(RECORDING),--recording $(RECORDING)) $(if $(EVERY),--every $(EVERY)) $(if $(SEED),--seed $(SEED))

fuzz: $(READY) ## every random test with twenty times as many tries, the readers of hostile files first
	LIGHTNINGD_BACKUP_CAMPAIGN=1 $(BIN)/pytest -n auto tests/log tests/older tests/database tests/storage tests/attacks tests/end_to_end/test_histories.py

completion: $(READY) ## the completion files for zsh and fish, anew
	contrib/completion/generate "$(CURDIR)/$(BIN)/backup-cli"

docs: $(READY) ## run every command of the pages and write what they print now; read the difference afterwards
	UPDATE_DOCS=1 $(BIN)/pytest tests/docs
