//! The lab: real machines with systemd, PostgreSQL and keepalived on one machine, and what breaks them.

mod cgroup;
mod checker;
mod client;
mod clock;
mod command;
mod demo;
mod evidence;
mod fault;
mod fingerprint;
mod image;
mod lab;
mod machine;
mod network;
mod process;
mod programs;
mod progress;
mod ready;
mod scenario;
mod session;
mod snapshot;
mod span;
mod status;
mod topology;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::fault::Fault;
use crate::lab::Lab;
use crate::topology::{Profile, Topology};

/// Real machines to try pg-ha on
#[derive(Debug, Parser)]
#[command(name = "scripts/lab")]
enum Command {
    /// Boot the machines with a running cluster
    Up {
        #[arg(long, value_enum, default_value = "keepalived")]
        topology: Topology,
        #[arg(long, value_enum, default_value = "default")]
        profile: Profile,
    },
    /// Take everything away
    Down,
    /// Say what is up
    Status {
        #[arg(long)]
        json: bool,
    },
    /// Run a command in a machine; its output and exit code are passed on
    Exec {
        node: String,
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// Break something, or mend it
    Fault {
        #[command(subcommand)]
        fault: Fault,
    },
    /// The client that writes
    Client {
        #[command(subcommand)]
        action: Client,
    },
    /// Two failovers, told from the evidence; boots the machines and takes them away (scripts/demo)
    Demo(demo::Options),
    /// List the scenarios and what each one promises
    Scenarios,
    /// Measure the write outage after each kind of failure, as a table (scripts/bench)
    Bench {
        #[arg(long, value_enum, default_value = "default")]
        profile: Profile,
        #[arg(long, default_value_t = 3)]
        runs: usize,
    },
    /// Run a scenario, or all of them, each from a fresh boot
    Scenario {
        name: String,
        #[arg(long, value_enum, default_value = "default")]
        profile: Profile,
        /// Write what was seen to a file
        #[arg(long)]
        json: Option<std::path::PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum Client {
    /// Begin to write, in the background
    Start {
        /// A connection string; without it, through the address
        #[arg(long)]
        to: Option<String>,
    },
    /// Stop writing
    Stop,
    /// What was acknowledged, when it was not, and what is missing now
    Report {
        #[arg(long)]
        json: bool,
    },
    /// The client itself
    #[command(hide = true)]
    Run {
        #[arg(long)]
        to: Option<String>,
    },
}

fn main() -> ExitCode {
    match perform(Command::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(command: Command) -> Result<ExitCode> {
    let lab = Lab::new()?;
    let done = match command {
        Command::Demo(options) => return demo::run(&lab, options),
        Command::Up { topology, profile } => {
            let _lock = Lab::lock()?;
            lab.up(topology, profile)
        }
        Command::Down => {
            let _lock = Lab::lock()?;
            lab.down()
        }
        Command::Status { json } => status::print(&lab, json),
        Command::Exec { node, command } => match lab.find(&node)?.become_command(&command)? {},
        Command::Fault { fault } => fault.inflict(&lab),
        Command::Scenarios => {
            for scenario in scenario::all() {
                println!("{}\n    {}", scenario.name, scenario.promise);
            }
            Ok(())
        }
        Command::Scenario { name, profile, json } => {
            let _lock = Lab::lock()?;
            scenario::run(&lab, &name, profile, json.as_deref())
        }
        Command::Bench { profile, runs } => {
            let _lock = Lab::lock()?;
            scenario::bench::outages(&lab, profile, runs)
        }
        Command::Client { action } => match action {
            Client::Start { to } => client::start(&lab, to.as_deref()),
            Client::Stop => client::stop(&lab),
            Client::Run { to } => client::run(&lab, to.as_deref()),
            Client::Report { json } => {
                let report = client::report(&lab)?;
                if json {
                    println!("{}", serde_json::to_string_pretty(&report)?);
                } else {
                    println!("{report}");
                }
                Ok(())
            }
        },
    };
    done.map(|()| ExitCode::SUCCESS)
}
