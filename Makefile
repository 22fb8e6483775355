# Each target sets up all that it needs in .venv; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := contrib/set-up pip $(BIN)/pip install --quiet --disable-pip-version-check
READY := $(VENV)/.ready
READY_TO_TEST := $(VENV)/.ready-to-test
PARALLEL := -n auto --dist worksteal

# Tests start thousands of processes. Each would compile all modules anew in an environment (such as a container's) that
# forbids Python to keep what it has compiled.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help drill test oldest lint lock bench bench-places bench-stick torture second-writer members-model encrypted powercut fuzz completion man dist wheel docs

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# Nothing is run that a lock file does not name by its hash. (setuptools, which installs this project, is in the lock.)
$(READY): requirements.lock setup.cfg pyproject.toml
	@contrib/set-up python $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes --requirement requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

$(READY_TO_TEST): $(READY) requirements-test.lock
	$(PIP) --require-hashes --requirement requirements-test.lock
	touch $@

drill: $(READY) ## the main job for real: stream a recorded node, kill, restore, compare (URL=... for your own destination)
	$(BIN)/backup-cli drill $(URL)

lint: $(READY_TO_TEST) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint ## ruff, mypy --strict and every test
	$(BIN)/pytest $(PARALLEL)

# Not what takes long and is the same with any release of a package: kills and signals.
NOT_OLDEST := not killed_at_intervals and not killed_inside_random_calls and not stopped_by

oldest: $(READY_TO_TEST) ## the tests nearest to the dependencies, with the oldest of each that setup.cfg allows
	$(PYTHON) -m venv $(VENV)/oldest
	sed -n -e '/^install_requires/,/^$$/s/^ *\(.*\) >= \([0-9.]*\)/\1==\2.*/p' \
		-e '/^test =/,/^$$/s/^ *\(pytest.*\|hypothesis.*\)/\1/p' setup.cfg > $(VENV)/oldest/requirements.txt
	$(VENV)/oldest/bin/pip install --quiet --disable-pip-version-check \
		--requirement $(VENV)/oldest/requirements.txt --editable .
	$(VENV)/oldest/bin/pytest $(PARALLEL) -k '$(NOT_OLDEST)' \
		tests/sqlite tests/log/test_backup.py tests/log/test_encryption.py tests/plugin/test_main.py \
		tests/plugin/test_process.py tests/cli/test_usage.py tests/cli/test_init.py tests/cli/test_restore.py \
		tests/end_to_end/test_recordings.py

LOCK := $(VENV)/lock/bin/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --upgrade \
	--exclude-newer "$(or $(AGE),7 days)" --custom-compile-command "make lock"

lock: ## the lock files with the newest packages that are at least a week old (AGE="0 days": with what is out now)
	$(PYTHON) -m venv --clear $(VENV)/lock
	$(VENV)/lock/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-uv.lock
	sed -n 's/^requires = \["\(.*\)"\]/\1/p' pyproject.toml > $(VENV)/lock/build-system.in
	$(LOCK) setup.cfg $(VENV)/lock/build-system.in --output-file requirements.lock
	cp requirements.lock requirements.txt  # by this name reckless installs what it lists
	$(LOCK) setup.cfg --extra test --constraint requirements.lock --output-file requirements-test.lock
	for extra in s3 postgres; do \
		sed -n "/^$$extra =/,/^[a-z]* =/s/^    //p" setup.cfg | \
			$(LOCK) - --constraint requirements-test.lock --output-file requirements-$$extra.lock || exit 1; \
	done
	echo uv | $(LOCK) - --output-file requirements-uv.lock

bench: $(READY_TO_TEST) ## the benchmark: this plugin, a bare one, SQLite's replica, an unsynced one (DIR=... for another disk)
	$(BIN)/python -m contrib.bench --directory $(or $(DIR),/var/tmp) --json bench.json --svg docs/latency.svg

bench-places: $(READY_TO_TEST) ## what a commit costs at each kind of destination, as ratios to a local file (ONLY=sftp,s3, DIR=...)
	$(BIN)/python -m contrib.bench.destinations --directory $(or $(DIR),/var/tmp) $(if $(ONLY),--only $(ONLY),--svg docs/destinations.svg) --json bench-places.json

