//! Control groups of both kinds, and of both at once (hybrid).
//!
//! These sources are compiled into the host library (detection, removal of what is left) and into
//! the agent (creation, statistics). Every sandbox has the directory `<parent>/<sandbox>` in each
//! hierarchy, every container one below it. Agents sit outside of their sandbox's limits, in
//! `<parent>/_agents`.
//!
//! `tree` is the boundary; behind it are `files`, the default, and `by_crate` with the feature
//! `cgroups-rs`.

#[cfg(feature = "cgroups-rs")]
mod by_crate;
mod files;
pub(crate) mod layout;
pub(crate) mod meter;
pub(crate) mod translate;
pub(crate) mod tree;

#[cfg(test)]
mod tests;
