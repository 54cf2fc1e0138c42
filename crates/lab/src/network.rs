//! The network: one namespace with a bridge is the switch, each host has a cable (a veth pair) to it. Nothing leaves.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::command::{attempt, output, run};
use crate::topology::Host;

const SWITCH: &str = "pgha-switch";
const BRIDGE: &str = "pgha-br";
/// Where `ip netns` keeps its names.
const NAMESPACES: &str = "/run/netns";

/// The namespace of a host, and the name of its port on the switch.
pub(crate) fn of(host: &str) -> String {
    format!("pgha-{host}")
}

/// The names that `up` needs and that are there already.
pub(crate) fn taken(hosts: &[Host]) -> Vec<String> {
    let names = hosts.iter().map(|host| of(host.name)).chain([SWITCH.to_owned()]);
    names.filter(|name| Path::new(NAMESPACES).join(name).exists()).collect()
}

/// `ip netns` makes its directory a mount of its own, and leaves it. True when it was there before the lab.
pub(crate) fn directory_exists() -> bool {
    Path::new(NAMESPACES).exists()
}

/// The switch, without cables. nftables drops what a fault says must not pass; the carrier stays.
pub(crate) fn make_switch() -> Result<()> {
    run(&["ip", "netns", "add", SWITCH])?;
    run(&["ip", "-n", SWITCH, "link", "add", "name", BRIDGE, "type", "bridge"])?;
    run(&["ip", "-n", SWITCH, "link", "set", BRIDGE, "up"])?;
    let rules = "
        table bridge pgha {
            set silent { type ifname; }
            set blocked { type ifname . ifname; }
            chain forward {
                type filter hook forward priority 0;
                iifname @silent drop
                oifname @silent drop
                iifname . oifname @blocked drop
            }
        }";
    in_switch(&["nft", rules])
}

/// A host's namespace, its cable and its address.
pub(crate) fn plug(host: Host) -> Result<()> {
    let (name, address) = (of(host.name), format!("{}/24", host.address));
    run(&["ip", "netns", "add", &name])?;
    run(&["ip", "-n", SWITCH, "link", "add", "name", &name, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
    run(&["ip", "-n", SWITCH, "link", "set", &name, "master", BRIDGE, "up"])?;
    // Without this each link waits for IPv6's duplicate detection and sends its own traffic.
    attempt(&["ip", "netns", "exec", &name, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"]);
    run(&["ip", "-n", &name, "address", "add", &address, "dev", "eth0"])?;
    run(&["ip", "-n", &name, "link", "set", "lo", "up"])?;
    run(&["ip", "-n", &name, "link", "set", "eth0", "up"])?;
    Ok(())
}

/// Takes a host's cable and namespace away. Its sockets die without a word to anyone, as when the power goes.
pub(crate) fn unplug(host: &str) {
    let name = of(host);
    attempt(&["ip", "-n", SWITCH, "link", "delete", &name]);
    attempt(&["ip", "netns", "delete", &name]);
}

/// Takes the switch away, and `ip netns`'s directory with it if the lab made it.
pub(crate) fn remove_switch(directory_was_there: bool) {
    attempt(&["ip", "netns", "delete", SWITCH]);
    let empty = Path::new(NAMESPACES).read_dir().is_ok_and(|mut entries| entries.next().is_none());
    if !directory_was_there && empty {
        attempt(&["umount", NAMESPACES]);
        let _ = std::fs::remove_dir(NAMESPACES);
    }
}

/// Pulls the cable out of the switch: both ends lose the carrier.
pub(crate) fn cut(host: &str) -> Result<()> {
    run(&["ip", "-n", SWITCH, "link", "set", &of(host), "down"]).map(drop)
}

/// Puts the cable back.
pub(crate) fn heal(host: &str) -> Result<()> {
    run(&["ip", "-n", SWITCH, "link", "set", &of(host), "up"]).map(drop)
}

/// The switch drops all of a host's frames; its carrier stays.
pub(crate) fn silence(host: &str) -> Result<()> {
    in_switch(&["nft", &format!("add element bridge pgha silent {{ {} }}", of(host))])
}

/// Lets a silenced host be heard again.
pub(crate) fn unsilence(host: &str) -> Result<()> {
    forget(&format!("delete element bridge pgha silent {{ {} }}", of(host)))
}

/// The switch drops the frames from one host to another, and only these.
pub(crate) fn block(from: &str, to: &str) -> Result<()> {
    in_switch(&["nft", &format!("add element bridge pgha blocked {{ {} . {} }}", of(from), of(to))])
}

/// Lets the frames from one host to another pass again.
pub(crate) fn unblock(from: &str, to: &str) -> Result<()> {
    forget(&format!("delete element bridge pgha blocked {{ {} . {} }}", of(from), of(to)))
}

/// Delays and drops what the switch sends to a host.
pub(crate) fn slow(host: &str, delay: &str, loss: &str) -> Result<()> {
    let port = of(host);
    let words = ["tc", "qdisc", "replace", "dev", &port, "root", "netem", "delay", delay, "loss", loss];
    in_switch(&words).context("this needs a kernel with the module sch_netem")
}

/// Deletes an element; one that is not there is as good as deleted.
fn forget(statement: &str) -> Result<()> {
    let output = output(&["ip", "netns", "exec", SWITCH, "nft", statement])?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() || said.contains("No such file") {
        return Ok(());
    }
    bail!("nft {statement}: {}", said.lines().next().unwrap_or_default())
}

fn in_switch(words: &[&str]) -> Result<()> {
    run(&[&["ip", "netns", "exec", SWITCH], words].concat()).map(drop)
}

/// Moves the calling thread into a host's namespace: sockets it opens from now on are that host's.
pub(crate) fn enter(host: &str) -> Result<()> {
    let path = Path::new(NAMESPACES).join(of(host));
    let file = File::open(&path).with_context(|| format!("no network of {host}; scripts/lab up makes it"))?;
    setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("failed to enter {}", path.display()))
}

/// Which namespace a host has now: another one after its power was off.
pub(crate) fn identity(host: &str) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(Path::new(NAMESPACES).join(of(host))).ok().map(|metadata| metadata.ino())
}
