//! The checks across cluster.yaml's keys. All problems are reported at once: an operator corrects the file in one go.

use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::time::Duration;

use super::endpoint::{self, Endpoint};
use super::{Cluster, Driver, Problem};
use crate::term::MAX_RANK;

/// VRRP's 255 means "owns the address", which no node does by itself.
const HIGHEST_PRIORITY: u8 = 254 - MAX_RANK;

/// repmgr stores it as an `integer`.
const HIGHEST_ID: u32 = i32::MAX.unsigned_abs();

/// A faster heartbeat would be a load, and no clock of the rules is finer.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn unless(&mut self, good: bool, at: impl Into<String>, what: impl FnOnce() -> String) {
        if !good {
            self.0.push(Problem { at: at.into(), what: what() });
        }
    }
}

pub(super) fn problems(cluster: &Cluster) -> Vec<Problem> {
    let mut problems = Problems::default();
    let voters = voters(cluster);
    names(cluster, &voters, &mut problems);
    votes(cluster, &mut problems);
    reachable(cluster, &voters, &mut problems);
    machine(cluster, &mut problems);
    failover(cluster, &mut problems);
    timings(cluster, &mut problems);
    problems.0
}

struct Place<'a> {
    path: String,
    name: &'a str,
    endpoint: Endpoint,
}

fn voters(cluster: &Cluster) -> Vec<Place<'_>> {
    let paths = (0..cluster.nodes.len()).map(|n| format!("nodes[{n}]"));
    let paths = paths.chain((0..cluster.witnesses.len()).map(|n| format!("witnesses[{n}]")));
    let voters = paths.zip(cluster.voters());
    voters.map(|(path, v)| Place { path, name: v.name.as_str(), endpoint: endpoint::of(v.conninfo) }).collect()
}

fn names(cluster: &Cluster, voters: &[Place], problems: &mut Problems) {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let good = (1..=40).contains(&cluster.cluster.len()) && cluster.cluster.chars().all(word);
    problems.unless(good, "cluster", || "give it a name of 1 to 40 letters, digits, - and _".to_owned());

    let mut named = BTreeMap::new();
    for voter in voters {
        if let Some(first) = named.insert(voter.name, &voter.path) {
            problems.unless(false, format!("{}.name", voter.path), || {
                format!("`{}` is already the name of {first}; each voter needs its own", voter.name)
            });
        }
    }
    let mut numbered = BTreeMap::new();
    for (n, node) in cluster.nodes.iter().enumerate() {
        let at = || format!("nodes[{n}].id");
        problems.unless((1..=HIGHEST_ID).contains(&node.id), at(), || {
            format!("{} is not within 1 and {HIGHEST_ID}, repmgr's limits", node.id)
        });
        if let Some(first) = numbered.insert(node.id, n) {
            problems.unless(false, at(), || format!("{} is already the id of nodes[{first}]; give another", node.id));
        }
        problems.unless((1..=HIGHEST_PRIORITY).contains(&node.priority), format!("nodes[{n}].priority"), || {
            format!(
                "{} is not within 1 and {HIGHEST_PRIORITY}: a rank of up to {MAX_RANK} is added to it, and VRRP ends at 254",
                node.priority
            )
        });
    }
}

fn votes(cluster: &Cluster, problems: &mut Problems) {
    problems.unless(!cluster.nodes.is_empty(), "nodes", || "there are none; name at least one".to_owned());
    let votes = cluster.voters().count();
    problems.unless(!votes.is_multiple_of(2) || cluster.nodes.is_empty(), "witnesses", || {
        format!("{votes} votes are an even number, no safer than {}; add a witness or take one away", votes - 1)
    });
}

fn reachable(cluster: &Cluster, voters: &[Place], problems: &mut Problems) {
    let mut taken: BTreeMap<_, &Place> = BTreeMap::new();
    for voter in voters {
        let at = format!("{}.conninfo", voter.path);
        problems.unless(!voter.endpoint.password, &at, || {
            "holds a password; secrets do not stand in this file: name a passfile=, or use certificates".to_owned()
        });
        problems.unless(!voter.endpoint.hosts.is_empty() || voter.endpoint.service, &at, || {
            "names no host, so that every machine would reach its own server; add host=".to_owned()
        });
        for address in &voter.endpoint.hosts {
            if let Some(other) = taken.insert(address, voter).filter(|other| other.path != voter.path) {
                let (host, port) = address;
                problems.unless(false, &at, || {
                    format!(
                        "{host} port {port} is also where {} leads ({}); each voter is its own server",
                        other.name, other.path
                    )
                });
            }
        }
        let vip = cluster.address.as_ref().map(|address| address.vip.ip);
        let shared = voter.endpoint.addresses().find(|address| Some(*address) == vip);
        if let Some(shared) = shared {
            problems
                .unless(false, &at, || format!("{shared} is the virtual address, which moves; give the machine's own"));
        }
    }
}

