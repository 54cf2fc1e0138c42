//! The demo: two failovers, each told from what the machines, the client and the checker wrote down.
//!
//! Two processes: this one holds the lab's lock, and takes everything away however the other one ends; the other plays.

mod acts;
mod events;
mod journal;
mod page;
mod stage;
mod told;

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;

use crate::lab::Lab;
use crate::network;
use crate::progress::say;
use crate::topology::{CLIENT, Profile, Topology};

const TOPOLOGY: Topology = Topology::Keepalived;
/// What ends the demo early. The last one tells that the play is over.
const SIGNALS: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD];

#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    /// Leave the machines running at the end
    #[arg(long)]
    keep: bool,
    #[arg(long, value_enum, default_value = "default")]
    profile: Profile,
    /// The play itself, without the cleaning up
    #[arg(long, hide = true)]
    play: bool,
}

/// Plays it, and cleans up: at the end, after an error, and when it is interrupted.
pub(crate) fn run(lab: &Lab, options: Options) -> Result<ExitCode> {
    if options.play {
        SigSet::from_iter(SIGNALS).thread_unblock()?;
        acts::play(lab, options.profile)?;
        return Ok(ExitCode::SUCCESS);
    }
    let _lock = Lab::lock()?;
    must_be_free(lab)?;
    say("three machines, two failovers: about a minute, the first time some minutes");
    let signals = SigSet::from_iter(SIGNALS);
    signals.thread_block()?;
    // A group of its own, so that an interruption ends whatever it just runs, and not the cleaning up.
    let child = Command::new(std::env::current_exe()?)
        .args(["demo", "--play", "--profile", options.profile.word()])
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .context("failed to start the play")?;
    let (status, interrupted) = wait(&signals, child)?;
    if options.keep && !interrupted && lab.state().is_some() {
        println!("\nThe machines are left running, without the client:\n");
        for line in KEPT {
            println!("  {line}");
        }
    } else {
        lab.down()?;
    }
    Ok(if status.success() && !interrupted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How to look around.
const KEPT: &[&str] = &[
    "scripts/lab status                         who is up, who is primary, who has the address",
    "scripts/lab exec pg1 -- pg-cluster status  the same in the words of pg-ha",
    "scripts/lab exec pg1 -- bash               a shell in a machine",
    "scripts/lab fault --help                   what else can be broken",
    "scripts/lab down                           take everything away",
];

/// Whatever is there already is not the demo's to take away.
fn must_be_free(lab: &Lab) -> Result<()> {
    if lab.runtime().exists() {
        bail!("the lab is up already, or a part of it is; scripts/lab down takes it away");
    }
    let hosts: Vec<_> = TOPOLOGY.machines().iter().map(|(host, _)| *host).chain([CLIENT]).collect();
    if let Some(name) = network::taken(&hosts).first() {
        bail!("the network namespace {name} exists and this lab did not make it; `ip netns delete {name}`");
    }
    Ok(())
}

/// Waits for the play to end. True if it was ended.
fn wait(signals: &SigSet, mut child: Child) -> Result<(ExitStatus, bool)> {
    let group = Pid::from_raw(i32::try_from(child.id())?);
    let mut interrupted = false;
    loop {
        match signals.wait()? {
            Signal::SIGCHLD => {
                if let Some(status) = child.try_wait()? {
                    return Ok((status, interrupted));
                }
            }
            signal => {
                say(&format!("{signal}: cleaning up"));
                interrupted = true;
                let _ = killpg(group, Signal::SIGTERM);
            }
        }
    }
}
