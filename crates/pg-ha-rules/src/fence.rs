//! The fence: a durable marker that this node may not be primary.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::Term;

/// Why a node is fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// Another node won a later term. Lifted when this node streams from the holder.
    Superseded,
    /// It lost the majority and stopped. Lifted by rejoining, or by winning a new term.
    Isolated,
    /// Its server ended while it held the term. Lifted by rejoining, or by winning a new term.
    Down,
    /// Its data directory is being rebuilt: no server may start there. Lifted when the rebuild is done.
    Rebuilding,
}

/// The marker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// Why.
    pub reason: Reason,
    /// The term under which this node may not act any more.
    pub term: Term,
    /// What was seen, in words.
    pub seen: String,
}

impl Fence {
    /// Does it forbid acting under `term`?
    #[must_use]
    pub fn covers(&self, term: &Term) -> bool {
        match self.reason {
            Reason::Superseded | Reason::Rebuilding => true,
            Reason::Isolated | Reason::Down => term.number <= self.term.number,
        }
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.reason {
            Reason::Superseded => "superseded",
            Reason::Isolated => "isolated",
            Reason::Down => "down",
            Reason::Rebuilding => "being rebuilt",
        };
        write!(f, "fenced ({why}, term {}): {}", self.term, self.seen)
    }
}
