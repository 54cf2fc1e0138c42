//! The promotion: look, ask the gate, bid, look again, promote; then what is off the critical path.

use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use pg_ha_rules::evidence::{Evidence, Moment, Role, Sight};
use pg_ha_rules::exit::{Exit, Refusal};
use pg_ha_rules::gate::{Row, Situation, Verdict, gate};
use pg_ha_rules::heartbeat::State;
use pg_ha_rules::memory::Memory;
use pg_ha_rules::names::{NodeName, Term};
use pg_ha_rules::standing::Promoting;
use pg_ha_system::clock::{Deadline, now_boottime};
use pg_ha_system::files::Watch;
use pg_ha_system::journal::Record;
use pg_ha_system::node::Node;
use pg_ha_system::observe;
use pg_ha_system::repmgr;
use pg_ha_system::session::{Session, SessionError};
use pg_ha_system::votes::{self, Own};

/// How long after the bid was won the promotion may still be ordered; later it might meet another's.
const WON_FOR: Duration = Duration::from_millis(500);

/// How long the own server has for a session.
const ANSWER: Duration = Duration::from_secs(2);

/// How long the server has to become writable once ordered.
const PROMOTION: Duration = Duration::from_secs(8);

/// What was seen, what is remembered, and what the gate makes of it.
struct Look {
    evidence: Evidence,
    memory: Memory,
    rows: Vec<Row>,
    verdict: Verdict,
}

