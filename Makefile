# make app     create .venv, install what the editor needs, start it on http://127.0.0.1:7860
# make test    create .venv, install the development tools and Chromium, run ruff and the whole test suite
# make check   ruff and the unit tests: a minute or two
# make fuzz    coverage-guided fuzzing of what reads files of strangers; RUNS=1000000 for longer
# make lint    ruff, and who may import whom
# make pictures    remake the pictures of the README, with the weights as they are
# make load    many simulated visitors at once
# make lock    remake requirements*.lock, the hashes of all packages
# make clean   remove .venv and caches
#
# Variables: PORT and HOST of the editor; PYTHON (3.11 or newer) that creates .venv; CPU=1 takes PyTorch's small
# CPU wheels on Linux, where the default ones bring several gigabytes of CUDA; WORDS=1 also installs what edits in words
# need; PIP_FLAGS goes to pip as it is.

PORT ?= 7860
HOST ?= 127.0.0.1
PYTHON ?= python3
PIP_FLAGS ?=
RUNS ?= 40000
ifdef CPU
PIP_FLAGS += --extra-index-url https://download.pytorch.org/whl/cpu
endif

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
TORCH = $(PIP) $(PIP_FLAGS) "$$(grep '^torch==' requirements.txt)"
BROWSERS := chromium chromium-browser google-chrome google-chrome-stable

.PHONY: app test check fuzz lint pictures load lock clean browser
.DEFAULT_GOAL := app

app: $(VENV)/.installed $(if $(WORDS),$(VENV)/.installed-words)
	GRADIO_SERVER_NAME=$(HOST) GRADIO_SERVER_PORT=$(PORT) $(BIN)/python app.py

test: lint browser
	$(BIN)/python -m pytest

check: lint
	$(BIN)/python -m pytest tests/unit

# The same seed and number of runs find the same.
fuzz: $(VENV)/.installed-fuzz
	mkdir -p runs/fuzz
	cd runs/fuzz && PYTHONPATH=../..:../../tests ../../$(BIN)/python ../../tests/fuzz_images.py -seed=1 -runs=$(RUNS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

pictures: browser
	PYTHONPATH=. $(BIN)/python tests/pictures.py

# The page tests drive a real browser: the system's Chromium or Chrome, else Debian's package, else Playwright's own.
browser: $(VENV)/.installed-dev
	@for name in $(BROWSERS); do if command -v $$name >/dev/null; then exit 0; fi; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	else $(BIN)/python -m playwright install chromium; fi

# Versions and hashes of all packages, anew from requirements*.txt.
lock: $(VENV)/.installed-dev
	for name in requirements requirements-text requirements-dev requirements-fuzz; do $(BIN)/uv pip compile --quiet $$name.txt -o $$name.lock; done

# What may break around the page, then many visitors on this computer for about 20 minutes.
load: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/load/faults.py
	PYTHONPATH=.:tests $(BIN)/python tests/load/visitors.py --visitors 8 20 50

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is newer than the files it was installed from: pip runs only when they change.
$(VENV)/.created:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; try make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: requirements.lock requirements.txt $(VENV)/.created
	@echo "Installing what the editor needs, once. This takes some minutes."
	$(TORCH)
	$(PIP) $(PIP_FLAGS) --require-hashes -r requirements.lock
	touch $@

$(VENV)/.installed-words: requirements-text.lock $(VENV)/.installed
	$(PIP) $(PIP_FLAGS) --require-hashes -r requirements-text.lock
	touch $@

$(VENV)/.installed-fuzz: requirements-fuzz.lock $(VENV)/.installed-dev
	$(PIP) $(PIP_FLAGS) --require-hashes -r requirements-fuzz.lock
	touch $@

$(VENV)/.installed-dev: requirements-dev.lock requirements.txt $(VENV)/.created
	$(TORCH)
	$(PIP) $(PIP_FLAGS) --require-hashes -r requirements-dev.lock
	touch $@ $(VENV)/.installed
