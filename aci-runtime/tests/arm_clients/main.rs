//! The front as other people's clients see it: Azure's SDK and an OpenAPI fuzzer, over TLS.
//!
//! The Python packages come from PyPI into an environment of their own below `target/tmp`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod client;
mod fuzz;
mod sdk;
mod server;
mod swagger;