fn machine(cluster: &Cluster, problems: &mut Problems) {
    if let Some(address) = &cluster.address {
        let good = (1..=15).contains(&address.interface.len())
            && !address.interface.contains(|c: char| c == '/' || c.is_whitespace());
        problems.unless(good, "address.interface", || {
            format!("`{}` is no interface's name; `ip link` shows them", address.interface)
        });
    }
    let postgres = &cluster.postgres;
    let service = postgres.service.as_deref();
    let unit = service.is_none_or(|name| !name.is_empty() && !name.contains(|c: char| c == '/' || c.is_whitespace()));
    problems.unless(unit, "postgres.service", || {
        let name = service.unwrap_or_default();
        format!("`{name}` is no unit's name; `systemctl list-units 'postgresql*'` shows them")
    });
    problems.unless(!postgres.replication_user.is_empty(), "postgres.replication_user", || "name a role".to_owned());

    let mut absolute = |at: &str, path: &Path| {
        let plain = path.is_absolute() && !path.components().any(|part| part == Component::ParentDir);
        problems.unless(plain, at, || format!("`{}` must be a full path, from / and without ..", path.display()));
    };
    absolute("postgres.data", &postgres.data);
    absolute("postgres.bin", &postgres.bin);
    postgres.replication_passfile.iter().for_each(|path| absolute("postgres.replication_passfile", path));
    cluster.repmgr.iter().for_each(|repmgr| absolute("repmgr.config", &repmgr.config));
    // pg-follow moves this directory aside.
    problems.unless(postgres.data.parent().is_some(), "postgres.data", || {
        "/ cannot be a data directory of its own; name the directory with PG_VERSION in it".to_owned()
    });
    if let Some(repmgr) = &cluster.repmgr {
        problems.unless(!repmgr.database.is_empty(), "repmgr.database", || "name a database".to_owned());
    }
}

fn failover(cluster: &Cluster, problems: &mut Problems) {
    let driver = cluster.failover.driver;
    problems.unless(driver != Driver::Keepalived || cluster.address.is_some(), "failover.driver", || {
        "keepalived moves an address, and none is given; add `address: { vip, interface }`".to_owned()
    });
    problems.unless(driver != Driver::Repmgrd || cluster.repmgr.is_some(), "failover.driver", || {
        "repmgrd needs repmgr's metadata; add `repmgr: { config: /etc/repmgr.conf }`".to_owned()
    });
    problems.unless(cluster.failover.max_lag.0 > 0, "failover.max_lag", || {
        "0 would let no standby be promoted after a crash; 16MiB is one WAL segment".to_owned()
    });
}

fn timings(cluster: &Cluster, problems: &mut Problems) {
    let t = cluster.timings();
    let text = |duration| humantime::format_duration(duration).to_string();
    problems.unless(t.heartbeat >= SHORTEST_HEARTBEAT, "failover.heartbeat", || {
        format!("{} is too often; {} is the least", text(t.heartbeat), text(SHORTEST_HEARTBEAT))
    });
    problems.unless(t.heartbeat.saturating_mul(2) <= t.isolation_limit, "failover.isolation_limit", || {
        format!(
            "{} is less than two heartbeats of {}, so that one lost packet would stop the primary; raise it",
            text(t.isolation_limit),
            text(t.heartbeat)
        )
    });
    problems.unless(!t.stop_limit.is_zero(), "failover.stop_limit", || {
        "killing a server takes time; write what it takes at most, such as 500ms".to_owned()
    });
    problems.unless(!t.pause_allowance.is_zero(), "failover.pause_allowance", || {
        "every machine is paused at times; write for how long at most, such as 500ms".to_owned()
    });
    problems.unless(t.promotion_hold >= t.stopped_within(), "failover.promotion_hold", || {
        format!(
            "{} is less than isolation_limit {} + stop_limit {} + pause_allowance {}, so that a second primary could \
             start before the first has stopped; raise it to {}",
            text(t.promotion_hold),
            text(t.isolation_limit),
            text(t.stop_limit),
            text(t.pause_allowance),
            text(t.stopped_within())
        )
    });
}
