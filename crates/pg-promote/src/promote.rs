//! The promotion: look, ask the gate, bid, look again, promote; then what is off the critical path.

use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use pg_ha_rules::evidence::{Evidence, Moment, Role};
use pg_ha_rules::exit::{Exit, Refusal};
use pg_ha_rules::gate::{Row, Situation, Verdict, gate};
use pg_ha_rules::heartbeat::State;
use pg_ha_rules::memory::Memory;
use pg_ha_rules::names::Term;
use pg_ha_rules::standing::Promoting;
use pg_ha_system::clock::{Deadline, now_boottime};
use pg_ha_system::journal::Record;
use pg_ha_system::node::Node;
use pg_ha_system::observe::{self, observe};
use pg_ha_system::session::Session;
use pg_ha_system::{repmgr, votes};

/// How long after the bid was won the promotion may still be ordered; later it might meet another's.
const WON_FOR: Duration = Duration::from_millis(500);

/// How long the server has to become writable once ordered.
const PROMOTION: Duration = Duration::from_secs(8);

/// What was seen, what is remembered, and what the gate makes of it.
struct Look {
    evidence: Evidence,
    memory: Memory,
    rows: Vec<Row>,
    verdict: Verdict,
}

fn look(node: &Node) -> anyhow::Result<Result<Look, Exit>> {
    let answers = node.timings.isolation_limit.max(Duration::from_millis(300));
    let evidence = observe(node, Deadline::after(answers));
    let Some(mut memory) = memory(node)? else {
        log::error!("refused: {} ({})", Refusal::NoWatch.meaning(), Refusal::NoWatch.hint());
        return Ok(Err(Exit::Refused(Refusal::NoWatch)));
    };
    memory.saw_all(&evidence, &node.me, node.timings.isolation_limit);
    let fence = node.files.fence()?;
    let (rows, verdict) = gate(&Situation {
        me: &node.me,
        now: evidence.at,
        majority: node.cluster.majority(),
        hold: node.timings.promotion_hold,
        fresh: node.timings.isolation_limit,
        max_lag: node.cluster.failover.max_lag.0,
        priorities: &node.priorities(),
        evidence: &evidence,
        memory: &memory,
        fence: fence.as_ref(),
    });
    Ok(Ok(Look { evidence, memory, rows, verdict }))
}

/// What pg-watch remembers; `None` when it does not run here.
pub(crate) fn memory(node: &Node) -> anyhow::Result<Option<Memory>> {
    let watch = node.files.watch()?;
    let now = Moment(now_boottime());
    Ok(watch.filter(|watch| now.since(watch.at) <= node.timings.isolation_limit * 2).map(|watch| watch.memory))
}

/// `--dry-run`.
pub(crate) fn show(node: &Node, json: bool) -> anyhow::Result<Exit> {
    let look = match look(node)? {
        Ok(look) => look,
        Err(exit) => return Ok(exit),
    };
    if json {
        println!(
            "{}",
            serde_json::json!({ "rows": look.rows, "verdict": look.verdict, "evidence": look.evidence, "memory": look.memory })
        );
    } else {
        for (voter, sight) in &look.evidence.voters {
            println!("    {voter}: {sight}");
        }
        for row in &look.rows {
            let (mark, seen) = match &row.answer {
                Ok(seen) => ("yes", seen),
                Err(seen) => ("NO", seen),
            };
            println!("{}. {} {mark}: {seen}", row.number, row.question);
        }
    }
    Ok(match look.verdict {
        Verdict::Primary(_) | Verdict::Bid(_) => Exit::Ok,
        Verdict::Wait { reason, .. } | Verdict::Refuse { reason, .. } => Exit::Refused(reason),
    })
}

/// Runs the gate until this node is the primary, a refusal is final, or time is up.
pub(crate) fn promote(node: &Node, deadline: Deadline) -> anyhow::Result<Exit> {
    let mut record = Record::begin(node.files.journal(), &node.me, "pg-promote");
    // One at a time; whoever waited looks again.
    let Some(_lock) = node.files.lock("promote", deadline)? else {
        bail!("another pg-promote runs here and does not end")
    };
    record.step("lock");
    let mut waited: Option<String> = None;
    let exit = loop {
        let look = match look(node)? {
            Ok(look) => look,
            Err(exit) => break exit,
        };
        record.step("look");
        record.set("evidence", &look.evidence);
        record.set("rows", &look.rows);
        match look.verdict {
            Verdict::Primary(term) => {
                log::info!("this node is the primary already, under term {term}");
                break Exit::Ok;
            }
            Verdict::Refuse { reason, seen } => break refused(&mut record, reason, &seen),
            Verdict::Wait { until, reason, seen } => {
                // The deadline that kills is close: say why while there is time.
                if Moment(deadline.boottime()).since(Moment(now_boottime())) < Duration::from_secs(2) {
                    break refused(&mut record, reason, &seen);
                }
                if waited.as_ref() != Some(&seen) {
                    log::info!("waiting: {seen}");
                    waited = Some(seen);
                }
                // What is waited for may end early, by a `down`.
                thread::sleep(until.since(Moment(now_boottime())).min(node.timings.heartbeat));
            }
            Verdict::Bid(term) => {
                if let Some(exit) = bid(node, &look.evidence, &term, &mut record)? {
                    break exit;
                }
                thread::sleep(jitter(node.timings.heartbeat));
            }
        }
    };
    record.end(if exit == Exit::Ok { "primary" } else { "not promoted" })?;
    Ok(exit)
}

