//! What pg-watch remembers from look to look; without it no hook may take "nothing seen" for "nothing there".

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::evidence::{Answer, Evidence, Moment, Role, lag};
use crate::fence::Fence;
use crate::heartbeat::State;
use crate::hold::{self, Watched};
use crate::names::{NodeName, Position, Timeline};
use crate::term::Truth;

/// The memory of one node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// Of each voter.
    pub voters: BTreeMap<NodeName, Watched>,
    /// The holder's last known position, and the number of the term it held then.
    pub holder: Option<(u32, Position)>,
    /// How this node followed another holder last, since its server was no primary itself.
    pub caught_up: Option<CaughtUp>,
}

/// That this node streamed from the holder of a term, and was within `max_lag` of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaughtUp {
    /// The term's number.
    pub term: u32,
    /// The timeline it received then. A standby whose receiver has ended says an older one, from its last restartpoint.
    pub timeline: Timeline,
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

    /// Notes whether this node, which answered `own`, has caught up with the holder of the term.
    pub fn follows(&mut self, own: &Answer, truth: &Truth, me: &NodeName, max_lag: u64) {
        if own.role == Role::Primary {
            // What it wrote is on nobody else's history, until it follows somebody anew.
            self.caught_up = None;
            return;
        }
        let (Truth::Held(term), Some(at), Some((number, last))) = (truth, own.position, self.holder) else { return };
        let near = number == term.number && lag(at, last).is_some_and(|bytes| bytes <= max_lag);
        if own.streams_from.is_some() && term.holder != *me && near {
            self.caught_up = Some(CaughtUp { term: number, timeline: at.timeline });
        }
    }

    /// How far this node is, on the timeline that it is known to have received.
    #[must_use]
    pub fn position(&self, own: &Answer) -> Option<Position> {
        let at = own.position?;
        let known = self.caught_up.filter(|_| own.role == Role::Standby).map(|caught_up| caught_up.timeline);
        Some(Position { timeline: known.map_or(at.timeline, |known| known.max(at.timeline)), ..at })
    }

    /// May this standby call itself a candidate, going by the truth?
    #[must_use]
    pub fn eligible(&self, truth: &Truth, me: &NodeName) -> bool {
        match truth {
            Truth::Held(term) if term.holder != *me => self.caught_up.is_some_and(|last| last.term == term.number),
            // A term of its own that it was not promoted under, or nothing known: what it knew before counts.
            _ => self.caught_up.is_some(),
        }
    }

    /// Has this node rejoined since it was fenced?
    #[must_use]
    pub fn lifts(&self, fence: &Fence) -> bool {
        fence.reason != crate::fence::Reason::Rebuilding
            && self.caught_up.is_some_and(|last| last.term >= fence.term.number)
    }
}
