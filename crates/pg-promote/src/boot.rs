//! `--boot`: may the server start, and as what? Called before every start; decides only, never clones.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use pg_ha_rules::boot::{Boot, Situation, boot as rule};
use pg_ha_rules::evidence::{Answer, Evidence, Moment, Role, Sight};
use pg_ha_rules::exit::{Exit, Refusal};
use pg_ha_rules::fence::{Fence, Reason};
use pg_ha_rules::names::Term;
use pg_ha_rules::standing::Promoting;
use pg_ha_system::clock::{Deadline, now_boottime};
use pg_ha_system::durable;
use pg_ha_system::journal::Record;
use pg_ha_system::node::Node;
use pg_ha_system::observe::observe;
use pg_ha_system::votes::{self, Own};

use crate::promote::memory;

/// How long a lone start waits for the others before it gives up; systemd then tries again.
const GRACE: Duration = Duration::from_secs(30);

pub(crate) fn boot(node: &Node, deadline: Deadline) -> anyhow::Result<Exit> {
    let mut record = Record::begin(node.files.journal(), &node.me, "pg-promote --boot");
    let Some(_lock) = node.files.lock("promote", deadline)? else {
        anyhow::bail!("another pg-promote runs here and does not end")
    };
    let patience = Deadline::after(GRACE).or_earlier(deadline);
    let data = &node.cluster.postgres.data;
    let mut waited = String::new();
    let exit = loop {
        let standby = data.join("standby.signal").exists();
        let evidence = with_own_vote(node, observe(node, Deadline::after(node.timings.isolation_limit)))?;
        let fence = node.files.fence()?;
        let watched = memory(node)?;
        let mut remembered = watched.clone().unwrap_or_default();
        remembered.saw_all(&evidence, &node.me, node.timings.isolation_limit);
        let verdict = rule(&Situation {
            me: &node.me,
            now: evidence.at,
            majority: node.cluster.majority(),
            hold: node.timings.promotion_hold,
            standby,
            evidence: &evidence,
            memory: &remembered,
            fence: fence.as_ref(),
        });
        record.step("look");
        record.set("evidence", &evidence);
        record.set("verdict", &verdict);
        let (reason, seen) = match verdict {
            Boot::Start(why) => {
                log::info!("the server may start as it is: {why}");
                break Exit::Ok;
            }
            Boot::Standby(term) => break as_standby(node, &term)?,
            Boot::Refuse(reason, seen) => break refused(reason, &seen),
            Boot::Wait { reason, seen, .. } => (reason, seen),
            // Without pg-watch nothing could stop this node again.
            Boot::Bid(_) if watched.is_none() => (Refusal::NoWatch, "pg-watch does not run here".to_owned()),
            Boot::Bid(term) => match bid(node, &evidence, &term, &mut record)? {
                Some(exit) => break exit,
                None => (Refusal::Outbid, format!("term {term} was not won")),
            },
        };
        if patience.passed() {
            break refused(reason, &seen);
        }
        if waited != seen {
            log::info!("waiting: {seen}");
            waited = seen;
        }
        thread::sleep(node.timings.heartbeat);
    };
    record.end(if exit == Exit::Ok { "may start" } else { "may not start" })?;
    Ok(exit)
}

fn refused(reason: Refusal, seen: &str) -> Exit {
    log::error!("refused to start: {seen}. {} {}", reason.meaning(), reason.hint());
    Exit::Refused(reason)
}

/// The own server does not run: its vote is what stands on its disk.
fn with_own_vote(node: &Node, mut evidence: Evidence) -> anyhow::Result<Evidence> {
    let term = votes::read_on_disk(&node.cluster.postgres.data).context("cannot read the own term")?;
    let own = Answer {
        system: String::new(),
        role: Role::Standby,
        term,
        position: None,
        backlog: 0,
        hindrance: None,
        streams_from: None,
        started: String::new(),
        heartbeats: Vec::new(),
    };
    evidence.voters.insert(node.me.clone(), Sight::Answered(own));
    Ok(evidence)
}

/// Another node holds the term: this one was its predecessor.
fn as_standby(node: &Node, term: &Term) -> anyhow::Result<Exit> {
    let seen = format!("term {term} is held by {}; this node starts as a standby", term.holder);
    node.files.set_fence(&Fence { reason: Reason::Superseded, term: term.clone(), seen: seen.clone() })?;
    let data = &node.cluster.postgres.data;
    if votes::read_on_disk(data)?.is_none_or(|own| own.number < term.number) {
        // This voter was away when the term was won.
        votes::write_on_disk(data, term)?;
    }
    let signal = data.join("standby.signal");
    durable::replace(&signal, b"").with_context(|| format!("cannot write {}", signal.display()))?;
    log::warn!("{seen}");
    Ok(Exit::Ok)
}

/// Wins the next term for this node's own restart, and waits until pg-watch answers for it.
fn bid(node: &Node, evidence: &Evidence, term: &Term, record: &mut Record) -> anyhow::Result<Option<Exit>> {
    node.files.set_promoting(&Promoting {
        term: term.number,
        begun: Moment(now_boottime()),
        pid: None,
        ordered: false,
    })?;
    let limit = Deadline::after(node.timings.isolation_limit.max(Duration::from_millis(500)));
    let votes: BTreeMap<_, _> = votes::bid(node, evidence, term, Own::Disk(&node.cluster.postgres.data), limit);
    record.step("bid");
    record.set("votes", votes.iter().map(|(voter, vote)| format!("{voter}: {vote:?}")).collect::<Vec<_>>());
    if !votes::won(&votes, node.cluster.majority()) {
        node.files.clear_promoting()?;
        return Ok(None);
    }
    node.files.lift_fence()?;
    node.files.nudge()?;
    let taken = Deadline::after(Duration::from_secs(2));
    while !taken.passed() {
        if node.files.watch()?.and_then(|watch| watch.holding).is_some_and(|held| held.term == *term) {
            log::info!("term {term} won: the server starts as the primary");
            return Ok(Some(Exit::Ok));
        }
        thread::sleep(Duration::from_millis(10));
    }
    node.files.clear_promoting()?;
    Ok(Some(refused(Refusal::NoWatch, "pg-watch does not take the new term up")))
}
