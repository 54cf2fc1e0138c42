//! What happened, from everyone who noted something, on one axis of time.

use serde_json::Value;

use crate::checker::Seen;
use crate::client;
use crate::clock::Moment;
use crate::span::Span;

use super::journal::Record;
use super::page;

/// One thing that happened, and who says so.
#[derive(Debug, Clone)]
pub(super) struct Event {
    at: Moment,
    /// What it took, if that is known.
    ms: Option<f64>,
    who: String,
    what: String,
}

pub(super) fn event(at: Moment, who: &str, what: impl Into<String>) -> Event {
    Event { at, ms: None, who: who.to_owned(), what: what.into() }
}

/// A step of a program, at its end.
fn step(at: Moment, ms: f64, who: &str, what: impl Into<String>) -> Event {
    Event { ms: Some(ms), ..event(at, who, what) }
}

/// Prints them in order, with the seconds since an origin.
pub(super) fn print(mut events: Vec<Event>, origin: Moment) {
    events.sort_by_key(|event| event.at);
    println!("   second      ms  who       what");
    for Event { at, ms, who, what } in events {
        let ms = ms.map_or_else(String::new, |ms| format!("{ms:.1}"));
        page::hang(&format!("{:9.3} {ms:>7}  {who:8}  ", seconds(at, origin)), &what);
    }
    println!();
}

/// Negative before the origin.
pub(super) fn seconds(at: Moment, origin: Moment) -> f64 {
    at.since(origin).as_secs_f64() - origin.since(at).as_secs_f64()
}

/// What the checker saw begin and end after a moment.
pub(super) fn of_checker(seen: &Seen, since: Moment) -> Vec<Event> {
    let mut events = Vec::new();
    for (name, node) in &seen.nodes {
        let kinds = [
            (node.writable(), "accepts writes", "was last seen to accept writes"),
            (node.address.clone(), "has the address", "has no longer the address"),
        ];
        for (spans, begins, ends) in kinds {
            for Span { begin, end } in spans {
                if begin >= since && begin.since(seen.begun).as_millis() > 300 {
                    events.push(event(begin, "checker", format!("{name} {begins}")));
                }
                // What lasts to the end of the look did not end.
                if end.0 + 20_000_000 >= since.0 && seen.ended.since(end).as_millis() > 250 {
                    events.push(event(end, "checker", format!("{name} {ends}")));
                }
            }
        }
    }
    events
}

/// The last row before an outage, and the first one after it.
pub(super) fn of_client(gap: &client::Gap) -> Vec<Event> {
    vec![
        event(gap.begin, "client", "the last row is acknowledged"),
        event(gap.end, "client", format!("a row is acknowledged again, after {:.3} s", gap.seconds)),
    ]
}

/// What a machine's programs decided.
pub(super) fn of_journal(node: &str, records: &[Record]) -> Vec<Event> {
    let told = |record: &Record| match record.program.as_str() {
        "pg-watch" => of_stop(node, record),
        "pg-promote --boot" => of_boot(node, record),
        "pg-follow" => of_follow(node, record),
        _ if record.promoted() => of_promotion(node, record),
        _ => of_other_proposal(node, record),
    };
    records.iter().flat_map(told).collect()
}

fn of_stop(node: &str, record: &Record) -> Vec<Event> {
    let seen = record.seen.as_deref().unwrap_or("-");
    let mut events = vec![event(record.begun(), node, format!("pg-watch sees: {seen}"))];
    for (at, step) in record.done() {
        let what = match (step.step.as_str(), &record.fence, record.killed.as_deref()) {
            ("standing 0", ..) => "standing 0: keepalived must give the address up".to_owned(),
            ("kill", _, Some("0")) => "no process of PostgreSQL is left".to_owned(),
            ("kill", _, Some(count)) => format!("processes of PostgreSQL killed: {count}"),
            ("fence", Some(fence), _) => {
                format!("fence ({}): {node} may not be primary under {}", fence.reason, fence.term)
            }
            _ => step.step.clone(),
        };
        events.push(self::step(at, step.ms, node, what));
    }
    events
}

