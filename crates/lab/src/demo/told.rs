//! A failover, told from the evidence: first in short, then everything on one axis, then the gate with its answers.

use crate::checker::Seen;
use crate::client::Gap;
use crate::clock::Moment;
use crate::machine::Machine;
use crate::span::Span;

use super::events::{self, event, seconds};
use super::journal::{self, Record};
use super::page::hang;

/// A failover that happened.
pub(super) struct Failover {
    /// What was done to whom.
    pub(super) cause: String,
    pub(super) fault: Moment,
    /// Who was primary, and who is now.
    pub(super) lost: Machine,
    pub(super) winner: Machine,
    pub(super) outage: Gap,
    /// Acknowledged rows that the new primary does not have, those of earlier failovers included.
    pub(super) missing: usize,
    /// Seconds until the lost node streamed again.
    pub(super) back: f64,
    /// Whether repmgr's table was right when it did.
    pub(super) repmgr_agrees: bool,
}

/// What both nodes' programs wrote about it: the stop on the lost one, everything on the winner.
pub(super) struct Written {
    pub(super) stops: Vec<Record>,
    pub(super) winner: Vec<Record>,
}

impl Written {
    /// The call that promoted.
    fn decision(&self) -> Option<&Record> {
        self.winner.iter().find(|record| record.promoted())
    }
}

/// The questions one asks first.
pub(super) fn in_short(failover: &Failover, seen: &Seen, written: &Written, acknowledged: usize) {
    let Failover { fault, lost, winner, outage, missing, .. } = failover;
    let (lost, winner) = (lost.name, winner.name);
    let after = |at: Moment| format!("{:.3} s", seconds(at, *fault));
    let say = |what: &str, text: &str| hang(&format!("  {what:16}"), text);
    let decision = written.decision();
    match (written.stops.first(), decision) {
        (Some(stop), _) => {
            let reason = stop.seen.as_deref().unwrap_or("-");
            say("who saw it", &format!("pg-watch on {lost}, after {}: {reason}", after(stop.begun())));
        }
        (None, Some(decision)) => {
            say("who saw it", &format!("nobody on {lost}; from {winner}: {}", decision.voter(lost)));
        }
        (None, None) => say("who saw it", "nobody wrote it down"),
    }
    let proposals = written.winner.iter().filter(|record| record.program == "pg-promote");
    let proposals = proposals.map(|record| format!("{} on {winner}, after {}", record.caller, after(record.begun())));
    say("who proposed", &proposals.collect::<Vec<_>>().join("; "));
    if let Some(decision) = decision {
        let (term, done) = (decision.term.as_deref().unwrap_or("-"), decision.when("promotion"));
        let done = done.map_or_else(|| "never".to_owned(), after);
        say("who decided", &format!("pg-promote on {winner}, by its gate (below): term {term}, primary after {done}"));
    } else {
        say("who decided", &format!("the journal of {winner} has no record of a promotion"));
    }
    let spans = |name| seen.nodes.get(name).map_or(&[] as &[Span], |node| &node.address);
    let left = spans(lost).last().map_or_else(|| "at an unknown time".to_owned(), |span| after(span.end));
    let came = spans(winner).first().map_or_else(|| "at an unknown time".to_owned(), |span| after(span.begin));
    say("the address", &format!("left {lost} after {left}, was on {winner} after {came}"));
    say("no writes for", &format!("{:.3} s", outage.seconds));
    say("acknowledged", &format!("{acknowledged} rows since the demo began, {missing} of them missing on {winner}"));
    println!();
}

/// Everything in its order.
pub(super) fn happened(failover: &Failover, seen: &Seen, written: &Written) {
    let Failover { cause, fault, lost, winner, outage, .. } = failover;
    let mut happened = vec![event(*fault, "demo", cause)];
    happened.extend(events::of_client(outage));
    happened.extend(events::of_checker(seen, *fault));
    happened.extend(events::of_journal(lost.name, &written.stops));
    happened.extend(events::of_journal(winner.name, &written.winner));
    for (at, wait) in journal::waits(winner, *fault) {
        happened.push(event(at, winner.name, format!("pg-promote waits: {wait}")));
    }
    events::print(happened, *fault);
}

/// The gate of the call that promoted.
pub(super) fn decided(node: &str, written: &Written) {
    let Some(record) = written.decision() else { return };
    println!("  The gate of pg-promote on {node}, called by {}. It saw:", record.caller);
    hang("     ", &record.voters());
    println!("  May this node become the primary, now?");
    for row in &record.rows {
        let (word, seen) = match &row.answer {
            Ok(seen) => ("yes", seen),
            Err(seen) => ("NO ", seen),
        };
        hang(&format!("  {}. {word}  ", row.number), &row.question);
        hang("            ", seen);
    }
    let term = record.term.as_deref().unwrap_or("-");
    hang("  6. yes  ", "is the term stored at a majority, and do rows 1 to 5 still hold?");
    hang("            ", &format!("term {term}; {}", record.votes.join(", ")));
    println!();
}
