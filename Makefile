# `make demo` and `make test` set themselves up in .venv: nothing but Python 3.11 or newer with pip is needed.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test

demo: $(READY)
	$(BIN)/gpt1 demo

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal

$(READY): pyproject.toml starter/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]' -e ./starter
	@touch $@
