# Symbolon. `make help` lists what there is.
#
# Every cargo call says --release --locked --workspace: one profile, one set of flags and features, so that RocksDB is built once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# rustup puts cargo here, and not every shell knows.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
# The flags stand in .cargo/config.toml and nowhere else, the programs land in target/release.
unexport RUSTFLAGS RUSTDOCFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_ENCODED_RUSTDOCFLAGS CARGO_BUILD_RUSTFLAGS
unexport CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR CARGO_BUILD_BUILD_DIR CARGO_BUILD_TARGET

CARGO_BUILD := cargo build --release --locked --workspace
BIN := target/release

PREFIX ?= /usr/local
DESTDIR ?=
bindir := $(PREFIX)/bin
mandir := $(PREFIX)/share/man/man1
unitdir := $(PREFIX)/lib/systemd/system
sysusersdir := $(PREFIX)/lib/sysusers.d
# Completions are looked for here whatever the prefix.
bashdir := $(PREFIX)/share/bash-completion/completions
zshdir := $(PREFIX)/share/zsh/site-functions
fishdir := $(PREFIX)/share/fish/vendor_completions.d

MINUTES ?= 60

.PHONY: help demo build test ci soak lint bench install uninstall doc clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: ## the main job on real input: five nodes, a 3-of-5 key, real signatures, nodes that die and come back
	@scripts/demo.sh --plan
	@scripts/setup.sh
	@$(CARGO_BUILD)
	@scripts/demo.sh

build: ## the programs, into target/release
	@scripts/setup.sh
	@$(CARGO_BUILD)

test: ## every test of the workspace; TESTS="..." is handed to the test runner, e.g. TESTS="--test story"
	@scripts/test.sh $(TESTS)

ci: ## what continuous integration runs
	@.ci/run

soak: ## level A of the simulation from a seed that nobody ran; MINUTES=60
	@scripts/setup.sh
	@$(CARGO_BUILD)
	@$(BIN)/sim --minutes $(MINUTES)

lint: ## formatting and clippy
	@scripts/setup.sh
	@cargo fmt --all --check
	@cargo clippy --release --locked --workspace --all-targets -- -D warnings

bench: ## figures of this machine, from a cluster on loopback
	@scripts/setup.sh
	@$(CARGO_BUILD)
	@scripts/bench.sh

doc: ## the documentation of the crates, into target/doc
	@scripts/setup.sh
	@cargo doc --release --locked --workspace --no-deps
	@echo "open target/doc/symbolon_client/index.html"

install: ## programs, man pages, completions and the systemd unit, under PREFIX (/usr/local); build first
	@for program in symbolond symbolon; do \
	  [[ -x $(BIN)/$$program ]] || { echo "$(BIN)/$$program is not there: run \`make build\` first, as the user who builds"; exit 1; }; \
	done
	@install -d "$(DESTDIR)$(bindir)" "$(DESTDIR)$(mandir)" "$(DESTDIR)$(unitdir)" "$(DESTDIR)$(sysusersdir)" \
	  "$(DESTDIR)$(bashdir)" "$(DESTDIR)$(zshdir)" "$(DESTDIR)$(fishdir)"
	@install -m 755 $(BIN)/symbolond $(BIN)/symbolon "$(DESTDIR)$(bindir)"
	@made=$$(mktemp -d); trap 'rm -rf "$$made"' EXIT; \
	  $(BIN)/symbolon man --dir "$$made/man1" -o json; \
	  $(BIN)/symbolon completions bash >"$$made/symbolon"; \
	  $(BIN)/symbolon completions zsh >"$$made/_symbolon"; \
	  $(BIN)/symbolon completions fish >"$$made/symbolon.fish"; \
	  sed 's|/usr/local/bin|$(bindir)|g' deploy/symbolond.service >"$$made/symbolond.service"; \
	  install -m 644 "$$made"/man1/*.1 "$(DESTDIR)$(mandir)"; \
	  install -m 644 "$$made/symbolon" "$(DESTDIR)$(bashdir)"; \
	  install -m 644 "$$made/_symbolon" "$(DESTDIR)$(zshdir)"; \
	  install -m 644 "$$made/symbolon.fish" "$(DESTDIR)$(fishdir)"; \
	  install -m 644 "$$made/symbolond.service" "$(DESTDIR)$(unitdir)"
	@install -m 644 deploy/symbolon.sysusers.conf "$(DESTDIR)$(sysusersdir)/symbolon.conf"
	@echo "installed under $(DESTDIR)$(PREFIX). For a node, as root:"
	@echo "  systemd-sysusers $(sysusersdir)/symbolon.conf     the user symbolon (or: useradd --system --shell /usr/sbin/nologin symbolon)"
	@echo "  systemctl daemon-reload"
	@echo "then docs/operating.md: symbolond init, genesis, and systemctl enable --now symbolond"

uninstall: ## what install put there; a node's data and the user stay
	@rm -f "$(DESTDIR)$(bindir)/symbolond" "$(DESTDIR)$(bindir)/symbolon" \
	  "$(DESTDIR)$(mandir)/symbolon.1" "$(DESTDIR)$(mandir)"/symbolon-*.1 \
	  "$(DESTDIR)$(bashdir)/symbolon" "$(DESTDIR)$(zshdir)/_symbolon" "$(DESTDIR)$(fishdir)/symbolon.fish" \
	  "$(DESTDIR)$(unitdir)/symbolond.service" "$(DESTDIR)$(sysusersdir)/symbolon.conf"
	@echo "removed from $(DESTDIR)$(PREFIX); the data of a node (/var/lib/symbolon) and the user symbolon are left alone"

clean: ## what was built of this checkout; RocksDB and the other dependencies stay in cargo's cache
	@rm -rf target
	@echo "removed target/. The shared build directory stays; \`cargo clean\` removes it too, and RocksDB then takes a quarter of an hour again"
