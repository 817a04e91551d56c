# One command a purpose; `make test` is what a fresh machine needs.

.PHONY: test lint doc deny packages tools bench fuzz-arm cli-arm

# Installs what the tests need (Debian packages by name) and runs all of them.
test: packages tools
	@bash .ci/test

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	cargo clippy -p aci-core --no-default-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --all-features

# Licences, bans and sources; advisories too where their database can be fetched.
deny:
	@bash .ci/deny

packages:
	@bash .ci/packages

tools:
	@command -v cargo-nextest >/dev/null || cargo install --locked cargo-nextest

bench:
	cargo bench -p aci-benches

# 10,000 requests of an OpenAPI fuzzer; `make test` tries some hundred.
fuzz-arm:
	ACI_FUZZ_EXAMPLES=600 cargo test -p aci-runtime --features arm-server --test arm_clients -- --nocapture fuzz

# The Azure CLI (700 MB from PyPI) and the programs of its page against the example server.
cli-arm: packages
	cargo build -p aci-examples --example arm_server
	cargo test -p aci-examples --test arm_server -- --ignored --nocapture
