//! The rules, one by one, in simulated time; then arbitrary lives against a simple model.

mod commands;
mod crashes;
mod probes;
mod pulls;
mod rules;
mod updates;
mod views;
mod world;
