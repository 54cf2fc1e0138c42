//! cluster.yaml: what an operator says of the cluster, the same file on every node. docs/cluster-yaml.md is its manual.
//!
//! A file that parses has passed every check that needs nothing but the file: no caller checks again.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::names::NodeName;

mod checks;
mod endpoint;
mod units;

pub use units::{Bytes, Vip};

/// Why a cluster.yaml was refused. Its text is for the operator: what is wrong, where, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It is not YAML, or not of this form; with line and column. The first such place only.
    #[error("{0}")]
    Form(String),
    /// Its parts do not fit together. All of them, each on a line of its own.
    #[error("{}", listed(.0))]
    Content(Vec<Problem>),
}

/// One thing that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {what}")]
pub struct Problem {
    /// The key, as a path: `nodes[1].name`. Lists count from 0.
    pub at: String,
    /// What is wrong with it, and what to do.
    pub what: String,
}

fn listed(problems: &[Problem]) -> String {
    match problems {
        [one] => one.to_string(),
        all => all.iter().fold(format!("{} problems", all.len()), |text, problem| format!("{text}\n  {problem}")),
    }
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the keys cluster, nodes, postgres and failover (docs/cluster-yaml.md)")]
pub struct Cluster {
    /// The cluster's name, for messages and metadata.
    pub cluster: String,
    /// The machines with a server of the cluster. Each has a vote.
    pub nodes: Vec<Node>,
    /// The machines that only lend a vote.
    #[serde(default)]
    pub witnesses: Vec<Witness>,
    /// The address clients connect to; `None` where they find the primary by other means.
    #[serde(default)]
    pub address: Option<Address>,
    /// The server on each node.
    pub postgres: Postgres,
    /// Who proposes a promotion, and how soon.
    pub failover: Failover,
    /// repmgr's metadata; `None` where repmgr is not used.
    #[serde(default)]
    pub repmgr: Option<Repmgr>,
}

/// A machine with a server of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a node: { name, id, conninfo }")]
pub struct Node {
    /// Its name, unique among all voters; by default the machine's short host name.
    pub name: NodeName,
    /// repmgr's `node_id`, from 1.
    #[serde(deserialize_with = "units::id")]
    pub id: u32,
    /// How every machine reaches its server: libpq's forms, without a password.
    pub conninfo: String,
    /// Preferred among candidates that are equally far; also its VRRP base priority. 1 to 154.
    #[serde(default = "default_priority", deserialize_with = "units::priority")]
    pub priority: u8,
}

/// A machine that only lends a vote: any PostgreSQL server that holds no data of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a witness: { name, conninfo }")]
pub struct Witness {
    /// Its name, unique among all voters.
    pub name: NodeName,
    /// How every machine reaches its server.
    pub conninfo: String,
}

/// The virtual address.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "one address: { vip, interface }")]
pub struct Address {
    /// The address and its prefix length.
    pub vip: Vip,
    /// The network interface it is put on; the same name on every node.
    pub interface: String,
}

/// The server on each node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the server's settings: { service, data, bin }")]
pub struct Postgres {
    /// systemd's unit.
    /// `None`: the server is started and stopped by `pg_ctl`.
    #[serde(default)]
    pub service: Option<String>,
    /// The data directory; absolute.
    pub data: PathBuf,
    /// Where `pg_ctl`, `pg_rewind` and `pg_basebackup` lie; absolute.
    pub bin: PathBuf,
    /// The role standbys stream as.
    #[serde(default = "default_repmgr")]
    pub replication_user: String,
    /// The password file standbys stream with, readable by the server's own user; `None`: that user's `~/.pgpass`.
    #[serde(default)]
    pub replication_passfile: Option<PathBuf>,
}

/// Who proposes a promotion, and how soon.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the failover settings: { driver, profile, max_lag }")]
pub struct Failover {
    /// Who proposes beside pg-watch.
    pub driver: Driver,
    /// The set of timings to begin with.
    #[serde(default)]
    pub profile: Profile,
    /// How far behind the lost primary a node may be, or how much it may still have to replay, and be promoted.
    #[serde(default = "default_max_lag")]
    pub max_lag: Bytes,
    /// In place of the profile's, as all below.
    #[serde(default, deserialize_with = "units::duration")]
    pub heartbeat: Option<Duration>,
    /// See [`Timings::isolation_limit`].
    #[serde(default, deserialize_with = "units::duration")]
    pub isolation_limit: Option<Duration>,
    /// See [`Timings::promotion_hold`].
    #[serde(default, deserialize_with = "units::duration")]
    pub promotion_hold: Option<Duration>,
    /// See [`Timings::stop_limit`].
    #[serde(default, deserialize_with = "units::duration")]
    pub stop_limit: Option<Duration>,
    /// See [`Timings::pause_allowance`].
    #[serde(default, deserialize_with = "units::duration")]
    pub pause_allowance: Option<Duration>,
}

/// Who proposes a promotion beside pg-watch. The gate is the same for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// keepalived's election instance runs `pg-promote`.
    Keepalived,
    /// repmgrd's `promote_command` runs it.
    Repmgrd,
    /// Nobody: pg-watch alone does.
    None,
}