bench-stick: $(READY_TO_TEST) ## as root: commits on a slow stick beside a compaction (MEGABYTES=..., DIR=...)
	$(BIN)/python -m contrib.bench.stick --directory $(or $(DIR),/var/tmp) $(if $(MEGABYTES),--megabytes $(MEGABYTES)) --json bench-stick.json

torture: $(READY_TO_TEST) ## kill -9 at random, thousands of rounds (ROUNDS=..., SEED=..., MEMBERS=1: several members that fail, LARGE=1: a large database)
	$(BIN)/python -m tests.end_to_end.torture --rounds $(or $(ROUNDS),5000) $(if $(SEED),--seed $(SEED)) $(if $(MEMBERS),--members) $(if $(LARGE),--large)

second-writer: $(READY_TO_TEST) ## a second writer disturbs a stream, a thousand times (ROUNDS=..., SEED=...)
	$(BIN)/python -m tests.end_to_end.second_writer --rounds $(or $(ROUNDS),1000) $(if $(SEED),--seed $(SEED))

members-model: $(READY_TO_TEST) ## random histories of several destinations, with all rules and without each (HISTORIES=..., SEED=...)
	$(BIN)/python -m tests.members.model $(or $(HISTORIES),20000) $(if $(SEED),--seed $(SEED))

members: $(READY_TO_TEST) ## random histories of a backup with several members, thousands of rounds (ROUNDS=..., SEED=..., ENCRYPTED=always or later)
	$(BIN)/python -m tests.members.mirror_histories --rounds $(or $(ROUNDS),2000) $(if $(SEED),--seed $(SEED)) \
		$(if $(ENCRYPTED),--encrypted $(ENCRYPTED))

encrypted: $(READY_TO_TEST) ## the tests of log, members, destinations and running nodes, with every backup encrypted
	LIGHTNINGD_BACKUP_ENCRYPTED=1 $(BIN)/pytest $(PARALLEL) tests/log tests/destinations/test_log_conformance.py \
		tests/members/test_files.py tests/members/test_compare.py tests/members/test_repair.py \
		tests/members/test_mirror_histories.py tests/members/test_running_node.py \
		tests/end_to_end/test_recordings.py tests/end_to_end/test_set_back.py tests/end_to_end/test_compaction.py \
		tests/end_to_end/test_known_damage.py tests/end_to_end/test_torture.py

powercut: $(READY_TO_TEST) ## as root: cut the power at every call (FILESYSTEMS=ext4,xfs,btrfs, RECORDING=..., EVERY=n, SEED=...)
	$(BIN)/python -m tests.powercut.campaign $(if $(FILESYSTEMS),--filesystems $(FILESYSTEMS)) \
		$(if $(RECORDING),--recording $(RECORDING)) $(if $(EVERY),--every $(EVERY)) $(if $(SEED),--seed $(SEED))
	LIGHTNINGD_BACKUP_CAMPAIGN=1 $(BIN)/pytest -q tests/powercut/test_powercut_follow.py

fuzz: $(READY_TO_TEST) ## every random test with twenty times as many tries, the attacks and the readers of hostile files first
	LIGHTNINGD_BACKUP_CAMPAIGN=1 $(BIN)/pytest $(PARALLEL) tests/attacks tests/log tests/legacy tests/sqlite tests/storage tests/node/test_processes.py \
		tests/cli/test_usage.py tests/cli/test_stopped_at_every_step.py \
		tests/end_to_end/test_histories.py

completion: $(READY) ## the completion files for zsh and fish, anew
	contrib/completion/generate "$(CURDIR)/$(BIN)/backup-cli"

man: $(READY) ## the man pages anew, from the commands' own help
	$(BIN)/python -m contrib.man.generate

dist: $(READY) ## sdist and wheel of the last commit in dist/, the same bytes from the same commit
	$(BIN)/python -m contrib.dist

wheel: dist ## install the wheel of `make dist` into a clean environment, and run the drill from it
	$(PYTHON) -m venv --clear $(VENV)/wheel
	$(VENV)/wheel/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
		--requirement requirements.lock
	$(VENV)/wheel/bin/pip install --quiet --disable-pip-version-check --no-index --no-deps dist/*.whl
	cd / && "$(CURDIR)/$(VENV)/wheel/bin/backup-cli" drill

docs: $(READY_TO_TEST) ## run every command of the pages and write what they print now; read the difference afterwards
	UPDATE_DOCS=1 $(BIN)/pytest tests/docs
