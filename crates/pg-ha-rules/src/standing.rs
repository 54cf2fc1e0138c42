//! What pg-watch does at each of its turns: what it publishes, what stands in the standing file, and when it stops
//! PostgreSQL. Only the holder of the term has standing. The tables stand in docs/standing.md.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::evidence::{Moment, Role};
use crate::fence::{Fence, Reason};
use crate::heartbeat::State;
use crate::names::{NodeName, Term};
use crate::term::{self, Truth};

/// The last heartbeat of this node that a voter acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// When it was *sent*: the voter may have seen it no earlier.
    pub sent: Moment,
    /// The term the voter stored then.
    pub term: Option<Term>,
    /// The last one, sent under that term, that said `primary` or `promoting`, and that the voter showed to the others:
    /// only such a one holds off a bidder.
    pub claimed: Option<Moment>,
}

/// The term this node goes by as its holder, and until when it may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The term.
    pub term: Term,
    /// The sending of the last heartbeat that a majority acknowledged under it.
    pub acked: Moment,
}

/// A promotion or a start as primary that was begun here: the marker before the act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promoting {
    /// The number of the term it bids for.
    pub term: u32,
    /// When.
    pub begun: Moment,
    /// The program that promotes: the marker ends with it. None where it must outlive the program: at a start, and
    /// once the promotion is ordered.
    pub pid: Option<u32>,
    /// The server was told to promote itself: nothing but a kill takes that back.
    pub ordered: bool,
}

/// The server of this node, as its processes show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// No process of the cluster is left.
    Gone,
    /// The postmaster is gone, but processes are left that can still commit.
    Orphans,
    /// The postmaster lives.
    Running {
        /// What it says it is; a server that has not said anything yet goes by its `standby.signal`.
        role: Role,
        /// When the question was sent that it last answered; `None` before its first answer.
        answered: Option<Moment>,
    },
}

/// What pg-watch sees at a turn.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// This node.
    pub me: &'a NodeName,
    /// Now.
    pub now: Moment,
    /// When this pg-watch began: before its first answers it may not call itself isolated.
    pub began: Moment,
    /// How many voters are a majority.
    pub majority: usize,
    /// `isolation_limit`.
    pub limit: Duration,
    /// How long the marker of a promotion counts.
    pub promotion_limit: Duration,
    /// The last acknowledged heartbeat on each voter.
    pub acks: &'a BTreeMap<NodeName, Ack>,
    /// The own server.
    pub server: Server,
    /// The fence.
    pub fence: Option<&'a Fence>,
    /// The marker of a promotion.
    pub promoting: Option<&'a Promoting>,
    /// What the turn before held.
    pub holding: Option<&'a Holding>,
    /// Does the standing file still give this node the rank of the term it holds? (pg-watch itself was restarted)
    pub stood: bool,
    /// Has this standby caught up with the holder under the present term, and does nothing hold it back?
    pub eligible: bool,
}

/// An order to stop PostgreSQL at once: KILL to every process, then the marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The reason, which the fence keeps.
    pub reason: Reason,
    /// The term it may not act under any more.
    pub term: Option<Term>,
    /// What was seen.
    pub seen: String,
}

/// What a turn decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The state to publish, and under which term.
    pub state: State,
    /// The term's number in the heartbeat; 0: none known.
    pub term: u32,
    /// What to write into the standing file.
    pub standing: u8,
    /// Why.
    pub why: String,
    /// What this node holds from now on.
    pub holding: Option<Holding>,
    /// Stop PostgreSQL.
    pub stop: Option<Stop>,
}

