//! What can be done to the machines, and undone.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use nix::sys::signal::Signal;

use crate::cgroup;
use crate::clock::wait_until;
use crate::lab::Lab;
use crate::machine::Machine;
use crate::network;
use crate::process::Process;
use crate::topology::{Host, Port};

/// One fault. NODE is a machine's name.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Fault {
    /// SIGKILL the postmaster, and only it
    KillPostgres { node: String },
    /// SIGSTOP every process of PostgreSQL
    StopPostgres { node: String },
    /// SIGCONT every process of PostgreSQL
    ThawPostgres { node: String },
    /// Everything in the machine dies at once and its cable is dead; the disk stays
    PowerOff { node: String },
    /// Boot a machine whose power is off
    PowerOn { node: String },
    /// The whole machine stands still, as a paused virtual machine: neither its processes nor its network answer
    Freeze { node: String },
    /// Let a frozen machine go on
    Thaw { node: String },
    /// Pull the machine's cable
    Cut {
        node: String,
        /// The carrier stays, and the frames are lost
        #[arg(long)]
        keep_carrier: bool,
    },
    /// Put the cable back, whichever way it was cut
    Heal { node: String },
    /// Two machines no longer hear each other
    CutPair { one: Port, other: Port },
    /// They hear each other again, whichever way they were cut
    HealPair { one: Port, other: Port },
    /// What FROM sends to TO is lost; the other direction works
    OneWay { from: Port, to: Port },
    /// Everything sent to the machine is late, and a part of it is lost (`slow pg1 200ms 5%`; 0ms 0% ends it)
    Slow { node: Port, delay: String, loss: String },
    /// Fill the machine's disk to the last block
    FillDisk { node: String },
    /// Delete what filled it
    FreeDisk { node: String },
    /// SIGKILL every process of keepalived
    KillKeepalived { node: String },
    /// SIGKILL pg-watch; systemd starts it again
    KillWatch {
        node: String,
        /// systemd may not start it again
        #[arg(long)]
        for_good: bool,
    },
    /// Delete /usr/bin/pg-health-check
    NoCheck { node: String },
}

impl Fault {
    /// Does it. Returns when it has happened.
    pub(crate) fn inflict(&self, lab: &Lab) -> Result<()> {
        let state = lab.must_be_up()?;
        match self {
            Self::KillPostgres { node } => kill_postmaster(&lab.find(node)?),
            Self::StopPostgres { node } => stop_postgres(&lab.find(node)?),
            Self::ThawPostgres { node } => {
                for process in lab.find(node)?.postgres() {
                    process.signal(Signal::SIGCONT);
                }
                Ok(())
            }
            Self::PowerOff { node } => power_off(&lab.find(node)?),
            Self::PowerOn { node } => {
                let host = state.topology.machines().iter().map(|(host, _)| *host).find(|host| host.name == node);
                power_on(&lab.find(node)?, host.context("no such machine")?)
            }
            Self::Freeze { node } => freeze(&lab.find(node)?),
            Self::Thaw { node } => thaw(&lab.find(node)?),
            Self::Cut { node, keep_carrier: false } => network::cut(lab.find(node)?.name),
            Self::Cut { node, keep_carrier: true } => network::silence(lab.find(node)?.name),
            Self::Heal { node } => {
                let machine = lab.find(node)?;
                network::unsilence(machine.name)?;
                network::heal(machine.name)
            }
            Self::CutPair { one, other } => {
                network::block(&one.0, &other.0)?;
                network::block(&other.0, &one.0)
            }
            Self::HealPair { one, other } => {
                network::unblock(&one.0, &other.0)?;
                network::unblock(&other.0, &one.0)
            }
            Self::OneWay { from, to } => network::block(&from.0, &to.0),
            Self::Slow { node, delay, loss } => network::slow(&node.0, delay, loss),
            Self::FillDisk { node } => fill_disk(&lab.find(node)?),
            Self::FreeDisk { node } => lab.find(node)?.must(&["rm", "-f", FILLER]).map(drop),
            Self::KillKeepalived { node } => kill_named(&lab.find(node)?, "keepalived"),
            Self::KillWatch { node, for_good } => {
                let machine = lab.find(node)?;
                if *for_good {
                    // Masked before it dies, or systemd could be quicker.
                    machine.must(&["systemctl", "mask", "--runtime", "--quiet", "pg-watch.service"])?;
                }
                kill_watch(&machine)
            }
            Self::NoCheck { node } => lab.find(node)?.must(&["rm", "/usr/bin/pg-health-check"]).map(drop),
        }
    }
}

