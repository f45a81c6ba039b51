# Every target sets up what it needs and says what it is doing. The two that matter: `make demo` and `make test`.

SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
LIBVIRT := $(VENV)/.libvirt
FUZZER := $(VENV)/.fuzzer
PROTOS := agent/api/agent.proto agent/api/cri.proto
SAY = @printf '\n==> %s\n'

.PHONY: help demo demo-kubevirt test check unit netns test-kernel e2e faults soak fuzz bench build image lock-image git compiler proto proto-check lock fix prepare clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

demo: $(STAMP) image ## hotnic installed on a real cluster; a pod gets an interface, uses it, loses it (KEEP=1: cluster stays)
	$(SAY) "demo: one real cluster, hotnic installed by its image and manifests, two pods, one annotation"
	@$(PY) -m e2e.demo $(if $(KEEP),--keep)

demo-kubevirt: $(STAMP) build ## a VM of the real KubeVirt gets a NIC while it runs, uses it, loses it
	$(SAY) "demo: one real cluster with KubeVirt, one VM, one annotation"
	@$(PY) -m e2e.kubevirt demo

# Two things at a time, as building and emulating use one core each: while the cluster is built the kernel's tests run,
# and beside the cluster's tests those in the emulated machine.
test: git check build $(LIBVIRT) ## everything, on the real kernel and the real cluster
	@$(PY) -m e2e.prepare debian
	@$(MAKE) --no-print-directory -j2 IN_TURN=1 netns prepare test-kernel e2e

ifdef IN_TURN
test-kernel e2e: | netns
endif

check: $(STAMP) ## format, lint, types, import contracts, unit tests: no root, under a minute
	$(SAY) "format and lint"
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	$(SAY) "types"
	@$(VENV)/bin/mypy
	@$(VENV)/bin/mypy --exclude 'e2e/(tests|reboot|multus|callers|cri|overlay|relay|vm/test_|kubevirt/test_)' e2e benchmarks image
	$(SAY) "import contracts"
	@$(VENV)/bin/lint-imports
	@$(MAKE) --no-print-directory proto-check unit

unit: $(STAMP) compiler
	$(SAY) "unit tests"
	@$(PY) -m pytest -q -n 3 -m "not netns and not lane and not guest" tests

netns: $(STAMP) $(LIBVIRT) build
	$(SAY) "tests on the kernel, in network namespaces of their own"
	@$(PY) -m pytest -q -n 2 --dist loadfile -m netns tests

test-kernel: $(STAMP) build ## the kernel's tests again, on a whole Debian kernel in an emulated machine: VLANs, SR-IOV, Open vSwitch
	$(SAY) "the emulated machine itself"
	@$(PY) -m pytest -q -m guest tests
	$(SAY) "tests on a whole kernel, in that machine"
	@$(PY) -m e2e.guest.run

e2e: $(STAMP) $(LIBVIRT) build git prepare
	$(SAY) "end-to-end tests on the real cluster"
	@$(PY) -m e2e.suite

faults: $(STAMP) $(LIBVIRT) build ## every effect of agent and controllers killed, failed, delayed: STORIES="start hotplug" MOST=100
	$(SAY) "faults: all points of all stories take an hour or so; the points and their count are printed for each"
	@$(PY) -m tests.faults $(STORIES) $(if $(MOST),--most $(MOST))

soak: $(STAMP) build prepare ## random trouble on the real cluster, seconds of it: SECONDS=600 SEED=7 KILLS=300
	$(SAY) "soak: the seed is what reproduces its plan"
	@$(PY) -m e2e.lane run -- $(abspath $(PY)) -m e2e.soak $(if $(SECONDS),--seconds $(SECONDS)) \
	  $(if $(SEED),--seed $(SEED)) $(if $(KILLS),--kills $(KILLS))

fuzz: $(FUZZER) compiler ## hostile input for every reader: 20 s each, or SECONDS=600, RUNS=100000, TARGETS="cni.wire native"
	$(SAY) "fuzzing: inputs that reach new code are kept in .fuzz, what breaks something in .fuzz/findings"
	@$(PY) -m tests.fuzz $(if $(SECONDS),--seconds $(SECONDS)) $(if $(RUNS),--runs $(RUNS)) $(TARGETS)

