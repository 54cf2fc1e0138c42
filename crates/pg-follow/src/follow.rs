//! The ways back, from the cheapest to the dearest, each tried only when the one before did not lead to streaming.

use std::fmt;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use pg_ha_rules::evidence::{Answer, Evidence, Role, Sight};
use pg_ha_rules::exit::{Exit, Refusal};
use pg_ha_rules::fence::{Fence, Reason};
use pg_ha_rules::names::Term;
use pg_ha_rules::term::{self, Truth};
use pg_ha_system::clock::Deadline;
use pg_ha_system::journal::Record;
use pg_ha_system::node::Node;
use pg_ha_system::observe::observe;
use pg_ha_system::session::{Session, quote_literal};
use pg_ha_system::{processes, repmgr, service};

use crate::data;

/// How long a server that was re-pointed or started may take until it streams, before a dearer way is taken.
const STREAMING: Duration = Duration::from_secs(10);

/// A way to become a standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The server runs: point it to the holder by a reload.
    RePoint,
    /// It does not run: start it as a standby of the holder.
    Start,
    /// Take back what the holder's history does not have.
    Rewind,
    /// Copy the whole.
    Clone,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RePoint => "re-point by reload",
            Self::Start => "start as a standby",
            Self::Rewind => "pg_rewind",
            Self::Clone => "clone",
        })
    }
}

pub(crate) fn follow(node: &Node, if_needed: bool, dry_run: bool, deadline: Deadline) -> anyhow::Result<Exit> {
    let Some(_lock) = node.files.lock("follow", Deadline::after(Duration::from_secs(1)))? else {
        log::info!("another pg-follow runs here");
        return Ok(Exit::Ok);
    };
    let evidence = observe(node, Deadline::after(Duration::from_secs(2)));
    let term = match holder(node, &evidence) {
        Ok(term) => term,
        Err((reason, seen)) => {
            log::error!("refused: {seen}. {} {}", reason.meaning(), reason.hint());
            return Ok(Exit::Refused(reason));
        }
    };
    let own = evidence.answer(&node.me);
    if own.is_some_and(|own| own.role == Role::Primary) {
        let reason = Refusal::WithoutTerm;
        log::error!("refused: {} {}", reason.meaning(), reason.hint());
        return Ok(Exit::Refused(reason));
    }
    let fence = node.files.fence()?;
    if own.is_some_and(|own| streams(own, &evidence, &term)) && fence.is_none() {
        if !if_needed {
            log::info!("nothing to do: this node follows {} under term {term}", term.holder);
        }
        // A node that found its own way back is still in repmgr's books as what it was.
        if !dry_run {
            register(node, &term);
        }
        return Ok(Exit::Ok);
    }
    let rebuilding = fence.is_some_and(|fence| fence.reason == Reason::Rebuilding);
    let ways: &[Way] = match own {
        // What a rewind or a clone left half done can only be cloned anew.
        _ if rebuilding || data::is_empty(node) => &[Way::Clone],
        Some(_) => &[Way::RePoint, Way::Rewind, Way::Clone],
        None => &[Way::Start, Way::Rewind, Way::Clone],
    };
    if dry_run {
        let ways: Vec<_> = ways.iter().map(ToString::to_string).collect();
        println!("would follow {} under term {term}: {}", term.holder, ways.join(", else "));
        return Ok(Exit::Ok);
    }
    let mut record = Record::begin(node.files.journal(), &node.me, "pg-follow");
    record.set("term", &term);
    let done = go(node, ways, &term, &mut record, deadline);
    match &done {
        Ok(way) => record.set("way", way.to_string()),
        Err(error) => record.set("error", format!("{error:#}")),
    }
    record.end(if done.is_ok() { "follows" } else { "does not follow" })?;
    done.map(|_| Exit::Ok)
}

/// The holder of the majority's term, if it is another node whose server is a primary.
fn holder(node: &Node, evidence: &Evidence) -> Result<Term, (Refusal, String)> {
    match term::truth_of(evidence, node.cluster.majority()) {
        Truth::Held(term) if term.holder == node.me => {
            Err((Refusal::WithoutTerm, format!("this node itself holds term {term}")))
        }
        Truth::Held(term) => match evidence.voters.get(&term.holder) {
            Some(sight) if sight.answer().is_some_and(|answer| answer.role == Role::Primary) => Ok(term),
            sight => {
                let seen = sight.map_or_else(|| "is no voter".to_owned(), ToString::to_string);
                Err((Refusal::HolderAlive, format!("{} holds term {term}, but its server {seen}", term.holder)))
            }
        },
        Truth::None => Err((Refusal::NoTerm, "no voter stores a term".to_owned())),
        Truth::Unknown | Truth::Undecided => {
            Err((Refusal::NoMajority, "no majority of the voters agrees on a term".to_owned()))
        }
    }
}

