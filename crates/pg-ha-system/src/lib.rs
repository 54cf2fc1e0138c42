//! The hands and eyes of pg-ha: everything that touches the machine or the network.

pub mod clock;
pub mod command;
pub mod conninfo;
pub mod durable;
pub mod files;
pub mod hook;
pub mod journal;
pub mod logging;
pub mod node;
pub mod observe;
pub mod passfile;
pub mod processes;
pub mod repmgr;
pub mod service;
pub mod session;
pub mod votes;
