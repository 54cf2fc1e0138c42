//! Which machines there are. One topology so far; another is another function here.

use std::str::FromStr;

use anyhow::{Error, bail};
use serde::{Deserialize, Serialize};

/// The address the clients use.
pub(crate) const VIP: &str = "10.99.0.100";

/// Where the writing client sits.
pub(crate) const CLIENT: Host = Host { name: "client", address: "10.99.0.50" };

/// Something with a cable to the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) name: &'static str,
    pub(crate) address: &'static str,
}

/// What a machine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    /// A PostgreSQL node; the first is the first primary.
    Node,
    /// A PostgreSQL server that lends its vote.
    Witness,
}

/// Who moves the address and proposes promotions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Topology {
    /// Two nodes and a witness; keepalived holds the address and elects.
    Keepalived,
}

impl Topology {
    /// Every machine, the first primary first.
    pub(crate) fn machines(self) -> &'static [(Host, Duty)] {
        match self {
            Self::Keepalived => &[
                (Host { name: "pg1", address: "10.99.0.11" }, Duty::Node),
                (Host { name: "pg2", address: "10.99.0.12" }, Duty::Node),
                (Host { name: "balancer", address: "10.99.0.13" }, Duty::Witness),
            ],
        }
    }

    /// The machines that may hold the address.
    pub(crate) fn nodes(self) -> impl Iterator<Item = Host> {
        self.machines().iter().filter(|(_, duty)| *duty == Duty::Node).map(|(host, _)| *host)
    }
}

/// The timing profile, as cluster.yaml names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Profile {
    /// Tenths of a second.
    Fast,
    /// A few seconds.
    Default,
    /// For networks and machines that stall.
    Patient,
}

impl Profile {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Default => "default",
            Self::Patient => "patient",
        }
    }

    /// The seconds between two adverts.
    pub(crate) fn advert_interval(self) -> &'static str {
        match self {
            Self::Fast => "0.02",
            Self::Default => "0.1",
            Self::Patient => "1",
        }
    }
}

/// A port of the switch, by the host's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port(pub(crate) String);

impl FromStr for Port {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let known: Vec<_> =
            Topology::Keepalived.machines().iter().map(|(host, _)| host.name).chain([CLIENT.name]).collect();
        if !known.contains(&name) {
            bail!("no such machine; there are {}", known.join(", "));
        }
        Ok(Self(name.to_owned()))
    }
}
