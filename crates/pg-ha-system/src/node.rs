//! This node: its name, its cluster.yaml, its files. Read whole before anything is changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pg_ha_rules::config::{Cluster, ConfigError, Timings};
use pg_ha_rules::names::NodeName;

use crate::conninfo::{ConnInfo, ConnInfoError};
use crate::files::Files;

/// Where cluster.yaml lies unless `--config` says otherwise.
pub const CONFIG: &str = "/etc/pg-ha/cluster.yaml";

/// Why there is no node to act for. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The file could not be read.
    #[error("cannot read {path}: {error}; give another with --config")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is wrong.
    #[error("{path}: {error}")]
    Config {
        /// The file.
        path: PathBuf,
        /// Where and how.
        error: ConfigError,
    },
    /// A connection string in it is wrong.
    #[error("{path}: conninfo of {voter}: {error}")]
    ConnInfo {
        /// The file.
        path: PathBuf,
        /// Whose.
        voter: NodeName,
        /// How.
        error: ConnInfoError,
    },
    /// This machine is not in it.
    #[error("this machine is `{name}`, which {path} does not name; give its name with --node, or set PG_HA_NODE")]
    Stranger {
        /// What it calls itself.
        name: String,
        /// The file.
        path: PathBuf,
    },
}

/// A node and its cluster.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name.
    pub me: NodeName,
    /// cluster.yaml.
    pub cluster: Cluster,
    /// How to reach each voter, this node among them.
    pub voters: BTreeMap<NodeName, ConnInfo>,
    /// The limits in force.
    pub timings: Timings,
    /// Its files.
    pub files: Files,
}

impl Node {
    /// Reads `path` and finds this machine in it: by `name`, else by the short host name.
    pub fn load(path: &Path, name: Option<&str>) -> Result<Self, SetupError> {
        let read = |error| SetupError::Read { path: path.to_owned(), error };
        let text = std::fs::read_to_string(path).map_err(read)?;
        let cluster = Cluster::parse(&text).map_err(|error| SetupError::Config { path: path.to_owned(), error })?;
        let mut voters = BTreeMap::new();
        for voter in cluster.voters() {
            let conninfo = ConnInfo::parse(voter.conninfo).and_then(ConnInfo::with_process_environment);
            let wrong = |error| SetupError::ConnInfo { path: path.to_owned(), voter: voter.name.clone(), error };
            voters.insert(voter.name.clone(), conninfo.map_err(wrong)?);
        }
        let name = name.map_or_else(short_host_name, str::to_owned);
        let me = name.parse::<NodeName>().ok().filter(|me| voters.contains_key(me));
        let me = me.ok_or_else(|| SetupError::Stranger { name, path: path.to_owned() })?;
        let timings = cluster.timings();
        Ok(Self { me, cluster, voters, timings, files: Files::default() })
    }

    /// Is this machine a node, not a witness?
    #[must_use]
    pub fn has_server(&self) -> bool {
        self.cluster.node(&self.me).is_some()
    }

    /// The candidates' priorities.
    #[must_use]
    pub fn priorities(&self) -> BTreeMap<NodeName, u8> {
        self.cluster.nodes.iter().map(|node| (node.name.clone(), node.priority)).collect()
    }

    /// The data directory as the kernel names it, so that processes can be known by it; as configured while it
    /// cannot be resolved.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        let data = &self.cluster.postgres.data;
        data.canonicalize().unwrap_or_else(|_| data.clone())
    }
}

fn short_host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    name.split('.').next().unwrap_or_default().to_owned()
}
