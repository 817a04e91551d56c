//! The engine that runs container groups.