/// pg-watch's sessions answer in milliseconds; new ones would take a tenth of a second, twice in every promotion.
fn look(node: &Node) -> anyhow::Result<Result<Look, Exit>> {
    let Some((evidence, memory)) = ask_watch(node)? else {
        log::error!("refused: {} ({})", Refusal::NoWatch.meaning(), Refusal::NoWatch.hint());
        return Ok(Err(Exit::Refused(Refusal::NoWatch)));
    };
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

/// What pg-watch sees of each voter when it asks now, and what it remembers; `None` when it does not run here.
///
/// Who has not answered by `isolation_limit` is silent. Once a majority has, the others get a moment more.
fn ask_watch(node: &Node) -> anyhow::Result<Option<(Evidence, Memory)>> {
    let asked = Moment(now_boottime());
    let mut until = Deadline::after(node.timings.isolation_limit.max(Duration::from_millis(300)));
    // Nobody listens: pg-watch is gone, which its last turn will show.
    let _ = node.files.nudge();
    loop {
        let now = Moment(now_boottime());
        let Some(watch) = watch(node, now)? else { return Ok(None) };
        let new = |name: &NodeName| watch.asked.get(name).is_some_and(|at| *at >= asked);
        let sight = |name: &NodeName| watch.evidence.voters.get(name).filter(|_| new(name)).cloned();
        let silent = || Sight::Silent("no answer in time".to_owned());
        let voters = node.voters.keys().map(|name| (name.clone(), sight(name).unwrap_or_else(silent)));
        let evidence = Evidence { at: now, voters: voters.collect() };
        if node.voters.keys().all(new) || until.passed() {
            return Ok(Some((evidence, watch.memory)));
        }
        if evidence.answers().count() >= node.cluster.majority() {
            until = until.or_earlier(Deadline::after(observe::STRAGGLERS));
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// pg-watch's last turn, unless it is so old that pg-watch must be gone.
fn watch(node: &Node, now: Moment) -> anyhow::Result<Option<Watch>> {
    Ok(node.files.watch()?.filter(|watch| now.since(watch.at) <= node.timings.isolation_limit * 2))
}

/// What pg-watch remembers; `None` when it does not run here.
pub(crate) fn memory(node: &Node) -> anyhow::Result<Option<Memory>> {
    Ok(watch(node, Moment(now_boottime()))?.map(|watch| watch.memory))
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
    let exit = decide(node, deadline, &mut record);
    match &exit {
        Ok(Exit::Ok) => record.end("primary")?,
        Ok(_) => record.end("not promoted")?,
        Err(error) => {
            record.set("error", format!("{error:#}"));
            record.end("failed")?;
        }
    }
    exit
}

/// Looks, asks the gate, bids, until there is an answer.
fn decide(node: &Node, deadline: Deadline, record: &mut Record) -> anyhow::Result<Exit> {
    let mut waited: Option<String> = None;
    let own = node.voters.get(&node.me).context("this node is no voter")?.clone();
    // A new session takes as long as the look itself: opened meanwhile, kept for the first bid.
    let open = move || Session::open(&own, Deadline::after(ANSWER));
    let mut opening = Some(thread::spawn(open.clone()));
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
                // What a run that was killed half way has not got to.
                settle(node, record);
                break Exit::Ok;
            }
            Verdict::Refuse { reason, seen } => break refused(record, reason, &seen),
            // The server's start asks `--boot`, which needs this lock: not waited for here. pg-watch proposes again.
            Verdict::Wait { reason: reason @ Refusal::NoServer, seen, .. } => {
                break refused(record, reason, &seen);
            }
            Verdict::Wait { until, reason, seen } => {
                // The deadline that kills is close: say why while there is time.
                if Moment(deadline.boottime()).since(Moment(now_boottime())) < Duration::from_secs(2) {
                    break refused(record, reason, &seen);
                }
                if waited.as_ref() != Some(&seen) {
                    log::info!("waiting: {seen}");
                    waited = Some(seen);
                }
                // What is waited for may end early, by a `down`.
                thread::sleep(until.since(Moment(now_boottime())).min(node.timings.heartbeat));
            }
            Verdict::Bid(term) => {
                let opened = opening.take().and_then(|thread| thread.join().ok()).and_then(Result::ok);
                let session = opened.filter(|session| !session.is_lost()).map_or_else(&open, Ok)?;
                record.step("session");
                if let Some(exit) = bid(node, &look.evidence, &term, session, record)? {
                    break exit;
                }
                thread::sleep(jitter(node.timings.heartbeat));
            }
        }
    };
    Ok(exit)
}

fn refused(record: &mut Record, reason: Refusal, seen: &str) -> Exit {
    log::error!("refused: {seen}. {} {}", reason.meaning(), reason.hint());
    record.set("refused", reason);
    record.set("seen", seen);
    Exit::Refused(reason)
}

/// Bids for `term`, and promotes under it if it is won. `None`: look and bid again.
fn bid(
    node: &Node,
    evidence: &Evidence,
    term: &Term,
    session: Session,
    record: &mut Record,
) -> anyhow::Result<Option<Exit>> {
    let mut marker =
        Promoting { term: term.number, begun: Moment(now_boottime()), pid: Some(std::process::id()), ordered: false };
    node.files.set_promoting(&marker)?;
    let exit = win(node, evidence, term, session, record).and_then(|won| match won {
        Some(won) => act(node, won, &mut marker, record),
        None => Ok(None),
    });
    let promoted = matches!(exit, Ok(Some(Exit::Ok)));
    if promoted {
        log::info!("promoted: this node is the primary, under term {term}");
        wait_for_watch(node, State::Primary, term, Duration::from_secs(2))?;
    }
    // An order that did not end stays marked: pg-watch ends it, since nothing else can take it back.
    if promoted || !marker.ordered {
        node.files.clear_promoting()?;
        let _ = node.files.nudge();
    }
    if promoted {
        record.step("pg-watch sees it");
        aftermath(node, record);
    }
    exit
}

/// Waits until pg-watch has taken the term up, in this state: from then on it answers for this node.
fn wait_for_watch(node: &Node, state: State, term: &Term, limit: Duration) -> anyhow::Result<bool> {
    let deadline = Deadline::after(limit);
    while !deadline.passed() {
        let watch = node.files.watch()?;
        if watch.is_some_and(|watch| watch.state == state && watch.holding.is_some_and(|held| held.term == *term)) {
            return Ok(true);
        }
        node.files.nudge().context("cannot reach pg-watch")?;
        thread::sleep(Duration::from_millis(5));
    }
    log::warn!("pg-watch does not take term {term} up ({state})");
    Ok(false)
}

/// A won term: until when the promotion may be ordered, and the session to order it in.
struct Won {
    until: Deadline,
    session: Session,
}

/// Row 6: the term at a majority, and the rows before it once more, under it.
fn win(
    node: &Node,
    evidence: &Evidence,
    term: &Term,
    mut session: Session,
    record: &mut Record,
) -> anyhow::Result<Option<Won>> {
    log::info!("bidding for term {term}");
    let limit = Deadline::after(node.timings.isolation_limit.max(Duration::from_millis(500)));
    let votes = votes::bid(node, evidence, term, Own::Server(&mut session), limit);
    record.step("bid");
    let given: Vec<_> = votes.iter().map(|(voter, vote)| format!("{voter}: {vote:?}")).collect();
    record.set("term", term);
    record.set("votes", &given);
    if !votes::won(&votes, node.cluster.majority()) {
        log::warn!("term {term} was not won ({})", given.join("; "));
        return Ok(None);
    }
    let until = Deadline::after(WON_FOR);
    // pg-watch sees the term now and raises the standing: the address comes up while the server is promoted.
    node.files.nudge().context("cannot reach pg-watch")?;
    match look(node)? {
        Ok(Look { verdict: Verdict::Bid(_), .. }) => {}
        Ok(look) => {
            log::warn!("term {term} was won, but is void: {:?}", look.verdict);
            record.set("void", &look.verdict);
            return Ok(None);
        }
        Err(_) => return Ok(None),
    }
    record.step("look again");
    let taken = wait_for_watch(node, State::Promoting, term, until.remaining())?;
    record.step("pg-watch takes it up");
    Ok(taken.then_some(Won { until, session }))
}

/// Promotes the own server and waits until it is writable.
fn act(node: &Node, won: Won, marker: &mut Promoting, record: &mut Record) -> anyhow::Result<Option<Exit>> {
    let Won { until, mut session } = won;
    *marker = Promoting { pid: None, ordered: true, ..marker.clone() };
    node.files.set_promoting(marker)?;
    if until.passed() {
        log::warn!("the term was won too long ago to be acted under");
        marker.ordered = false;
        return Ok(None);
    }
    let deadline = Deadline::after(PROMOTION);
    session.rows("SELECT pg_promote(wait => false)", deadline)?;
    record.step("order");
    while !deadline.passed() {
        match observe::ask(&mut session, None, deadline) {
            Ok(answer) if answer.role == Role::Primary => {
                record.step("promotion");
                record.set("position", answer.position);
                return Ok(Some(Exit::Ok));
            }
            // Some functions fail when recovery ends in the middle of the question.
            Ok(_) | Err(SessionError::Sql { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(Some(refused(record, Refusal::PromotionFailed, "the server did not become writable")))
}

/// What need not be done before the first write.
fn aftermath(node: &Node, record: &mut Record) {
    settle(node, record);
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

/// A primary is in repmgr's books as one, and has no fence.
fn settle(node: &Node, record: &mut Record) {
    if let Err(error) = repmgr::promoted(node, Deadline::after(Duration::from_secs(5))) {
        log::warn!("repmgr's metadata could not be brought up to date: {error}");
        record.set("repmgr", error.to_string());
    }
    record.step("repmgr");
    if let Err(error) = node.files.lift_fence() {
        log::warn!("the fence could not be lifted: {error}");
    }
}

/// Between half and the whole of `pause`, other on each node, so that two bidders do not meet again and again.
fn jitter(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + f64::from(std::process::id() % 64) / 128.0)
}
