# make demo    see it work              make bench    CPU per request beside nginx, haproxy, Envoy
# make test    demo and tests           make fuzz     the property tests, with many more examples
# make soak    long and heavy tests: thousands of clients, signals under load, memory
# make check   format, lint, types      make corpus   the HTTP/1.1 attack corpus, where it is at hand
# make venv    just the environment     make docs     what is generated in docs/
# make lock    freeze the versions      make clean    remove what these made
# make h2spec  conformance of HTTP/2    make grpc-interop  gRPC's own suite through the proxy (both are built with Go)
# make otelcol our spans taken by OpenTelemetry's own collector (built with Go, some minutes once)
# make sctp    SCTP's tests in user-mode Linux, where the kernel has none
# make image   build it with podman     make image-test   run it as Gefyra's operator does
# make cluster a real Kubernetes, to look at: its API server (any user), a whole node (root, NODE=1)     make cluster-test   tests on it

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stamp
# Where the contracts, corpora and tools shared between projects are, if they are anywhere.
SHARED ?= ../shared
FUZZ   ?= 20
EVERY  ?= 1
BENCH  ?= --short
# What pytest is to run of them; nothing: all that is about SCTP, the matrix included, in a minute or two.
SCTP   ?=
IMAGE  ?= localhost/carrier2
SOAK   := tests/soak tests/e2e/test_udp_sessions.py tests/compliance/test_http1_bytes.py

# What Python has compiled is kept: the suite starts hundreds of processes, and each would compile the whole product anew.
unexport PYTHONDONTWRITEBYTECODE

# Of `make cluster` and `make cluster-test`: 1 for a whole node; of the latter on one: a clone of Gefyra, whose operator takes our double's place.
NODE   ?=
GEFYRA ?=

.DEFAULT_GOAL := help
.PHONY: help all demo test soak check bench fuzz corpus h2spec grpc-interop otelcol sctp docs lock image image-test cluster cluster-build cluster-test venv clean
all: check test

help:
	@sed -n 's/^# make/make/p' Makefile

venv: $(STAMP)
$(STAMP): pyproject.toml requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements-dev.lock -e '.[dev]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/carrier demo

# Three for two cores: many a test waits for a time that is over.
test: $(STAMP)
	$(BIN)/carrier demo --once
	$(BIN)/pytest -n 3 --dist worksteal --ignore tests/cluster --ignore tests/soak tests

# Long and heavy: with tests/cluster (`make cluster-test`) what `make test` leaves out, or has in a short form.
soak: $(STAMP)
	CARRIER_UDP_SECONDS=4 CARRIER_EVERY_BYTE=1 $(BIN)/pytest -n 2 --dist worksteal --timeout 180 $(SOAK)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/python docs/generate.py --check
	$(BIN)/python deploy/grafana/generate.py --check

bench: $(STAMP)
	$(BIN)/python -m benchmarks $(BENCH)

fuzz: $(STAMP)
	CARRIER_FUZZ=$(FUZZ) $(BIN)/pytest --timeout 1800 tests/fuzz

corpus: $(STAMP)
	$(BIN)/python tests/compliance/corpus.py --shared $(SHARED) --every $(EVERY)

h2spec: $(STAMP)
	$(BIN)/python -m tests.compliance.h2spec

grpc-interop: $(STAMP)
	$(BIN)/python -m tests.compliance.grpc_interop

otelcol: $(STAMP)
	$(BIN)/python -m tests.compliance.otelcol

sctp: $(STAMP)
	$(BIN)/python -m tests.soak.sctp_uml $(SCTP)

image: $(STAMP)
	PYTHON=$(BIN)/python deploy/image/build $(IMAGE)

image-test: $(STAMP)
	CONTAINERS_CONF=$${CONTAINERS_CONF:-deploy/image/containers.conf} CARRIER_IMAGE=$(IMAGE) $(BIN)/pytest --timeout 180 tests/image

cluster-build:
	deploy/cluster/build $(if $(NODE),node)

cluster: $(STAMP) cluster-build
	$(if $(NODE),unshare -n -m --propagation private) $(BIN)/python -m tests.cluster $(if $(NODE),--node)

cluster-test: $(STAMP) cluster-build
	$(if $(NODE),CARRIER_NODE=1 CARRIER_GEFYRA=$(GEFYRA) CARRIER_IMAGE=$(IMAGE) unshare -n -m --propagation private) $(BIN)/pytest \
		$(if $(NODE),-s tests/cluster/test_node.py,-n 2 --dist loadgroup tests/cluster)

docs: $(STAMP)
	$(BIN)/python docs/generate.py
	$(BIN)/python deploy/grafana/generate.py
	$(BIN)/python docs/why.py

lock: $(STAMP)
	{ head -n 1 requirements-dev.lock; $(BIN)/python -m pip freeze --exclude-editable; } > requirements-dev.new
	mv requirements-dev.new requirements-dev.lock
	$(BIN)/python deploy/runtime_lock.py > requirements.lock

clean:
	rm -rf $(VENV) build dist wheels *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis benchmarks/results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
