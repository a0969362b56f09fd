# What people and the checks run. `make help` lists it. Nothing here changes anything outside this folder.
#   verify is read-only: it says what is wrong. fix mends what a program can mend.

CARGO ?= cargo
DENY_VERSION := 0.20.2
INSTALL ?= nats/install.sh
TARGET := $(or $(CARGO_TARGET_DIR),target)
BINARY ?= $(TARGET)/release/nats-ring
RUN_DIR ?= $(TARGET)/run
DEV_FLAGS ?=
# The program optimised, as the benches build it anyway.
CAMPAIGN := $(CARGO) test --release --locked --test campaign --
# Some of the campaign's nodes.
WRITER := $(CARGO) build --release --locked --example fenced_writer
HAS_BENCHES := $(wildcard benches/*.rs)

.DEFAULT_GOAL := help
.PHONY: help run test verify fix bench explore install clients previous format-check clippy docs deny bench-short faults busy faults-short sim sim-short sim-guards

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: install ## nats-ring dev: NATS and three nodes on :8081 to :8083, until Ctrl-C; flags in DEV_FLAGS
	$(CARGO) build --release --bin nats-ring
	@exec $(BINARY) dev --logs '$(RUN_DIR)' $(DEV_FLAGS)

test: install clients ## every test, real NATS servers included
	@start=$$(date +%s); \
	$(CARGO) test --locked; status=$$?; \
	echo "make test: $$(($$(date +%s) - start)) s"; exit $$status

verify: ## everything a change must pass; changes nothing
	@start=$$(date +%s); \
	for step in format-check clippy docs deny test bench-short sim-short faults-short; do \
		begin=$$(date +%s); \
		$(MAKE) --no-print-directory $$step || { echo "make verify: failed at $$step"; exit 1; }; \
		echo "make verify: $$step took $$(($$(date +%s) - begin)) s"; \
	done; \
	echo "make verify: all passed in $$(($$(date +%s) - start)) s"

fix: ## formats, and mends what clippy can mend
	$(CARGO) fmt
	$(CARGO) clippy --fix --allow-dirty --allow-staged --all-targets
	$(CARGO) fmt

explore: ## every interleaving of a small ring, to the end; EXPLORE=<scenario>, EXPLORE_LIMIT=<states>
	EXPLORE='$(or $(EXPLORE),every)' $(CARGO) test --release --locked --lib as_far_as_is_asked -- --nocapture

bench: install ## measures; the figures and how to read them are in docs/
ifeq ($(HAS_BENCHES),)
	@echo "no benches"
else
	$(CARGO) bench --benches
endif

faults: install ## breaks processes, servers and links of a ring under clients, judges what they saw; MINUTES=10 SEED=7
	$(WRITER)
	MINUTES='$(MINUTES)' SEED='$(SEED)' PLANT='$(PLANT)' $(CAMPAIGN) faults

busy: install ## a ring while other processes take the whole machine: nobody is evicted; MINUTES=5
	MINUTES='$(MINUTES)' $(CAMPAIGN) busy

sim: ## simulated rings: SEEDS=a..b a campaign, nothing to go on with the last one, SEED=n one seed with its timeline
ifdef SEED
	SIM_SEED='$(SEED)' $(CARGO) test --release --locked --test sim one_seed -- --exact --nocapture
else
	SIM_SEEDS='$(SEEDS)' $(CARGO) test --release --locked --test sim campaign -- --exact --nocapture
endif

sim-guards: ## searches, for each guard of the protocol, the seed that breaks without it; GUARDS=a,b+c for some
	SIM_GUARDS='$(or $(GUARDS),all)' $(CARGO) test --release --locked --test sim guards::search_asked -- --exact --nocapture

install: ## nats-server, and the nats command line where it can be had, into nats/.bin
	@$(INSTALL)

clients: ## the clients that the programs of docs/clients.md use, into target/clients
	@scripts/client_deps.sh

previous: ## the program of the commit before this one, into target/previous: the rolling upgrade starts from it
	@scripts/previous.sh

format-check:
	$(CARGO) fmt --check

# The campaign is no test to cargo, see Cargo.toml: it has to be named.
clippy:
	$(CARGO) clippy --all-targets --locked -- -D warnings
	$(CARGO) clippy --test campaign --locked -- -D warnings

docs:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --locked --all-features

deny:
	@$(CARGO) deny --version >/dev/null 2>&1 || \
		{ echo "cargo-deny is missing: cargo install --debug --locked cargo-deny --version $(DENY_VERSION)"; exit 1; }
	$(CARGO) deny --log-level error check bans licenses sources

# Shows that the benches run, not how fast they are: a second or two each.
bench-short: install
ifneq ($(HAS_BENCHES),)
	NATS_RING_BENCH_SHORT=1 $(CARGO) bench --benches
endif

# Real faults for three minutes, full load for one.
faults-short: install
	$(WRITER)
	MINUTES=3 SEED='$(or $(SEED),1)' $(CAMPAIGN) faults
	MINUTES=1 $(CAMPAIGN) busy

sim-short:
	SIM_SEEDS=1..1001 $(CARGO) test --release --locked --test sim campaign -- --exact --nocapture

# For .ci/run, so that the version is written down once.
.PHONY: deny-version
deny-version:
	@echo $(DENY_VERSION)
