//! The provisioned machines, kept: a running cluster is made once by scripts/provision, as on any server, and stopped
//! cleanly. Every `up` boots copies of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command::run;
use crate::fingerprint::{Fingerprint, forget_others};
use crate::lab::Lab;
use crate::machine::Machine;
use crate::programs;
use crate::progress::{Step, say};
use crate::topology::{Duty, Host, Profile, Topology};

/// What scripts/provision finds in a machine.
const SHARE: &str = "usr/share/pg-ha";
/// These machines live for a minute in a network without a way out: their passwords are no secrets.
const PASSWORDS: &[&str] = &["PGHA_PASSWORD=lab-pgha", "REPMGR_PASSWORD=lab-repmgr", "APP_PASSWORD=lab-app"];

/// The snapshot's directory, with one layer for each machine; made if it is not there.
pub(crate) fn ensure(lab: &Lab, topology: Topology, image: &Path) -> Result<PathBuf> {
    let programs = programs::build(&lab.repository)?;
    let snapshot = lab.cache.join(format!("snapshot-{}", name(lab, topology, image, &programs)?));
    if snapshot.exists() {
        return Ok(snapshot);
    }
    forget_others(&lab.cache, "snapshot-", &snapshot);
    let made = make(lab, topology, image, &programs, &snapshot);
    if made.is_err() && std::env::var_os("PG_HA_LAB_KEEP").is_some() {
        say("provisioning failed; the machines are left as they are, scripts/lab down takes them away");
        return made.map(|()| snapshot);
    }
    lab.down()?;
    made.map(|()| snapshot)
}

fn name(lab: &Lab, topology: Topology, image: &Path, programs: &Path) -> Result<String> {
    let mut fingerprint = Fingerprint::default();
    fingerprint.text("1").text(&format!("{topology:?}")).text(&image.to_string_lossy());
    for name in programs::NAMES {
        fingerprint.tree(&programs.join(name))?;
    }
    fingerprint.tree(&lab.repository.join("etc"))?.tree(&lab.repository.join("scripts/provision"))?;
    Ok(fingerprint.name())
}

fn make(lab: &Lab, topology: Topology, image: &Path, programs: &Path, snapshot: &Path) -> Result<()> {
    let step = Step::begin("provisioning the machines (once for each build)");
    lab.build_up(
        topology,
        Profile::Default,
        |_| vec![image.to_owned()],
        |machine| install(&machine.root(), &lab.repository, programs),
    )?;
    for (host, words) in order(topology) {
        say(&format!("  {}: provision {}", host.name, words.join(" ")));
        provision(&lab.machine(host), &words)?;
    }
    crate::ready::wait(lab, topology, Duration::from_secs(60))?;
    // The standby goes first: a primary that stops waits for what its standby has not received.
    for (host, _) in topology.machines().iter().rev() {
        lab.machine(*host).shut_down(Duration::from_secs(60))?;
    }
    let partial = snapshot.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial)?;
    for (host, _) in topology.machines() {
        let from = lab.machine(*host).difference();
        run(&["cp", "-a", &from.display().to_string(), &partial.join(host.name).display().to_string()])?;
    }
    fs::rename(&partial, snapshot).context("failed to name the snapshot")?;
    step.done();
    Ok(())
}

/// The witness votes when the first node makes the cluster, and the other nodes copy the first.
fn order(topology: Topology) -> Vec<(Host, Vec<&'static str>)> {
    let machines = topology.machines();
    let witnesses = machines.iter().filter(|(_, duty)| *duty == Duty::Witness).map(|(host, _)| *host);
    let witnesses = witnesses.map(|host| (host, vec!["witness", host.name]));
    let nodes = topology.nodes().enumerate().map(|(place, host)| {
        let first: &[_] = if place == 0 { &["--first"] } else { &[] };
        (host, [&["node", host.name], first].concat())
    });
    witnesses.chain(nodes).collect()
}

/// The programs and the files of etc/, where a package would put them.
fn install(root: &Path, repository: &Path, programs: &Path) -> Result<()> {
    for name in programs::NAMES {
        let place = root.join("usr/bin").join(name);
        fs::copy(programs.join(name), &place).with_context(|| format!("failed to install {name}"))?;
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?;
    }
    let share = root.join(SHARE);
    fs::create_dir_all(&share)?;
    let (etc, share) = (repository.join("etc").display().to_string(), share.display().to_string());
    run(&["cp", "-r", &etc, &share])?;
    run(&["cp", &repository.join("scripts/provision").display().to_string(), &share])?;
    run(&["chown", "-R", "root:root", &share])?;
    run(&["chmod", "-R", "go-w", &share]).map(drop)
}

fn provision(machine: &Machine, words: &[&str]) -> Result<()> {
    let script = format!("/{SHARE}/provision");
    let output = machine.run(&[&["env"], PASSWORDS, &["bash", &script], words].concat())?;
    if output.status.success() {
        return Ok(());
    }
    for text in [output.stdout, output.stderr] {
        eprint!("{}", String::from_utf8_lossy(&text));
    }
    bail!("provisioning {} failed; it said why above (PG_HA_LAB_KEEP=1 keeps the machines to look at)", machine.name)
}

/// Sets the profile in the files of a machine that is off.
pub(crate) fn set_profile(root: &Path, profile: Profile) -> Result<()> {
    let cluster = root.join("etc/pg-ha/cluster.yaml");
    edit(&cluster, |line| line.replace("profile: default", &format!("profile: {}", profile.word())))?;
    let keepalived = root.join("etc/keepalived/keepalived.conf");
    edit(&keepalived, |line| match line.split_once("advert_int ") {
        Some((indent, _)) if indent.trim().is_empty() => format!("{indent}advert_int {}", profile.advert_interval()),
        _ => line.to_owned(),
    })
}

/// A machine without the file has no use for the setting.
fn edit(path: &Path, change: impl Fn(&str) -> String) -> Result<()> {
    let Ok(text) = fs::read_to_string(path) else { return Ok(()) };
    let changed: String = text.lines().map(|line| change(line) + "\n").collect();
    if changed == text {
        return Ok(());
    }
    fs::write(path, changed).with_context(|| format!("failed to write {}", path.display()))
}
