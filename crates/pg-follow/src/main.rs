//! pg-follow: make this node a standby of the term's holder, whatever state it is in.

mod data;
mod follow;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use pg_ha_rules::exit::Exit;
use pg_ha_system::clock::Deadline;
use pg_ha_system::node::{CONFIG, Node};
use pg_ha_system::{hook, logging};

/// Makes this node a standby of the primary: by re-pointing it, else by `pg_rewind`, else by a new clone.
///
/// A data directory that was replaced is kept beside the new one. An empty data directory is cloned into.
/// Killed at any point, the next run finishes; until then no server starts there.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// cluster.yaml
    #[arg(long, default_value = CONFIG)]
    config: PathBuf,
    /// The name of this node; the short host name otherwise
    #[arg(long, env = "PG_HA_NODE")]
    node: Option<String>,
    /// Do nothing, and say nothing, when this node follows already (pg-watch calls it so)
    #[arg(long)]
    if_needed: bool,
    /// Say what would be done; change nothing
    #[arg(long)]
    dry_run: bool,
    /// End by then, whatever hangs; a clone takes as long as the data is large
    #[arg(long, value_parser = humantime::parse_duration, default_value = "12h")]
    deadline: Duration,
}

fn main() {
    let arguments = Arguments::parse();
    logging::start("pg-follow");
    let node = Node::load(&arguments.config, arguments.node.as_deref()).unwrap_or_else(|error| {
        log::error!("{error}");
        hook::exit(Exit::Config)
    });
    if !node.has_server() {
        log::error!("{} is a witness: it follows nobody", node.me);
        hook::exit(Exit::Config)
    }
    let deadline = Deadline::after(arguments.deadline);
    let done = hook::end_by(deadline, "pg-follow")
        .and_then(|()| hook::survive_caller())
        .map_err(anyhow::Error::from)
        .and_then(|()| follow::follow(&node, arguments.if_needed, arguments.dry_run, deadline));
    hook::exit(done.unwrap_or_else(|error| {
        log::error!("{error:#}");
        Exit::Failed
    }))
}