bench: $(STAMP) build prepare ## latencies and throughput on the real cluster
	$(SAY) "benchmarks"
	@$(PY) -m benchmarks.run
	@$(PY) -m benchmarks.cni_calls
	@$(PY) -m benchmarks.multus_calls
	@$(PY) -m benchmarks.guests
	@$(PY) -m benchmarks.relay
	@$(PY) -m benchmarks.kubevirt

build: $(STAMP) bin/hotnic bin/hotnic.py ## the CNI executable: bin/hotnic, and for any architecture bin/hotnic.py

bin/hotnic: cni/build.py $(wildcard cni/native/*) | $(STAMP) compiler
	@$(PY) -m cni.build $@

bin/hotnic.py: cni/build.py cni/forward.py cni/wire.py | $(STAMP)
	@$(PY) -m cni.build $@

image: $(STAMP) build git ## the OCI image for all roles: dist/hotnic.oci.tar, with its bill of materials and its digest
	$(SAY) "image: Debian's packages and wheels are fetched once, by their hashes"
	@$(PY) -m image

lock-image: $(STAMP) ## renew the locked packages of Debian that are in the image
	@$(PY) -m image lock

git: # says from when the image's sources are
	@command -v git >/dev/null \
	  || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends git; }

compiler: # gcc's packages bring the sanitizers of the tests; musl's library makes the executable small and quick
	@command -v gcc musl-gcc >/dev/null && test -e /usr/include/stdlib.h \
	  || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	       gcc libc6-dev musl-tools; }

proto: $(STAMP) ## regenerate agent/api from its .proto files
	@$(PY) -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. $(PROTOS)

proto-check: $(STAMP)
	$(SAY) "generated code is current"
	@new=$$(mktemp -d) && trap 'rm -rf "$$new"' EXIT \
	  && $(PY) -m grpc_tools.protoc -I. --python_out=$$new --pyi_out=$$new --grpc_python_out=$$new $(PROTOS) \
	  && for file in $$(cd $$new && find . -type f); do cmp $$new/$$file $$file || exit 1; done

$(LIBVIRT): requirements-libvirt.lock $(STAMP) # of the optional dependencies; the binding is built for this interpreter
	@command -v gcc >/dev/null && pkg-config --exists libvirt \
	  && test -e "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" \
	  || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	       gcc libc6-dev libvirt-dev pkg-config python3-dev; }
	@$(VENV)/bin/pip install -q --disable-pip-version-check --require-hashes --no-deps --no-build-isolation \
	  -r requirements-libvirt.lock
	@touch $@

$(FUZZER): requirements-fuzz.lock $(STAMP) # of the optional dependencies; clang is for the executable, which is C
	@$(VENV)/bin/pip install -q --disable-pip-version-check --require-hashes --no-deps -r requirements-fuzz.lock
	@command -v clang >/dev/null && ls /usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-*.a >/dev/null 2>&1 \
	  || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	       clang libc6-dev "libclang-rt-$$(apt-cache depends clang | sed -n 's/.*Depends: clang-\([0-9]*\)$$/\1/p')-dev"; }
	@touch $@

lock: $(LIBVIRT) ## renew the locked dependencies
	@$(VENV)/bin/pip-compile -q --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header \
	  --allow-unsafe -o requirements.lock pyproject.toml
	@$(VENV)/bin/pip-compile -q --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header \
	  --allow-unsafe --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml
	@$(VENV)/bin/pip-compile -q --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header \
	  --allow-unsafe --extra libvirt -c requirements.lock -o requirements-libvirt.lock pyproject.toml
	@$(VENV)/bin/pip-compile -q --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header \
	  --allow-unsafe --extra fuzz -c requirements.lock -o requirements-fuzz.lock pyproject.toml

fix: $(STAMP) ## format, and mend what the linter can
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

prepare: $(STAMP) # builds for long: the tests that run beside go before
	@nice $(PY) -m e2e.prepare

$(STAMP): requirements-dev.lock pyproject.toml
	$(SAY) "virtual environment with the locked dependencies"
	@python3 -m venv --clear $(VENV) 2>/dev/null \
	  || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv && python3 -m venv --clear $(VENV); }
	@$(VENV)/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(VENV)/bin/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

clean: ## what was built here (the caches of the control plane stay)
	@rm -rf $(VENV) bin dist .fuzz .mypy_cache .ruff_cache .pytest_cache
