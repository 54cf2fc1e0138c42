//! `pg-cluster status`: every voter on one screen, what is wrong first.

use std::time::Duration;

use pg_ha_rules::evidence::{Evidence, Role, Sight};
use pg_ha_rules::names::NodeName;
use pg_ha_rules::term::{self, Truth};
use pg_ha_system::clock::Deadline;
use pg_ha_system::node::Node;
use pg_ha_system::observe::observe;
use serde_json::json;

/// Exit codes of `status`: documented in docs/runbook.md.
const HEALTHY: i32 = 0;
const DEGRADED: i32 = 1;
const NO_PRIMARY: i32 = 2;

pub(crate) fn show(node: &Node, as_json: bool) -> i32 {
    let evidence = observe(node, Deadline::after(Duration::from_secs(2)));
    let truth = term::truth_of(&evidence, node.cluster.majority());
    let (code, problems) = judge(node, &evidence, &truth);
    let word = ["healthy", "degraded", "no primary"][usize::try_from(code).unwrap_or(2).min(2)];
    if as_json {
        println!(
            "{}",
            json!({
                "cluster": node.cluster.cluster,
                "health": word,
                "problems": problems,
                "term": if let Truth::Held(term) = &truth { Some(term.to_string()) } else { None },
                "voters": evidence.voters,
            })
        );
        return code;
    }
    let held = if let Truth::Held(term) = &truth { format!("term {term}") } else { "no term at a majority".to_owned() };
    println!("cluster {}: {word}, {held}", node.cluster.cluster);
    for problem in &problems {
        println!("  ! {problem}");
    }
    println!("{:<16} {:<8} {:<10} {:>8}  {:<20} FOLLOWS", "NAME", "ROLE", "STATE", "STANDING", "POSITION");
    for (name, sight) in &evidence.voters {
        println!("{}", line(node, &evidence, name, sight));
    }
    code
}

fn line(node: &Node, evidence: &Evidence, name: &NodeName, sight: &Sight) -> String {
    let Some(answer) = sight.answer() else { return format!("{name:<16} {sight}") };
    if node.cluster.node(name).is_none() {
        return format!("{name:<16} witness");
    }
    let said = said(evidence, name);
    let role = if answer.role == Role::Primary { "primary" } else { "standby" };
    let state = said.map_or_else(|| "-".to_owned(), |said| said.state.to_string());
    let standing = said.map_or_else(|| "-".to_owned(), |said| said.standing.to_string());
    let position = answer.position.map_or_else(|| "-".to_owned(), |at| at.to_string());
    let follows = answer.streams_from.as_deref().unwrap_or("-");
    format!("{name:<16} {role:<8} {state:<10} {standing:>8}  {position:<20} {follows}")
}

/// What a node says of itself, on any voter.
fn said<'a>(evidence: &'a Evidence, name: &NodeName) -> Option<&'a pg_ha_rules::heartbeat::Heartbeat> {
    let mut beats = evidence.answers().flat_map(|(_, answer)| &answer.heartbeats);
    beats.find(|beat| beat.said.node == *name).map(|beat| &beat.said)
}

fn judge(node: &Node, evidence: &Evidence, truth: &Truth) -> (i32, Vec<String>) {
    let mut problems = Vec::new();
    let primaries: Vec<_> = evidence
        .answers()
        .filter(|(name, answer)| node.cluster.node(name).is_some() && answer.role == Role::Primary)
        .map(|(name, _)| name)
        .collect();
    for (name, sight) in &evidence.voters {
        if sight.answer().is_none() {
            problems.push(format!("{name} {sight}; start it, or mend the way to it"));
        } else if node.cluster.node(name).is_some() && said(evidence, name).is_none() {
            problems.push(format!("{name} has no heartbeat; systemctl start pg-watch there"));
        }
    }
    for (name, answer) in evidence.answers() {
        if node.cluster.node(name).is_some() && answer.role == Role::Standby && answer.streams_from.is_none() {
            problems.push(format!("{name} is a standby that streams from nobody; run pg-follow there"));
        }
    }
    let served = match (truth, primaries.as_slice()) {
        (Truth::Held(term), [primary]) => **primary == term.holder,
        _ => false,
    };
    if !served {
        let seen: Vec<_> = primaries.iter().map(ToString::to_string).collect();
        problems.insert(
            0,
            match seen.len() {
                0 => "no server is a primary; pg-promote --dry-run on each node says why".to_owned(),
                _ => format!("primaries: {}; the term says {truth:?}", seen.join(", ")),
            },
        );
        return (NO_PRIMARY, problems);
    }
    (if problems.is_empty() { HEALTHY } else { DEGRADED }, problems)
}
