//! The decisions of pg-ha. Nothing here does I/O: every rule is a function from evidence to a verdict.
#![forbid(unsafe_code)]

pub mod boot;
pub mod config;
pub mod evidence;
pub mod exit;
pub mod fence;
pub mod gate;
pub mod heartbeat;
pub mod hold;
pub mod memory;
pub mod names;
pub mod standing;
pub mod term;
