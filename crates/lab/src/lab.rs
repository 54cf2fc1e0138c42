//! The lab as a whole: where it keeps things, one at a time, up and down.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::progress::{Step, say};
use crate::topology::{CLIENT, Host, Profile, Topology};
use crate::{cgroup, client, image, network, snapshot};

/// What an `up` made, for the `down` that takes it away.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) topology: Topology,
    pub(crate) profile: Profile,
    /// Whether `ip netns` had been used on this machine before.
    namespaces_directory_was_there: bool,
}

/// The lab's places.
#[derive(Debug, Clone)]
pub(crate) struct Lab {
    /// What outlives the machines: the image and the snapshot.
    pub(crate) cache: PathBuf,
    /// The source it tries.
    pub(crate) repository: PathBuf,
}

impl Lab {
    pub(crate) fn new() -> Result<Self> {
        if !geteuid().is_root() {
            bail!("the lab boots machines; run it as root");
        }
        let cache = std::env::var_os("PG_HA_LAB_DIR").map_or_else(|| "/var/cache/pg-ha-lab".into(), PathBuf::from);
        fs::create_dir_all(&cache).with_context(|| format!("failed to make {}", cache.display()))?;
        let repository = std::env::var_os("PG_HA_REPOSITORY")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."), PathBuf::from);
        let repository = repository.canonicalize().with_context(|| format!("no source at {}", repository.display()))?;
        Ok(Self { cache: cache.canonicalize()?, repository })
    }

    /// What belongs to the machines that are up.
    pub(crate) fn runtime(&self) -> PathBuf {
        self.cache.join("run")
    }

    /// Keeps every other lab command out until it is dropped, wherever that one keeps its files: the names of network
    /// namespaces and control groups are the same for all. An abstract socket leaves nothing behind.
    pub(crate) fn lock() -> Result<UnixListener> {
        let address = SocketAddr::from_abstract_name("pg-ha-lab").context("no abstract sockets")?;
        UnixListener::bind_addr(&address)
            .context("another lab command is running (it holds the socket @pg-ha-lab); wait for it to end")
    }

    /// What is up; none if nothing is.
    pub(crate) fn state(&self) -> Option<State> {
        serde_json::from_slice(&fs::read(self.runtime().join("state.json")).ok()?).ok()
    }

    /// What is up, or an error that says what to do.
    pub(crate) fn must_be_up(&self) -> Result<State> {
        self.state().context("the lab is not up; scripts/lab up boots it")
    }

    pub(crate) fn machine(&self, host: Host) -> Machine {
        Machine::new(&self.runtime(), host.name)
    }

    /// The machine with this name.
    pub(crate) fn find(&self, name: &str) -> Result<Machine> {
        let machines = self.must_be_up()?.topology.machines();
        let found = machines.iter().find(|(host, _)| host.name == name);
        let Some((host, _)) = found else {
            let names: Vec<_> = machines.iter().map(|(host, _)| host.name).collect();
            bail!("no machine is called {name}; there are {}", names.join(", "));
        };
        Ok(self.machine(*host))
    }

    /// From nothing to a running cluster.
    pub(crate) fn up(&self, topology: Topology, profile: Profile) -> Result<()> {
        if self.runtime().exists() {
            bail!("the lab is up already, or a part of it is; scripts/lab down takes it away");
        }
        let image = image::ensure(&self.cache)?;
        let snapshot = snapshot::ensure(self, topology, &image)?;
        let step = Step::begin(format!("booting {} machines", topology.machines().len()));
        self.build_up(
            topology,
            profile,
            |host| vec![snapshot.join(host.name), image.clone()],
            |machine| snapshot::set_profile(&machine.root(), profile),
        )?;
        crate::ready::wait(self, topology, Duration::from_secs(60))?;
        step.done();
        Ok(())
    }

    /// The network and the machines over the given layers, booted. `prepare` may change a machine's files before.
    pub(crate) fn build_up(
        &self,
        topology: Topology,
        profile: Profile,
        layers: impl Fn(Host) -> Vec<PathBuf>,
        prepare: impl Fn(&Machine) -> Result<()>,
    ) -> Result<()> {
        let hosts: Vec<_> = topology.machines().iter().map(|(host, _)| *host).chain([CLIENT]).collect();
        if let Some(name) = network::taken(&hosts).first() {
            bail!(
                "the network namespace {name} exists and this lab did not make it; `ip netns delete {name}`, or \
                   scripts/lab down with the PG_HA_LAB_DIR of the lab that did"
            );
        }
        if let Some(path) = cgroup::taken() {
            bail!("the control group {} exists and this lab did not make it; rmdir it", path.display());
        }
        fs::create_dir_all(self.runtime())?;
        let state = State { topology, profile, namespaces_directory_was_there: network::directory_exists() };
        fs::write(self.runtime().join("state.json"), serde_json::to_vec_pretty(&state)?)?;
        network::make_switch()?;
        for host in &hosts {
            network::plug(*host)?;
        }
        let machines: Vec<_> = topology.machines().iter().map(|(host, _)| (*host, self.machine(*host))).collect();
        for (host, machine) in &machines {
            machine.assemble(&layers(*host))?;
            fs::write(machine.root().join("etc/hostname"), format!("{}\n", host.name))?;
            prepare(machine)?;
            machine.boot()?;
        }
        for (_, machine) in &machines {
            machine.wait_booted(Duration::from_secs(60))?;
        }
        Ok(())
    }

    /// Takes away whatever an `up` made, also half of it.
    pub(crate) fn down(&self) -> Result<()> {
        let Some(state) = self.state() else {
            let _ = fs::remove_dir_all(self.runtime());
            return Ok(());
        };
        client::stop(self)?;
        for (host, _) in state.topology.machines() {
            self.machine(*host).remove();
            network::unplug(host.name);
        }
        network::unplug(CLIENT.name);
        network::remove_switch(state.namespaces_directory_was_there);
        let mounts = fs::read_to_string("/proc/mounts")?;
        if let Some(mount) = mounts.lines().find(|line| line.contains(&*self.runtime().to_string_lossy())) {
            bail!("a mount could not be taken away: {mount}; see who uses it, then scripts/lab down again");
        }
        fs::remove_dir_all(self.runtime()).with_context(|| format!("failed to delete {}", self.runtime().display()))?;
        say("the lab is down");
        Ok(())
    }
}
