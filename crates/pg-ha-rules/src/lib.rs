//! The decisions of pg-ha. Nothing here does I/O: every rule is a function from evidence to a verdict.
#![forbid(unsafe_code)]

pub mod config;
pub mod names;
