# What a person types is what CI runs. `make` alone lists the targets.

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
PORTCULLIS := $(TARGET_DIR)/release/portcullis

# The lab makes network namespaces: as somebody else than root, what needs it runs under sudo. Cargo itself never
# does, so that nothing in the target directory belongs to root.
ifneq ($(shell id -u),0)
SUDO := $(shell command -v sudo 2>/dev/null)
ifneq ($(SUDO),)
AS_ROOT := $(SUDO) -E
RUNNER := --config "target.'cfg(unix)'.runner='$(SUDO) -E'"
endif
NEED_ROOT = @if [ -n "$(SUDO)" ]; then echo "This needs root: using sudo."; \
	else echo "This needs root (network namespaces, AF_XDP), and there is no sudo: run it as root." >&2; exit 1; fi
endif

# Two warnings that say nothing: kube has its home before it is used, and libxdp-sys spells its licence the old way.
DENY := -A unused-wrapper -A parse-error

.PHONY: help setup build demo test faults soak fuzz check fmt clippy deny doc advisories lab lab-down bench bench-reach \
	bench-table bench-inline

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what is missing to build and test (apt packages; says what)
	@scripts/setup

build: setup ## build the release binary
	cargo build --release --locked -p portcullis

demo: build ## bring the lab up, enforce docs/examples in each mode, print expected against observed (root)
	$(NEED_ROOT)
	$(AS_ROOT) $(PORTCULLIS) lab demo --mode router
	$(AS_ROOT) $(PORTCULLIS) lab demo --mode inline

test: setup ## run all tests: unit, property, and the lab tests (root)
	$(NEED_ROOT)
	cargo $(RUNNER) test --workspace --locked --no-fail-fast

faults: setup ## break a running agent in every way of docs/faults.md, one line each (root)
	$(NEED_ROOT)
	@scripts/faults

soak: setup ## the faults that take longer than a minute (root)
	$(NEED_ROOT)
	@scripts/faults --soak

fuzz: ## ten million hostile frames through the parser (nightly toolchain and cargo-fuzz; about ten minutes)
	cd crates/packet/fuzz && cargo +nightly fuzz run lanes -- -runs=10000000 -max_len=256

check: fmt clippy deny doc ## formatting, lints, licences and arrows, documentation

fmt: ## formatting, without changing anything
	cargo fmt --all --check

clippy: setup ## lints, warnings denied
	cargo clippy --workspace --all-targets --locked -- -D warnings

deny: ## bans, licences and sources of all dependencies
	@scripts/setup --ci
	cargo deny --locked check $(DENY) bans licenses sources

doc: setup ## the API documentation, warnings denied
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

advisories: ## known vulnerabilities of dependencies (fetches a database: on demand, not in CI)
	@scripts/setup --ci
	cargo deny --locked check advisories

lab: build ## leave a lab running to play with; `make lab-down` removes it (root)
	$(NEED_ROOT)
	$(AS_ROOT) $(PORTCULLIS) lab up docs/examples/cluster.yaml

lab-down: build ## remove the lab (root)
	$(NEED_ROOT)
	$(AS_ROOT) $(PORTCULLIS) lab down

bench: setup ## criterion benchmarks
	cargo bench --workspace --locked

bench-reach: build ## `reach` on 1,000 pods and 1,000 policies: median of 5 runs, and the rows
	@command -v python3 >/dev/null || { echo "the generator of the cluster needs python3: apt-get install python3"; exit 3; }
	bench/reach $(PORTCULLIS)

# With huge pages, as the agent runs (docs/decisions/0011).
# A quick try, one section, or a missed target as a failure: make bench-table ARGS="--quick --only lookup,peer --strict"
bench-table: setup ## the policy table against its targets and beside rte_acl (ARGS=--quick to try)
	@scripts/setup --bench || echo "bench-table: without rte_acl; its rows will say so"
	cargo build --release --locked -p portcullis-bench --bins
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(TARGET_DIR)/release/bench-table $(ARGS)
ifeq ($(strip $(ARGS)),)
	$(TARGET_DIR)/release/bench-table-plot "$$(ls -t bench/runs/*/table.jsonl | head -n 1)" docs/table-scaling.svg
endif

# A quick try, one section, or a missed target as a failure: make bench-inline ARGS="--quick --only tcp,packets --strict"
bench-inline: setup ## inline mode beside plain forwarding, nftables and router mode; needs root (ARGS=--quick to try)
	@command -v iperf3 >/dev/null || { echo "TCP streams need iperf3: apt-get install iperf3"; exit 3; }
	cargo build --release --locked -p portcullis -p portcullis-bench --bins
	$(NEED_ROOT)
	$(AS_ROOT) $(TARGET_DIR)/release/bench-inline $(ARGS)
