//! What a running cluster is: the first node writable with the address, the others streaming from it.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::lab::Lab;
use crate::machine::Machine;
use crate::topology::{Topology, VIP};

/// Waits for it, and says what is missing if it does not come.
pub(crate) fn wait(lab: &Lab, topology: Topology, limit: Duration) -> Result<()> {
    let begun = Instant::now();
    loop {
        let missing = missing(lab, topology);
        match missing {
            None => return Ok(()),
            Some(missing) if begun.elapsed() > limit => {
                bail!("after {} s {missing}; the machines are up to look at: scripts/lab exec", limit.as_secs())
            }
            Some(_) => sleep(Duration::from_millis(100)),
        }
    }
}

fn missing(lab: &Lab, topology: Topology) -> Option<String> {
    let nodes: Vec<_> = topology.nodes().map(|host| lab.machine(host)).collect();
    let primary = nodes.iter().find(|node| sql(node, "select pg_is_in_recovery()") == "f");
    let Some(primary) = primary else { return Some("no node is writable".to_owned()) };
    if !holds_address(primary) {
        return Some(format!("{} is writable and does not have the address", primary.name));
    }
    let streaming = sql(primary, "select count(*) from pg_stat_replication where state = 'streaming'");
    let wanted = (nodes.len() - 1).to_string();
    (streaming != wanted).then(|| format!("{streaming} of {wanted} standbys stream from {}", primary.name))
}

/// One value from a node's own server, as the operating system's postgres; empty if it does not answer.
pub(crate) fn sql(machine: &Machine, statement: &str) -> String {
    let words = ["timeout", "3", "runuser", "-u", "postgres", "--", "psql", "-XAtqc", statement];
    machine.must(&words).unwrap_or_default()
}

/// Whether the address is on a machine.
pub(crate) fn holds_address(machine: &Machine) -> bool {
    machine
        .must(&["ip", "-brief", "address", "show", "dev", "eth0"])
        .is_ok_and(|text| text.contains(&format!("{VIP}/")))
}

/// Whether a node is a standby that the other sends to, and that pg-watch calls a candidate: a server whose history has
/// forked streams too, for a moment, up to the fork.
pub(crate) fn follows(standby: &Machine, primary: &Machine, topology: Topology) -> bool {
    let Some(host) = topology.nodes().find(|host| host.name == standby.name) else { return false };
    let sent = format!(
        "select count(*) from pg_stat_replication where state = 'streaming' and client_addr = '{}'",
        host.address
    );
    sql(standby, "select pg_is_in_recovery()") == "t"
        && sql(primary, &sent) == "1"
        && standby.must(&["cat", "/run/pg-ha/candidate"]).is_ok_and(|number| number.trim() == "1")
}