const FILLER: &str = "/var/lib/filler";

fn kill_postmaster(machine: &Machine) -> Result<()> {
    let postmaster = machine.postmaster().with_context(|| format!("no PostgreSQL runs on {}", machine.name))?;
    postmaster.signal(Signal::SIGKILL);
    gone(machine, &[postmaster])
}

/// New processes may appear while the old ones are being stopped: the postmaster first, then look again.
fn stop_postgres(machine: &Machine) -> Result<()> {
    let postmaster = machine.postmaster().with_context(|| format!("no PostgreSQL runs on {}", machine.name))?;
    postmaster.signal(Signal::SIGSTOP);
    let stopped = wait_until(Duration::from_secs(5), Duration::from_millis(1), || {
        let going: Vec<_> = machine.postgres().into_iter().filter(|process| !process.is_stopped()).collect();
        for process in &going {
            process.signal(Signal::SIGSTOP);
        }
        going.is_empty()
    });
    if !stopped {
        bail!("some processes of PostgreSQL on {} do not stop", machine.name);
    }
    Ok(())
}

/// The cable first: a machine without power sends no goodbye, but a kernel closes its dead processes' connections.
fn power_off(machine: &Machine) -> Result<()> {
    if machine.supervisor().is_none() {
        bail!("{} is off already", machine.name);
    }
    network::cut(machine.name)?;
    machine.kill()?;
    network::unplug(machine.name);
    cgroup::remove(machine.name);
    Ok(())
}

fn power_on(machine: &Machine, host: Host) -> Result<()> {
    if machine.supervisor().is_some() {
        bail!("{} is on already", machine.name);
    }
    cgroup::remove(machine.name);
    // It may have been shut down by itself, with its cable still there.
    network::unplug(machine.name);
    network::plug(host)?;
    machine.boot()
}

/// The network first: the kernel would go on answering for the sleeping processes.
fn freeze(machine: &Machine) -> Result<()> {
    network::silence(machine.name)?;
    cgroup::set_frozen(machine.name, true)
}

fn thaw(machine: &Machine) -> Result<()> {
    network::unsilence(machine.name)?;
    cgroup::set_frozen(machine.name, false)
}

fn fill_disk(machine: &Machine) -> Result<()> {
    // What fallocate cannot get in one piece, dd gets block by block; both end with an error when it is full.
    let script = format!(
        "fallocate -l $(($(stat -f -c '%a * %S' /) - 8388608)) {FILLER} 2>/dev/null; \
         dd if=/dev/zero bs=4096 >> {FILLER} 2>/dev/null; true"
    );
    machine.must(&["sh", "-c", &script]).map(drop)
}

fn kill_named(machine: &Machine, name: &str) -> Result<()> {
    let all = machine.leader().map(Process::neighbours).unwrap_or_default();
    let found: Vec<_> = all.into_iter().filter(|process| process.name() == name).collect();
    if found.is_empty() {
        bail!("no {name} runs on {}", machine.name);
    }
    for process in &found {
        process.signal(Signal::SIGKILL);
    }
    gone(machine, &found)
}

/// Only the main process: its guard is there to notice.
fn kill_watch(machine: &Machine) -> Result<()> {
    let pid = machine.must(&["systemctl", "show", "--property=MainPID", "--value", "pg-watch.service"])?;
    if pid == "0" {
        bail!("no pg-watch runs on {}", machine.name);
    }
    machine.must(&["kill", "-KILL", &pid]).map(drop)
}

fn gone(machine: &Machine, processes: &[Process]) -> Result<()> {
    let limit = Duration::from_secs(5);
    if !wait_until(limit, Duration::from_millis(1), || processes.iter().all(|process| !process.lives())) {
        bail!("what was killed on {} still runs", machine.name);
    }
    Ok(())
}
