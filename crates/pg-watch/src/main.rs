//! pg-watch: keeps this node's heartbeat on every voter, its standing true, and stops PostgreSQL when it must.

mod guard;
mod proposals;
mod stop;
mod voters;
mod watch;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use nix::sys::mman::{MlockAllFlags, mlockall};
use pg_ha_rules::exit::Exit;
use pg_ha_system::node::{CONFIG, Node};
use pg_ha_system::{hook, logging};

/// Keeps this node's heartbeat on every voter and its standing true, and stops PostgreSQL when it must.
///
/// Run by systemd (pg-watch.service), as root, on every node.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// cluster.yaml
    #[arg(long, default_value = CONFIG)]
    config: PathBuf,
    /// The name of this node; the short host name otherwise
    #[arg(long, env = "PG_HA_NODE")]
    node: Option<String>,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Stops PostgreSQL when pg-watch is gone or mute (started by pg-watch)
    #[command(hide = true)]
    Guard,
}

fn main() {
    let arguments = Arguments::parse();
    logging::start("pg-watch");
    let node = Node::load(&arguments.config, arguments.node.as_deref()).unwrap_or_else(|error| {
        log::error!("{error}");
        hook::exit(Exit::Config)
    });
    if !node.has_server() {
        log::error!("{} is a witness: its server only lends its vote, pg-watch does not run here", node.me);
        hook::exit(Exit::Config)
    }
    // A machine that swaps must not hold up the stopping of a server. Without the right it still runs.
    if let Err(error) = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE) {
        log::warn!("cannot lock the memory: {error}");
    }
    let ended = match arguments.role {
        Some(Role::Guard) => guard::keep(&node),
        None => watch::run(node, &arguments.config),
    };
    if let Err(error) = ended {
        log::error!("{error:#}");
        hook::exit(Exit::Environment);
    }
}
