# Two commands for a new machine: `make demo` and `make test`. Both need Python 3.11 or 3.12 and nothing else.
PY      ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
TIMM    := .venv-timm
# uv does not read pip's settings, so hand over a local wheel folder and the system's certificates.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export UV_SYSTEM_CERTS ?= 1
INSTALL  = $(BIN)/uv pip install -q --compile-bytecode --python $(1)/bin/python -c constraints.txt
MATCH   := torch==2.13.0

.PHONY: demo test test-slow test-timm lint docs constraints clean

demo: $(VENV)/.core
	$(BIN)/truecue demo --out demo-report

test: $(VENV)/.test
	$(BIN)/python -m pytest -m "not slow and not gpu and not timm" -n 2

# What takes longer: kills and continuations, several seeds, full default settings.
test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m "slow and not gpu and not timm" -n 2

# torchvision's wheels need the CUDA build of torch, so timm is tested in an environment of its own.
test-timm: $(TIMM)/.timm
	$(TIMM)/bin/python -m pytest -m timm

lint: $(VENV)/.test $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

# One lock for every extra and both Pythons. torch loses its local build tag (+cpu) so that
# the machine's own build of the same version is taken.
constraints: | $(BIN)/uv
	echo '$(MATCH)' > .pin.txt
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --all-extras \
	  --group test --group timm-test --group lint --group docs -c .pin.txt --no-header --no-annotate \
	  --no-emit-find-links --no-emit-index-url -q -o .lock.txt
	sed -e '/^torch==/d' .lock.txt > constraints.txt && echo '$(MATCH)' >> constraints.txt
	rm -f .pin.txt .lock.txt

clean:
	rm -rf $(VENV) $(TIMM) demo-report site

$(BIN)/uv:
	@$(PY) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 13) else f"truecue needs Python 3.11 or 3.12, and $(PY) is {v[0]}.{v[1]}. Name another one: make PY=python3.12")'
	$(PY) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check uv

$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/uv
	$(call INSTALL,$(VENV)) -e .
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/uv
	$(call INSTALL,$(VENV)) -e '.[app]' --group test
	@touch $@ $(VENV)/.core

$(VENV)/.lint: pyproject.toml constraints.txt | $(BIN)/uv
	$(call INSTALL,$(VENV)) --group lint
	@touch $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/uv
	$(call INSTALL,$(VENV)) -e . --group docs
	@touch $@

$(TIMM)/.timm: pyproject.toml constraints.txt | $(BIN)/uv
	$(PY) -m venv --without-pip $(TIMM)
	env -u UV_FIND_LINKS $(call INSTALL,$(TIMM)) -e '.[timm]' --group test --group timm-test
	@touch $@
