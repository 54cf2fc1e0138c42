//! pg-promote: the gate. Whoever calls it, it decides at that moment, on evidence from a majority of the voters.

mod boot;
mod promote;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use pg_ha_rules::exit::Exit;
use pg_ha_system::clock::Deadline;
use pg_ha_system::node::{CONFIG, Node};
use pg_ha_system::{hook, logging};

/// Makes this node the primary if it may be: if a majority of the voters answers, no other holder may still be
/// alive, no candidate is better, and the loss is known and small.
///
/// Called by keepalived (`notify_master` of the election instance) and by pg-watch. Safe to run at any time, on any
/// node, twice, at once.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 this node is the primary; 2-6 usage, configuration, environment, \
    deadline, failed; 10-25 a refusal (docs/runbook.md)"
)]
struct Arguments {
    /// cluster.yaml
    #[arg(long, default_value = CONFIG)]
    config: PathBuf,
    /// The name of this node; the short host name otherwise
    #[arg(long, env = "PG_HA_NODE")]
    node: Option<String>,
    /// Decide only whether the server may start and as what (`ExecStartPre` of the PostgreSQL unit)
    #[arg(long, conflicts_with = "dry_run")]
    boot: bool,
    /// Print the gate's table with its evidence; change nothing
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: print JSON
    #[arg(long, requires = "dry_run")]
    json: bool,
    /// End by then, whatever hangs
    #[arg(long, value_parser = humantime::parse_duration, default_value = "60s")]
    deadline: Duration,
}

fn main() {
    let arguments = Arguments::parse();
    logging::start("pg-promote");
    hook::exit(run(&arguments).unwrap_or_else(|error| {
        log::error!("{error:#}");
        Exit::Failed
    }))
}

fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let node = match Node::load(&arguments.config, arguments.node.as_deref()) {
        Ok(node) if node.has_server() => node,
        Ok(node) => {
            log::error!("{} is a witness: there is nothing to promote", node.me);
            return Ok(Exit::Config);
        }
        Err(error) => {
            log::error!("{error}");
            return Ok(Exit::Config);
        }
    };
    let deadline = Deadline::after(arguments.deadline);
    hook::end_by(deadline, "pg-promote")?;
    if arguments.dry_run {
        return promote::show(&node, arguments.json);
    }
    if arguments.boot {
        return boot::boot(&node, deadline);
    }
    hook::survive_caller()?;
    promote::promote(&node, deadline)
}
