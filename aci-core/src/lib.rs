//! Container groups: the document model, validation, sizing, lifecycle and the contracts between the crates.

pub mod document;
pub mod model;