/// A set of timings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Under a second; for machines and networks that are never slow.
    Fast,
    /// A few seconds.
    #[default]
    Default,
    /// Around ten seconds; for machines that pause, and for long ways.
    Patient,
}

/// repmgr's metadata.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "repmgr's settings: { database, config }")]
pub struct Repmgr {
    /// The database its extension lives in.
    #[serde(default = "default_repmgr")]
    pub database: String,
    /// repmgr.conf; absolute.
    pub config: PathBuf,
}

/// The limits in force. `promotion_hold >= isolation_limit + stop_limit + pause_allowance`: the holder has stopped
/// before another may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// How often a node renews its heartbeat on every voter.
    pub heartbeat: Duration,
    /// A holder that no majority has acknowledged for so long, from the sending of the last one, stops its server.
    pub isolation_limit: Duration,
    /// A bidder must have seen no heartbeat of the holder for so long.
    pub promotion_hold: Duration,
    /// How long killing every process of the server takes at most.
    pub stop_limit: Duration,
    /// How long a machine may be paused (by its hypervisor, by its load) without breaking the promise above.
    pub pause_allowance: Duration,
}

/// A voter: a node or a witness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Voter<'a> {
    /// Its name.
    pub name: &'a NodeName,
    /// How to reach it.
    pub conninfo: &'a str,
}

fn default_priority() -> u8 {
    100
}

fn default_repmgr() -> String {
    "repmgr".to_owned()
}

fn default_max_lag() -> Bytes {
    Bytes(16 << 20)
}

impl Cluster {
    /// Reads the text of a cluster.yaml, and checks it.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let cluster: Self = serde_yaml::from_str(text).map_err(|error| {
            // What concerns the file as a whole comes without a place.
            let shown = error.location().is_some_and(|place| (place.line(), place.column()) != (1, 1));
            ConfigError::Form(format!("{error}{}", if shown { "" } else { " at line 1 column 1" }))
        })?;
        let problems = checks::problems(&cluster);
        if problems.is_empty() { Ok(cluster) } else { Err(ConfigError::Content(problems)) }
    }

    /// The limits in force: the profile's, with what the file says in their place.
    #[must_use]
    pub fn timings(&self) -> Timings {
        let profile = self.failover.profile.timings();
        Timings {
            heartbeat: self.failover.heartbeat.unwrap_or(profile.heartbeat),
            isolation_limit: self.failover.isolation_limit.unwrap_or(profile.isolation_limit),
            promotion_hold: self.failover.promotion_hold.unwrap_or(profile.promotion_hold),
            stop_limit: self.failover.stop_limit.unwrap_or(profile.stop_limit),
            pause_allowance: self.failover.pause_allowance.unwrap_or(profile.pause_allowance),
        }
    }

    /// Who has a vote: the nodes, then the witnesses.
    pub fn voters(&self) -> impl Iterator<Item = Voter<'_>> {
        let nodes = self.nodes.iter().map(|node| Voter { name: &node.name, conninfo: &node.conninfo });
        let witnesses = self.witnesses.iter().map(|witness| Voter { name: &witness.name, conninfo: &witness.conninfo });
        nodes.chain(witnesses)
    }

    /// The names of those.
    pub fn voter_names(&self) -> impl Iterator<Item = &NodeName> {
        self.voters().map(|voter| voter.name)
    }

    /// How many of them are a majority: of two, both.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.voters().count() / 2 + 1
    }

    /// The node of this name; `None` for a witness, too.
    #[must_use]
    pub fn node(&self, name: &NodeName) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == *name)
    }
}

impl Profile {
    /// The profile's limits. Why each is what it is stands in docs/cluster-yaml.md.
    #[must_use]
    pub fn timings(self) -> Timings {
        let of = |heartbeat, isolation_limit, promotion_hold, stop_limit, pause_allowance| Timings {
            heartbeat: Duration::from_millis(heartbeat),
            isolation_limit: Duration::from_millis(isolation_limit),
            promotion_hold: Duration::from_millis(promotion_hold),
            stop_limit: Duration::from_millis(stop_limit),
            pause_allowance: Duration::from_millis(pause_allowance),
        };
        match self {
            // Six heartbeats may be lost. Killing a hundred backends takes 0.2 s on two busy cores.
            Self::Fast => of(50, 300, 600, 200, 100),
            // Eight may be lost. The same with gigabytes of shared buffers in small pages takes 0.65 s.
            Self::Default => of(250, 2_000, 3_000, 700, 300),
            // Five may be lost; the hypervisor may pause a machine for 2 s, as a snapshot or a live migration does.
            Self::Patient => of(1_000, 5_000, 8_000, 1_000, 2_000),
        }
    }
}

impl Timings {
    /// When the holder has stopped at the latest, counted from the last heartbeat a majority acknowledged.
    #[must_use]
    pub fn stopped_within(&self) -> Duration {
        self.isolation_limit.saturating_add(self.stop_limit).saturating_add(self.pause_allowance)
    }
}