fn of_promotion(node: &str, record: &Record) -> Vec<Event> {
    let caller = &record.caller;
    let mut events = vec![event(record.begun(), node, format!("{caller} proposes: it calls pg-promote"))];
    let term = record.term.as_deref().unwrap_or("-");
    let (mut looks, mut looked) = (0, 0.0);
    let steps: Vec<_> = record.done().collect();
    let last_bid = steps.iter().rposition(|(_, step)| step.step == "bid");
    for (place, (at, step)) in steps.iter().enumerate() {
        let mut ms = step.ms;
        let what = match step.step.as_str() {
            "lock" if step.ms < 5.0 => continue,
            "lock" => "it waited for another pg-promote here".to_owned(),
            "look" => {
                looks += 1;
                looked += step.ms;
                if steps.get(place + 1).is_some_and(|(_, next)| next.step == "look") {
                    continue;
                }
                ms = looked;
                let at = if looks == 1 { String::new() } else { format!(", at look {looks}") };
                (looks, looked) = (0, 0.0);
                format!("pg-promote: the gate says yes{at}")
            }
            "session" => "pg-promote: a session to order the promotion in".to_owned(),
            // The record keeps the term and the votes of the last one.
            "bid" if Some(place) != last_bid => "a bid that came to nothing".to_owned(),
            "bid" => format!("the bid for term {term}: {}", record.votes.join(", ")),
            "look again" => "the term is won; the gate, asked again, says yes".to_owned(),
            "pg-watch takes it up" => "pg-watch answers for it: keepalived may take the address".to_owned(),
            "order" => "the promotion is ordered".to_owned(),
            "promotion" => "the server is writable".to_owned(),
            "pg-watch sees it" => "pg-watch calls this node the primary".to_owned(),
            "repmgr" => "repmgr's table says the same".to_owned(),
            "checkpoint" => "the checkpoint that pg_rewind needs is done".to_owned(),
            other => other.to_owned(),
        };
        events.push(self::step(*at, ms, node, what));
    }
    events
}

/// A call that promoted nobody: done already, or refused.
fn of_other_proposal(node: &str, record: &Record) -> Vec<Event> {
    let program = &record.program;
    let called = event(record.begun(), node, format!("{} proposes too: it calls {program}", record.caller));
    let answer = match (&record.seen, record.decision.as_str()) {
        (_, "primary") => "this node is the primary already".to_owned(),
        (Some(seen), decision) => format!("{decision}: {seen}"),
        (None, decision) => decision.to_owned(),
    };
    vec![called, event(record.ended(), node, format!("the answer to {}: {answer}", record.caller))]
}

fn of_boot(node: &str, record: &Record) -> Vec<Event> {
    let verdict = match record.verdict.as_object().and_then(|verdict| verdict.iter().next()) {
        Some((word, value)) => match (word.as_str(), value.as_str()) {
            ("standby", Some(term)) => format!("as a standby under {term}"),
            ("start", Some(why)) => format!("as it is: {why}"),
            ("bid", Some(term)) => format!("as the primary, with term {term}"),
            (word, _) => format!("{word}: {}", words(value)),
        },
        None => words(&record.verdict),
    };
    vec![
        event(record.begun(), node, "systemd is to start PostgreSQL and asks pg-promote --boot"),
        event(record.ended(), node, format!("pg-promote --boot: {}, {verdict}", record.decision)),
    ]
}

/// A value as people write it: the strings of a list, what was seen, else JSON.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(words).collect::<Vec<_>>().join(", "),
        Value::Object(fields) if fields.contains_key("seen") => words(&fields["seen"]),
        _ => value.to_string(),
    }
}

fn of_follow(node: &str, record: &Record) -> Vec<Event> {
    let term = record.term.as_deref().unwrap_or("-");
    let what = format!("{} calls pg-follow, under term {term}", record.caller);
    let mut events = vec![event(record.begun(), node, what)];
    for (at, step) in record.done() {
        events.push(self::step(at, step.ms, node, format!("pg-follow: {}", step.step)));
    }
    let came = match (&record.way, &record.error) {
        (Some(way), _) => format!("by {way}"),
        (None, Some(error)) => error.clone(),
        (None, None) => String::new(),
    };
    events.push(event(record.ended(), node, format!("pg-follow: {node} {}, {came}", record.decision)));
    events
}
