//! The boot rule: may the server of this node start, and as what? Asked before every start; it never clones.

use std::time::Duration;

use serde::Serialize;

use crate::evidence::{Evidence, Moment};
use crate::exit::Refusal;
use crate::fence::{Fence, Reason};
use crate::hold;
use crate::memory::Memory;
use crate::names::{NodeName, Term};
use crate::term::{self, Truth};

/// What the boot rule looks at.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// This node.
    pub me: &'a NodeName,
    /// Now.
    pub now: Moment,
    /// How many voters are a majority.
    pub majority: usize,
    /// `promotion_hold`.
    pub hold: Duration,
    /// Does the data directory hold a `standby.signal`?
    pub standby: bool,
    /// The voters; this node's own vote, read from its disk, among them.
    pub evidence: &'a Evidence,
    /// What is remembered of them.
    pub memory: &'a Memory,
    /// The fence.
    pub fence: Option<&'a Fence>,
}

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Boot {
    /// Start as it is.
    Start(String),
    /// Start as a standby: write `standby.signal` and the fence first.
    Standby(Term),
    /// Bid for this term; start as the primary when it is won.
    Bid(Term),
    /// Not yet.
    Wait {
        /// Look again then.
        until: Moment,
        /// The refusal, should the time be up before.
        reason: Refusal,
        /// What was seen.
        seen: String,
    },
    /// Do not start.
    Refuse(Refusal, String),
}

/// Decides a start.
#[must_use]
pub fn boot(s: &Situation) -> Boot {
    let wait = |reason, seen: String| Boot::Wait { until: s.now.plus(s.hold), reason, seen };
    if let Some(fence) = s.fence.filter(|fence| fence.reason == Reason::Rebuilding) {
        return Boot::Refuse(Refusal::Rebuilding, fence.to_string());
    }
    if s.standby {
        return Boot::Start("a standby needs no term".to_owned());
    }
    let own = s.evidence.answer(s.me).and_then(|answer| answer.term.as_ref());
    match term::truth_of(s.evidence, s.majority) {
        Truth::Held(term) if term.holder != *s.me => Boot::Standby(term),
        _ if own.is_none() && s.fence.is_none() => {
            Boot::Start("this data directory never stored a term: no cluster of pg-ha's yet".to_owned())
        }
        Truth::Unknown => wait(Refusal::NoMajority, "fewer than a majority of the voters answer".to_owned()),
        Truth::None => Boot::Refuse(Refusal::NoTerm, "no voter stores a term".to_owned()),
        Truth::Undecided => wait(Refusal::LossUnknown, "no term is stored at a majority".to_owned()),
        // Only the holder writes, so nobody is further on this history than it.
        Truth::Held(_) => match quiet(s) {
            Some((until, seen)) => Boot::Wait { until, reason: Refusal::HolderAlive, seen },
            None => Boot::Bid(term::next(s.evidence, s.me)),
        },
    }
}

fn quiet(s: &Situation) -> Option<(Moment, String)> {
    let others = s.evidence.answers().filter(|(voter, _)| *voter != s.me);
    others
        .filter_map(|(voter, _)| match s.memory.voters.get(voter) {
            Some(watched) => {
                hold::wait(watched, s.me, s.now, s.hold).map(|(until, why)| (until, format!("on {voter}: {why}")))
            }
            None => Some((s.now.plus(s.hold), format!("{voter} has not been watched yet"))),
        })
        .max_by_key(|(until, _)| *until)
}
