//! The rules, one by one, in simulated time.

mod rules;
mod world;
