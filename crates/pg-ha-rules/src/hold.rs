//! The hold: how long a bidder has watched a voter without seeing a sign of life of another holder there.
//!
//! Everything is measured by the bidder's own clock, on each voter by itself. A voter that restarted, a session that
//! broke, a term that changed: the watch begins again.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::evidence::{Answer, Beat, Moment};
use crate::heartbeat::{Heartbeat, State};
use crate::names::{NodeName, Term};

/// What one node said last on one voter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// When it was renewed, at the latest.
    pub at: Moment,
    /// What it said.
    pub said: Heartbeat,
    /// When it last said that it is the primary, or about to be, and under which number. Only time, or its own
    /// `down` under that number, takes that back: a pg-watch that has just started says `unfit`, and knows nothing.
    pub claimed: Option<(Moment, u32)>,
    /// Its renewals that the voter showed at the last look (two while a node reconnects); none: it is gone.
    pub renewals: Vec<String>,
}

/// What a watcher remembers of one voter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// Since when it has been watched without a gap, under the term it stores now.
    pub since: Moment,
    /// The last look.
    pub last: Moment,
    /// The voter's postmaster, by its start.
    pub started: String,
    /// The term it stored at the last look.
    pub term: Option<Term>,
    /// What each other node said there last.
    pub heard: BTreeMap<NodeName, Heard>,
}

/// A look at a voter, added to what is remembered of it.
///
/// `at` is when the answer came in; `longest_gap` is how far two looks may lie apart before the watch begins again.
#[must_use]
pub fn look(before: Option<&Watched>, answer: &Answer, me: &NodeName, at: Moment, longest_gap: Duration) -> Watched {
    let unbroken = before.filter(|b| b.started == answer.started && at.since(b.last) <= longest_gap);
    let since = match unbroken {
        // A new term of another node is a sign of life of its holder, as good as a heartbeat.
        Some(b) if b.term == answer.term || answer.term.as_ref().is_some_and(|t| t.holder == *me) => b.since,
        _ => at,
    };
    let mut heard = before.map(|b| b.heard.clone()).unwrap_or_default();
    for last in heard.values_mut() {
        let now: Vec<_> = beats_of(answer, &last.said.node).map(|beat| beat.renewal.clone()).collect();
        if !last.renewals.is_empty() && now != last.renewals {
            // Renewed, or gone: its last renewal may have come at any time up to now.
            last.at = at;
            last.claimed =
                last.claimed.map(|(_, term)| (at, term)).filter(|_| last.said.state.claims()).or(last.claimed);
        }
        last.renewals = now;
    }
    let mut beats: Vec<_> = answer.heartbeats.iter().filter(|beat| beat.said.node != *me).collect();
    // Of two new ones of a node, the one that claims to be primary is believed.
    beats.sort_by_key(|beat| beat.said.state.claims());
    for beat in beats {
        let known = before.and_then(|b| b.heard.get(&beat.said.node));
        if known.is_none_or(|known| !known.renewals.contains(&beat.renewal)) {
            let renewals = beats_of(answer, &beat.said.node).map(|beat| beat.renewal.clone()).collect();
            let said = beat.said.clone();
            let claimed = match (said.state, heard.get(&said.node).and_then(|last| last.claimed)) {
                (state, _) if state.claims() => Some((at, said.term)),
                (State::Down, Some((_, term))) if term <= said.term => None,
                (_, before) => before,
            };
            heard.insert(said.node.clone(), Heard { at, said, claimed, renewals });
        }
    }
    Watched { since, last: at, started: answer.started.clone(), term: answer.term.clone(), heard }
}

fn beats_of<'a>(answer: &'a Answer, node: &NodeName) -> impl Iterator<Item = &'a Beat> {
    let node = node.clone();
    answer.heartbeats.iter().filter(move |beat| beat.said.node == node)
}

/// Until when a bid on this voter must wait for other holders; `None`: it need not wait.
#[must_use]
pub fn wait(watched: &Watched, me: &NodeName, now: Moment, hold: Duration) -> Option<(Moment, String)> {
    let claims = watched.heard.values().filter_map(|last| Some((last.said.node.clone(), last.claimed?)));
    let of_claims = claims.filter(|(node, _)| node != me).map(|(node, (claimed, term))| {
        let ago = now.since(claimed).as_secs_f64();
        (claimed, format!("{node} said {ago:.2} s ago that it is the primary of term {term}"))
    });
    let of_term = watched.term.as_ref().filter(|term| term.holder != *me && !is_down(watched, term)).map(|term| {
        let watched_for = now.since(watched.since).as_secs_f64();
        (watched.since, format!("term {term} is held by {}, watched for {watched_for:.2} s", term.holder))
    });
    of_claims
        .chain(of_term)
        .map(|(from, why)| (from.plus(hold), why))
        .filter(|(until, _)| *until > now)
        .max_by_key(|(until, _)| *until)
}

/// Has the holder of `term` said there that it is down, under that very number?
fn is_down(watched: &Watched, term: &Term) -> bool {
    watched.heard.get(&term.holder).is_some_and(|last| last.said.state == State::Down && last.said.term == term.number)
}