/// Does the own server stream on the holder's timeline?
fn streams(own: &Answer, evidence: &Evidence, term: &Term) -> bool {
    let timeline = |answer: &Answer| answer.position.map(|at| at.timeline);
    let holder = evidence.answer(&term.holder).and_then(timeline);
    own.role == Role::Standby && own.streams_from.is_some() && holder.is_some() && timeline(own) == holder
}

fn go(node: &Node, ways: &[Way], term: &Term, record: &mut Record, deadline: Deadline) -> anyhow::Result<Way> {
    data::create_slot(node, &term.holder, Deadline::after(Duration::from_secs(10)))?;
    for way in ways {
        log::info!("following {} under term {term}: {way}", term.holder);
        let tried = match way {
            Way::RePoint => re_point(node, term),
            Way::Start => start(node, term),
            Way::Rewind => rebuild(node, term, deadline, data::rewind),
            Way::Clone => rebuild(node, term, deadline, data::clone),
        };
        let tried = tried.and_then(|()| wait_for_streaming(node, term));
        record.step(&way.to_string());
        match tried {
            Ok(()) => {
                log::info!("this node streams from {}", term.holder);
                register(node, term);
                return Ok(*way);
            }
            Err(error) => log::warn!("{way} did not do: {error:#}"),
        }
    }
    bail!("this node follows nobody; its server's log says why")
}

fn register(node: &Node, term: &Term) {
    if let Err(error) = repmgr::following(node, &term.holder, Deadline::after(Duration::from_secs(5))) {
        log::warn!("repmgr's metadata could not be brought up to date: {error}");
    }
}

/// Does the term still stand, and is this node no primary? Minutes may have passed since the first look.
fn still(node: &Node, term: &Term) -> anyhow::Result<()> {
    let evidence = observe(node, Deadline::after(Duration::from_secs(2)));
    let stands = holder(node, &evidence).ok().as_ref() == Some(term);
    let primary = evidence.answer(&node.me).is_some_and(|own| own.role == Role::Primary);
    if !stands || primary {
        bail!("term {term} does not stand any more, or this node is a primary now");
    }
    Ok(())
}

fn re_point(node: &Node, term: &Term) -> anyhow::Result<()> {
    still(node, term)?;
    let own = node.voters.get(&node.me).context("this node is no voter")?;
    let deadline = Deadline::after(Duration::from_secs(5));
    let mut session = Session::open(own, deadline)?;
    for (setting, value) in data::upstream_settings(node, &term.holder)? {
        session.rows(&format!("ALTER SYSTEM SET {setting} = {}", quote_literal(&value)), deadline)?;
    }
    session.rows("SELECT pg_reload_conf()", deadline)?;
    Ok(())
}

fn start(node: &Node, term: &Term) -> anyhow::Result<()> {
    still(node, term)?;
    data::point_at(node, &term.holder)?;
    Ok(service::start(&node.cluster.postgres)?)
}

/// A rewind or a clone: the marker first, so that no server starts on what is half done.
fn rebuild(
    node: &Node,
    term: &Term,
    deadline: Deadline,
    build: fn(&Node, &Term, Deadline) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let seen = format!("rebuilt as a standby of {}", term.holder);
    {
        // Nobody promotes this server, or starts it, between this look and the marker.
        let promote = node.files.lock("promote", Deadline::after(Duration::from_secs(5)))?;
        let _promote = promote.context("a promotion, or a start, is under way here")?;
        still(node, term)?;
        service::stop(&node.cluster.postgres)?;
        if !processes::of_cluster(&node.data()).is_empty() {
            bail!("a server that systemd does not know runs in {}; stop it", node.data().display());
        }
        node.files.set_fence(&Fence { reason: Reason::Rebuilding, term: term.clone(), seen: seen.clone() })?;
    }
    build(node, term, deadline)?;
    data::point_at(node, &term.holder)?;
    node.files.set_fence(&Fence { reason: Reason::Superseded, term: term.clone(), seen })?;
    Ok(service::start(&node.cluster.postgres)?)
}

/// A server that gets further, by replaying what it has, or that is only starting, is given time.
fn wait_for_streaming(node: &Node, term: &Term) -> anyhow::Result<()> {
    let (mut deadline, mut last) = (Deadline::after(STREAMING), None);
    let mut seen = "it has not answered".to_owned();
    while !deadline.passed() {
        let evidence = observe(node, Deadline::after(Duration::from_secs(1)));
        match evidence.voters.get(&node.me) {
            Some(Sight::Answered(own)) if streams(own, &evidence, term) => return Ok(()),
            Some(Sight::Answered(own)) => {
                if own.position != last {
                    last = own.position;
                    deadline = Deadline::after(STREAMING);
                }
                seen = own.to_string();
            }
            Some(Sight::Alive(_)) => deadline = Deadline::after(STREAMING),
            _ => {}
        }
        thread::sleep(Duration::from_millis(100));
    }
    bail!("after {} s it does not stream ({seen})", STREAMING.as_secs())
}