/// Decides a turn.
#[must_use]
pub fn turn(v: &View) -> Turn {
    let fresh = v.acks.values().filter(|ack| v.now.since(ack.sent) <= v.limit);
    let truth = term::truth(fresh.map(|ack| ack.term.as_ref()), v.majority);
    let known = if let Truth::Held(term) = &truth { Some(term) } else { None };
    let holding = holding(v, &truth);
    let number = holding.as_ref().map(|h| &h.term).or(known).map_or(0, |term| term.number);
    let say = |state, standing, why: String| Turn {
        state,
        term: number,
        standing,
        why,
        holding: holding.clone(),
        stop: None,
    };
    let stop = |reason, seen: String| Turn {
        stop: Some(Stop {
            reason,
            term: holding.as_ref().map(|h| &h.term).or(v.holding.map(|h| &h.term)).or(known).cloned(),
            seen: seen.clone(),
        }),
        ..say(State::Unfit, 0, seen)
    };
    let mine = holding.as_ref().filter(|h| v.fence.is_none_or(|fence| !fence.covers(&h.term)));
    let marker = |h: &Holding| v.promoting.filter(|p| p.term == h.term.number);
    let late = |p: &Promoting| v.now.since(p.begun) > v.promotion_limit;
    let promoting = |h: &Holding| marker(h).is_some_and(|p| p.ordered || !late(p));
    let overdue = |h: &Holding| marker(h).is_some_and(|p| p.ordered && late(p));
    let alone = |h: &Holding| v.now.since(h.acked);
    let isolated = |h: &Holding| {
        let seconds = alone(h).as_secs_f64();
        stop(Reason::Isolated, format!("no majority acknowledged a heartbeat for {seconds:.2} s"))
    };

    match (v.server, mine) {
        (Server::Gone, Some(h)) if promoting(h) => {
            say(State::Promoting, 0, format!("about to start under term {}", h.term))
        }
        (Server::Gone, Some(h)) => stop(Reason::Down, format!("no server runs under term {}", h.term)),
        (Server::Gone, None) => match (&holding, v.fence) {
            (Some(_), Some(fence)) if fence.reason == Reason::Down || fence.reason == Reason::Isolated => {
                say(State::Down, 0, fence.to_string())
            }
            (_, fence) => say(State::Unfit, 0, fence.map_or_else(|| "no server runs".to_owned(), ToString::to_string)),
        },
        (Server::Orphans, _) => stop(Reason::Down, "the postmaster is gone, processes of it are left".to_owned()),
        (Server::Running { role: Role::Standby, .. }, Some(h)) if promoting(h) && alone(h) > v.limit => isolated(h),
        (Server::Running { role: Role::Standby, .. }, Some(h)) if overdue(h) => {
            stop(Reason::Down, "the promotion was ordered and did not end".to_owned())
        }
        (Server::Running { role: Role::Standby, .. }, Some(h)) if promoting(h) => {
            say(State::Promoting, term::rank(h.term.number), format!("being promoted under term {}", h.term))
        }
        (Server::Running { role: Role::Standby, .. }, _) => match (v.fence, v.eligible) {
            (Some(fence), false) => say(State::Unfit, 0, fence.to_string()),
            (_, true) => say(State::Standby, 0, "a standby that may be promoted".to_owned()),
            (None, false) => say(State::Unfit, 0, "a standby that has not caught up under the present term".to_owned()),
        },
        (Server::Running { role: Role::Primary, answered }, Some(h)) => {
            let mute = answered.map(|at| v.now.since(at));
            if alone(h) > v.limit {
                isolated(h)
            } else if let Some(mute) = mute.filter(|mute| *mute > v.limit) {
                stop(Reason::Down, format!("the own server has been silent for {:.2} s", mute.as_secs_f64()))
            } else if answered.is_some() {
                say(State::Primary, term::rank(h.term.number), format!("holds term {}", h.term))
            } else {
                let standing = if v.stood { term::rank(h.term.number) } else { 0 };
                say(State::Promoting, standing, format!("starting under term {}", h.term))
            }
        }
        (Server::Running { role: Role::Primary, .. }, None) => match (&truth, v.fence) {
            (_, Some(fence)) => stop(fence.reason, format!("a primary runs although this node is {fence}")),
            (Truth::Held(term), None) => {
                stop(Reason::Superseded, format!("a primary runs here, but term {term} is held by {}", term.holder))
            }
            (Truth::None, None) => say(State::Unfit, 0, "no term yet: run pg-cluster init".to_owned()),
            _ if v.acks.get(v.me).is_some_and(|ack| ack.term.is_none()) => {
                say(State::Unfit, 0, "no term is stored here yet: run pg-cluster init".to_owned())
            }
            _ if v.now.since(v.began) <= v.limit => {
                say(State::Unfit, 0, "a primary runs here; the voters have not answered yet".to_owned())
            }
            _ => stop(Reason::Isolated, "a primary runs here, and no majority of the voters answers".to_owned()),
        },
    }
}

/// What this node holds now: the majority's term where that names it, what it held before where nothing is known.
fn holding(v: &View, truth: &Truth) -> Option<Holding> {
    let term = match (truth, v.holding) {
        (Truth::Held(term), before) if before.is_none_or(|b| b.term.number <= term.number) => Some(term),
        (_, before) => before.map(|b| &b.term),
    };
    let term = term.filter(|term| term.holder == *v.me)?.clone();
    // The majority-th youngest is the youngest that a whole majority gave.
    let nth = |of: fn(&Ack) -> Option<Moment>| {
        let given = v.acks.values().filter(|ack| ack.term.as_ref() == Some(&term));
        let mut moments: Vec<_> = given.filter_map(of).collect();
        moments.sort_unstable_by(|a, b| b.cmp(a));
        moments.get(v.majority.saturating_sub(1)).copied()
    };
    let before = v.holding.filter(|b| b.term == term).map(|b| b.acked);
    // A term that was just won is held from the first time a majority showed it; from then on only claims extend it.
    let acked = nth(|ack| ack.claimed).max(before).or_else(|| nth(|ack| Some(ack.sent)))?;
    Some(Holding { term, acked })
}
