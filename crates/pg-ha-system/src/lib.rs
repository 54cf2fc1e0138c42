//! The hands and eyes of pg-ha: everything that touches the machine or the network.

pub mod clock;
pub mod conninfo;
pub mod passfile;
pub mod session;
