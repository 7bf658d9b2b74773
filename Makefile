# Tools come from .venv where there is one, else from the PATH.
BIN := $(if $(wildcard .venv/bin/python),.venv/bin/)

.PHONY: check format test test-all shapes demo site

# What continuous integration asks of every change.
check:
	$(BIN)ruff format --check .
	$(BIN)ruff check .
	$(BIN)mypy
	$(BIN)python -m pytest

# Mends what can be mended without thinking.
format:
	$(BIN)ruff format .
	$(BIN)ruff check --fix .

test:
	$(BIN)python -m pytest

test-all:
	$(BIN)python -m pytest -m "slow or not slow"

# Every shape in an annotation becomes a check at run time.
shapes:
	PELLUCID_CHECK_SHAPES=1 $(BIN)python -m pytest -m "not compiles and not slow" tests/nn tests/models tests/trace

# The course, guides and reference as pages in build/site; lessons are executed, links checked.
site:
	$(BIN)python docs/site

demo:
	$(BIN)pellucid demo
