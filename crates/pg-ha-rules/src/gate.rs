//! The gate: may this node become the primary, now? The table stands in docs/gate.md.
//!
//! | # | question | else |
//! |---|---|---|
//! | 1 | Is this node fit? | refuse; wait for its server |
//! | 2 | Does a majority answer, and hold a term? | wait for it |
//! | 3 | Is every voter that answers quiet of other holders? | wait for the hold |
//! | 4 | Is no other candidate better? | wait for it |
//! | 5 | Is the loss known, and within `max_lag`? | refuse |
//!
//! Row 6, the bid, is an act: after it the rows are asked again.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::evidence::{Evidence, Moment, Role, lag};
use crate::exit::Refusal;
use crate::fence::{Fence, Reason};
use crate::heartbeat::{Heartbeat, State};
use crate::hold;
use crate::memory::Memory;
use crate::names::{NodeName, Position, Term};
use crate::term::{self, Truth};

/// Everything the gate looks at.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// The node that asks.
    pub me: &'a NodeName,
    /// Now.
    pub now: Moment,
    /// How many voters are a majority.
    pub majority: usize,
    /// `promotion_hold`.
    pub hold: Duration,
    /// A heartbeat older than this is not a sign of life.
    pub fresh: Duration,
    /// `max_lag`, in bytes.
    pub max_lag: u64,
    /// The nodes' priorities, for candidates that are equally far.
    pub priorities: &'a BTreeMap<NodeName, u8>,
    /// What was seen just now.
    pub evidence: &'a Evidence,
    /// What pg-watch remembers, with the evidence already looked at.
    pub memory: &'a Memory,
    /// The fence of this node.
    pub fence: Option<&'a Fence>,
}

/// What the gate says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Already the primary, and the majority's term says so.
    Primary(Term),
    /// Bid for this term; nothing stands against it.
    Bid(Term),
    /// Not yet.
    Wait {
        /// Look again then, or earlier.
        until: Moment,
        /// The refusal, should the caller's time be up before.
        reason: Refusal,
        /// What was seen.
        seen: String,
    },
    /// No.
    Refuse {
        /// Why.
        reason: Refusal,
        /// What was seen.
        seen: String,
    },
}

/// One row of the table, answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its number.
    pub number: u8,
    /// The question.
    pub question: &'static str,
    /// `yes`, or what stands against it.
    pub answer: Result<String, String>,
}

type No = Verdict;

fn refuse(reason: Refusal, seen: impl Into<String>) -> No {
    Verdict::Refuse { reason, seen: seen.into() }
}

/// What may be otherwise at the next look: a voter that was slow, or is just coming back.
fn soon(s: &Situation, reason: Refusal, seen: impl Into<String>) -> No {
    Verdict::Wait { until: s.now.plus(s.fresh), reason, seen: seen.into() }
}