fn refused(record: &mut Record, reason: Refusal, seen: &str) -> Exit {
    log::error!("refused: {seen}. {} {}", reason.meaning(), reason.hint());
    record.set("refused", reason);
    record.set("seen", seen);
    Exit::Refused(reason)
}

/// Bids for `term`, and promotes under it if it is won. `None`: look and bid again.
fn bid(node: &Node, evidence: &Evidence, term: &Term, record: &mut Record) -> anyhow::Result<Option<Exit>> {
    let pid = Some(std::process::id());
    node.files.set_promoting(&Promoting { term: term.number, begun: Moment(now_boottime()), pid })?;
    let won = win(node, evidence, term, record);
    let exit = match won {
        Ok(true) => act(node, term, record),
        Ok(false) => Ok(None),
        Err(error) => Err(error),
    };
    let promoted = matches!(exit, Ok(Some(Exit::Ok)));
    if promoted {
        wait_for_watch(node);
    }
    node.files.clear_promoting()?;
    let _ = node.files.nudge();
    if promoted {
        record.step("pg-watch sees it");
        aftermath(node, record);
    }
    exit
}

/// The marker stays until pg-watch has seen the primary itself: without either the standing would drop for a moment.
fn wait_for_watch(node: &Node) {
    let deadline = Deadline::after(Duration::from_secs(2));
    while !deadline.passed() {
        let _ = node.files.nudge();
        if node.files.watch().is_ok_and(|watch| watch.is_some_and(|watch| watch.state == State::Primary)) {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    log::warn!("pg-watch has not seen the promoted server yet");
}

/// Row 6: the term at a majority, and the rows before it once more, under it.
fn win(node: &Node, evidence: &Evidence, term: &Term, record: &mut Record) -> anyhow::Result<bool> {
    log::info!("bidding for term {term}");
    let limit = node.timings.isolation_limit.max(Duration::from_millis(500));
    let votes = votes::bid(node, evidence, term, None, Deadline::after(limit));
    record.step("bid");
    let given: Vec<_> = votes.iter().map(|(voter, vote)| format!("{voter}: {vote:?}")).collect();
    record.set("term", term);
    record.set("votes", &given);
    if !votes::won(&votes, node.cluster.majority()) {
        log::warn!("term {term} was not won ({})", given.join("; "));
        return Ok(false);
    }
    // The standing is raised by pg-watch, which sees the term now: the address comes up while the server is promoted.
    node.files.nudge().context("cannot reach pg-watch")?;
    let won = now_boottime();
    let again = look(node)?;
    record.step("look again");
    let confirmed = matches!(again, Ok(Look { verdict: Verdict::Bid(_), .. }));
    let in_time = now_boottime().saturating_sub(won) <= WON_FOR;
    if !(confirmed && in_time) {
        let seen = again.map_or_else(|_| "pg-watch is gone".to_owned(), |look| format!("{:?}", look.verdict));
        log::warn!("term {term} was won, but is void: {seen}");
    }
    Ok(confirmed && in_time)
}

/// Promotes the own server and waits until it is writable.
fn act(node: &Node, term: &Term, record: &mut Record) -> anyhow::Result<Option<Exit>> {
    let conninfo = node.voters.get(&node.me).context("this node is no voter")?;
    let deadline = Deadline::after(PROMOTION);
    let mut session = Session::open(conninfo, deadline)?;
    session.rows("SELECT pg_promote(wait => false)", deadline)?;
    record.step("order");
    while !deadline.passed() {
        let answer = observe::ask(&mut session, None, deadline)?;
        if answer.role == Role::Primary {
            record.step("promotion");
            record.set("position", answer.position);
            log::info!("promoted: this node is the primary, under term {term}");
            return Ok(Some(Exit::Ok));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(Some(refused(record, Refusal::PromotionFailed, "the server did not become writable")))
}

/// What need not be done before the first write.
fn aftermath(node: &Node, record: &mut Record) {
    if let Err(error) = repmgr::promoted(node, Deadline::after(Duration::from_secs(5))) {
        log::warn!("repmgr's metadata could not be brought up to date: {error}");
        record.set("repmgr", error.to_string());
    }
    record.step("repmgr");
    if let Err(error) = node.files.lift_fence() {
        log::warn!("the fence could not be lifted: {error}");
    }
    // pg_rewind, before PostgreSQL 16, reads the timeline from the last checkpoint.
    let checkpoint = node.voters.get(&node.me).map(|own| {
        let deadline = Deadline::after(Duration::from_secs(20));
        Session::open(own, deadline).and_then(|mut session| session.rows("CHECKPOINT", deadline))
    });
    if let Some(Err(error)) = checkpoint {
        log::warn!("no checkpoint after the promotion: {error}");
    }
    record.step("checkpoint");
}

/// Between half and the whole of `pause`, other on each node, so that two bidders do not meet again and again.
fn jitter(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + f64::from(std::process::id() % 64) / 128.0)
}
