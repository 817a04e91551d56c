//! Shared parts of the benches: contestants that take turns, statistics, tables, result files.
//!
//! A bench compares medians of runs that were made in turns on the same machine, and says how busy
//! the machine was. It never fails because something was slow.
#![forbid(unsafe_code)]

pub mod contest;
pub mod peers;
pub mod report;
pub mod stats;