/// The rows in their order, up to the first that says no, and the verdict.
#[must_use]
pub fn gate(s: &Situation) -> (Vec<Row>, Verdict) {
    type Ask = fn(&Situation) -> Result<String, No>;
    let table: [(&'static str, Ask); 5] = [
        ("is this node fit to be primary?", fit),
        ("does a majority of the voters answer?", majority),
        ("is every voter that answers quiet of other holders?", quiet),
        ("is no other candidate better?", best),
        ("is the loss known and within max_lag?", loss),
    ];
    let mut rows = Vec::new();
    for (number, (question, ask)) in (1..).zip(table) {
        match ask(s) {
            Ok(seen) => rows.push(Row { number, question, answer: Ok(seen) }),
            Err(verdict) => {
                let against = match &verdict {
                    Verdict::Refuse { seen, .. } | Verdict::Wait { seen, .. } => seen.clone(),
                    Verdict::Primary(term) | Verdict::Bid(term) => format!("already primary, term {term}"),
                };
                rows.push(Row { number, question, answer: Err(against) });
                return (rows, verdict);
            }
        }
    }
    (rows, Verdict::Bid(term::next(s.evidence, s.me)))
}

/// Row 1. A fence that is lifted by winning a term does not make a node unfit; having lost one does.
fn fit(s: &Situation) -> Result<String, No> {
    let own = s.evidence.answer(s.me).ok_or_else(|| {
        let seen = s.evidence.voters.get(s.me).map_or_else(|| "not asked".to_owned(), ToString::to_string);
        soon(s, Refusal::NoServer, format!("the own server {seen}"))
    })?;
    if own.role == Role::Primary {
        return match held(s) {
            Some(term) if term.holder == *s.me => Err(Verdict::Primary(term)),
            Some(term) => Err(refuse(Refusal::WithoutTerm, format!("the own server is a primary; term {term}"))),
            None => Err(soon(s, Refusal::NoMajority, "the own server is a primary; no majority answers")),
        };
    }
    if let Some(fence) = s.fence {
        match fence.reason {
            Reason::Superseded => return Err(refuse(Refusal::Fenced, fence.to_string())),
            Reason::Rebuilding => return Err(refuse(Refusal::Rebuilding, fence.to_string())),
            Reason::Down | Reason::Isolated => {}
        }
    }
    own.hindrance.as_ref().map_or(Ok("a standby in working order".to_owned()), |hindrance| {
        Err(refuse(Refusal::Hindered, hindrance.clone()))
    })
}

/// Row 2.
fn majority(s: &Situation) -> Result<String, No> {
    let count = s.evidence.answers().count();
    let seen = format!("{count} of {} voters answer, {} are a majority", s.evidence.voters.len(), s.majority);
    match term::truth_of(s.evidence, s.majority) {
        Truth::Unknown => Err(soon(s, Refusal::NoMajority, seen)),
        Truth::None => Err(refuse(Refusal::NoTerm, "no voter stores a term")),
        Truth::Undecided => Ok(format!("{seen}; no term is stored at a majority")),
        Truth::Held(term) => Ok(format!("{seen}; term {term}")),
    }
}

/// Row 3. A voter that answers but was never watched is as good as full of heartbeats.
fn quiet(s: &Situation) -> Result<String, No> {
    let waits = s.evidence.answers().filter_map(|(voter, _)| {
        let Some(watched) = s.memory.voters.get(voter) else {
            return Some((s.now.plus(s.hold), format!("{voter} has not been watched yet")));
        };
        hold::wait(watched, s.me, s.now, s.hold).map(|(until, why)| (until, format!("on {voter}: {why}")))
    });
    match waits.max_by_key(|(until, _)| *until) {
        Some((until, seen)) => Err(Verdict::Wait { until, reason: Refusal::HolderAlive, seen }),
        None => Ok("no heartbeat and no new term of another within the hold, or it said down".to_owned()),
    }
}

/// Row 4. A candidate counts while its heartbeat is fresh and says that it may be promoted.
fn best(s: &Situation) -> Result<String, No> {
    let own = own_position(s)?;
    let heard = s.memory.voters.values().flat_map(|watched| watched.heard.values());
    let better = heard
        .filter(|last| !last.renewals.is_empty() && s.now.since(last.at) <= s.fresh)
        .map(|last| &last.said)
        .filter(|said| said.node != *s.me && said.state == State::Standby)
        .find(|said| outranks(s, said, own));
    match better {
        Some(said) => Err(Verdict::Wait {
            until: s.now.plus(s.fresh),
            reason: Refusal::BetterCandidate,
            seen: format!("{} is a candidate at {}, this node is at {own}", said.node, shown(said.position)),
        }),
        None => Ok(format!("at {own}")),
    }
}

fn outranks(s: &Situation, other: &Heartbeat, own: Position) -> bool {
    let Some(theirs) = other.position.filter(|at| at.timeline == own.timeline) else { return false };
    let preference = |name: &NodeName| (s.priorities.get(name).copied(), Reverse(name.clone()));
    theirs.lsn.cmp(&own.lsn).then_with(|| preference(&other.node).cmp(&preference(s.me))) == Ordering::Greater
}

/// Row 5. Without the holder's last position under the present term nobody can say what would be lost.
fn loss(s: &Situation) -> Result<String, No> {
    let own = own_position(s)?;
    // The newest term of another that anybody stores, be it a minority: its holder may have written under it.
    // A node that won a term itself and was not promoted under it bids again on what it knew of the holder before.
    let others =
        s.evidence.answers().filter_map(|(_, answer)| answer.term.as_ref()).filter(|term| term.holder != *s.me);
    let newest = others.map(|term| term.number).max().unwrap_or(0);
    let known = s.memory.holder.filter(|(number, _)| *number >= newest);
    let Some((number, last)) = known else {
        return Err(refuse(Refusal::LossUnknown, "the holder was never seen from here under its term"));
    };
    if s.memory.caught_up.is_none_or(|last| last.term != number) {
        return Err(refuse(Refusal::NotCaughtUp, format!("this node has not followed the holder under term {number}")));
    }
    let Some(behind) = lag(own, last) else {
        return Err(refuse(Refusal::Diverged, format!("this node is at {own}, the old primary was at {last}")));
    };
    let backlog = s.evidence.answer(s.me).map_or(0, |answer| answer.backlog);
    let seen = format!("{behind} bytes behind the old primary's {last}, {backlog} bytes to replay");
    if behind > s.max_lag || backlog > s.max_lag { Err(refuse(Refusal::TooFarBehind, seen)) } else { Ok(seen) }
}

fn own_position(s: &Situation) -> Result<Position, No> {
    let own = s.evidence.answer(s.me).and_then(|answer| s.memory.position(answer));
    own.ok_or_else(|| soon(s, Refusal::NoServer, "the own server does not say how far it is"))
}

fn held(s: &Situation) -> Option<Term> {
    if let Truth::Held(term) = term::truth_of(s.evidence, s.majority) { Some(term) } else { None }
}

fn shown(position: Option<Position>) -> String {
    position.map_or_else(|| "an unknown position".to_owned(), |at| at.to_string())
}
