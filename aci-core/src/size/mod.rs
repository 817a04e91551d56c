//! How big: exact sizes of containers and groups, and what they mean to a kernel.

mod limits;

pub use limits::Limits;
