//! What pg-watch remembers from look to look; without it no hook may take "nothing seen" for "nothing there".

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::evidence::{Answer, Evidence, Moment, Role, lag};
use crate::fence::Fence;
use crate::heartbeat::State;
use crate::hold::{self, Watched};
use crate::names::{NodeName, Position, Term};
use crate::term::Truth;

/// The memory of one node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// Of each voter.
    pub voters: BTreeMap<NodeName, Watched>,
    /// The holder's last known position, and the number of the term it held then.
    pub holder: Option<(u32, Position)>,
    /// The newest term under which this node streamed from another holder and was within `max_lag` of it.
    pub caught_up: Option<u32>,
}

impl Memory {
    /// Adds a voter's answer that came in `at`.
    pub fn saw(&mut self, voter: &NodeName, answer: &Answer, me: &NodeName, at: Moment, longest_gap: Duration) {
        let watched = hold::look(self.voters.get(voter), answer, me, at, longest_gap);
        if let Some(term) = &answer.term {
            let held = answer.heartbeats.iter().map(|beat| &beat.said);
            let held = held.filter(|said| said.node == term.holder && said.term == term.number);
            for at in held.filter(|said| said.state == State::Primary).filter_map(|said| said.position) {
                if self.holder.is_none_or(|(number, last)| (number, last.lsn) < (term.number, at.lsn)) {
                    self.holder = Some((term.number, at));
                }
            }
        }
        self.voters.insert(voter.clone(), watched);
    }

    /// Adds a whole look.
    pub fn saw_all(&mut self, evidence: &Evidence, me: &NodeName, longest_gap: Duration) {
        for (voter, answer) in evidence.answers() {
            self.saw(voter, answer, me, evidence.at, longest_gap);
        }
    }

    /// Notes whether this node, a standby that answered `own`, has caught up with the holder of `term`.
    pub fn follows(&mut self, own: &Answer, term: &Term, me: &NodeName, max_lag: u64) {
        let near = self.holder.is_some_and(|(number, last)| {
            let behind = own.position.and_then(|at| lag(at, last));
            number == term.number && behind.is_some_and(|bytes| bytes <= max_lag)
        });
        if own.role == Role::Standby && own.streams_from.is_some() && term.holder != *me && near {
            self.caught_up = Some(term.number);
        }
    }

    /// May this standby call itself a candidate, going by the truth?
    #[must_use]
    pub fn eligible(&self, truth: &Truth, me: &NodeName) -> bool {
        match truth {
            Truth::Held(term) if term.holder != *me => self.caught_up == Some(term.number),
            // A term of its own that it was not promoted under, or nothing known: what it knew before counts.
            _ => self.caught_up.is_some(),
        }
    }

    /// Has this node rejoined since it was fenced?
    #[must_use]
    pub fn lifts(&self, fence: &Fence) -> bool {
        fence.reason != crate::fence::Reason::Rebuilding && self.caught_up.is_some_and(|term| term >= fence.term.number)
    }
}
