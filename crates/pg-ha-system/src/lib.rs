//! The hands and eyes of pg-ha: everything that touches the machine or the network.

pub mod conninfo;
pub mod session;
