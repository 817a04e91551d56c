//! The rules, one by one, in simulated time; then arbitrary lives against a simple model.

mod commands;
mod crashes;
mod model;
mod probes;
mod property;
mod pulls;
mod rules;
mod updates;
mod views;
mod world;
