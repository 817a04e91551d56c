//! The front over real connections: TLS, who is let in, hostile clients, exec, load. The engine
//! runs in simulation, so that what is tested is the front.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

mod analytics;
mod doors;
mod exec;
mod hostile;
mod lab;
mod load;
mod secrets;
mod tls;
