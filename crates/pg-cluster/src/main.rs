//! pg-cluster: what an operator types.

mod init;
mod status;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use pg_ha_rules::exit::Exit;
use pg_ha_system::node::{CONFIG, Node};
use pg_ha_system::{hook, logging};

/// Shows a cluster, and makes one.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// cluster.yaml
    #[arg(long, global = true, default_value = CONFIG)]
    config: PathBuf,
    /// The name of this node; the short host name otherwise
    #[arg(long, global = true, env = "PG_HA_NODE")]
    node: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show every voter: exit 0 healthy, 1 degraded, 2 no primary or more than one
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make this machine's PostgreSQL a voter; on the first node, make the cluster (role, grants, term 1).
    /// Witnesses first. May be run again.
    Init,
}

fn main() {
    let arguments = Arguments::parse();
    logging::start("pg-cluster");
    let node = Node::load(&arguments.config, arguments.node.as_deref()).unwrap_or_else(|error| {
        log::error!("{error}");
        hook::exit(Exit::Config)
    });
    match arguments.command {
        Command::Status { json } => std::process::exit(status::show(&node, json)),
        Command::Init => hook::exit(init::init(&node).unwrap_or_else(|error| {
            log::error!("{error:#}");
            Exit::Failed
        })),
    }
}
