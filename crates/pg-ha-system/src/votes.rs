//! The store of terms: every voter keeps `pgha.term`, changed only by compare-and-set.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use pg_ha_rules::evidence::Evidence;
use pg_ha_rules::names::{NodeName, Term};

use crate::clock::Deadline;
use crate::durable;
use crate::node::Node;
use crate::session::{Row, Session, SessionError};

/// The advisory lock that serialises writers of one voter's term; any number that nobody else uses.
const LOCK: i64 = 0x7067_6861;

/// What came of one vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vote {
    /// The voter stores the new term, durably.
    Given,
    /// It stored another term than the bid was based on; here it is.
    Refused(Option<Term>),
    /// Nobody knows: it may store it or not.
    Unknown(String),
}

/// How this node's own vote is cast.
#[derive(Debug)]
pub enum Own<'a> {
    /// By its server.
    Server(&'a mut Session),
    /// On the disk of this data directory, since its server does not run.
    Disk(&'a Path),
}

/// A voter's term as its files have it: an `ALTER SYSTEM` shows at once. Where a mistake in them hides it, what the
/// server goes by may be old, and a vote based on it would be given twice.
const READ: &str = "SELECT (SELECT setting FROM pg_file_settings WHERE name = 'pgha.term' ORDER BY seqno DESC LIMIT 1)
    AS stored, current_setting('pgha.term', true) AS applied";

/// Stores `new` on the voter behind `session` if it still stores `base`.
pub fn store(session: &mut Session, base: Option<&Term>, new: &Term, deadline: Deadline) -> Result<Vote, SessionError> {
    let wait = deadline.remaining().as_millis().max(1);
    let rows = session.rows(
        &format!(
            "SET lock_timeout = {wait}; SET statement_timeout = {wait}; SET idle_session_timeout = '10s';
             SELECT pg_advisory_lock({LOCK}); {READ}"
        ),
        deadline,
    )?;
    let Some(stored) = shown(&rows) else { return Ok(Vote::Unknown(HIDDEN.to_owned())) };
    if stored.as_ref() != base || stored.as_ref().is_some_and(|stored| stored.number >= new.number) {
        session.rows(&format!("SELECT pg_advisory_unlock({LOCK})"), deadline)?;
        return Ok(Vote::Refused(stored));
    }
    // The first makes the server know the name; ALTER SYSTEM stands alone, since it takes no part in a transaction.
    session.rows(&format!("SET pgha.term = '{new}'"), deadline)?;
    session.rows(&format!("ALTER SYSTEM SET pgha.term = '{new}'"), deadline)?;
    let rows =
        session.rows(&format!("SELECT pg_reload_conf(); {READ}; SELECT pg_advisory_unlock({LOCK})"), deadline)?;
    let given = shown(&rows).flatten().as_ref() == Some(new);
    Ok(if given { Vote::Given } else { Vote::Unknown(HIDDEN.to_owned()) })
}

const HIDDEN: &str = "its configuration files have an error (SELECT * FROM pg_file_settings): it shows no new term";

/// What `READ` gave: the stored term or none, where the files show it.
#[expect(clippy::option_option, reason = "no answer, and the answer that there is none")]
fn shown(rows: &[Row]) -> Option<Option<Term>> {
    let row = rows.iter().find(|row| row.columns().iter().any(|column| column == "stored"))?;
    let stored: Option<Term> = row.named("stored").and_then(|term| term.parse().ok());
    let hidden = stored.is_none() && row.named("applied").is_some_and(|applied| !applied.is_empty());
    (!hidden).then_some(stored)
}

/// Bids for `new` at every voter that answered in `evidence`, others first and in parallel, this node last.
#[must_use]
pub fn bid(node: &Node, evidence: &Evidence, new: &Term, own: Own, deadline: Deadline) -> BTreeMap<NodeName, Vote> {
    let (send, receive) = mpsc::channel();
    let others = evidence.answers().filter(|(name, _)| **name != node.me);
    for (name, base) in others.map(|(name, answer)| (name.clone(), answer.term.clone())) {
        let Some(conninfo) = node.voters.get(&name).cloned() else { continue };
        let (new, send) = (new.clone(), send.clone());
        let vote = move || {
            let vote = Session::open(&conninfo, deadline)
                .and_then(|mut session| store(&mut session, base.as_ref(), &new, deadline));
            let _ = send.send((name, vote.unwrap_or_else(|error| Vote::Unknown(error.to_string()))));
        };
        let _ = thread::Builder::new().name("vote".to_owned()).spawn(vote);
    }
    drop(send);
    let mut votes = BTreeMap::new();
    // One voter that hangs must not hold up the others' votes, and a bid that cannot be won leaves no trace here.
    let needed = node.cluster.majority().saturating_sub(1);
    let given = |votes: &BTreeMap<NodeName, Vote>| votes.values().filter(|vote| **vote == Vote::Given).count();
    while given(&votes) < needed {
        let Ok((name, vote)) = receive.recv_timeout(deadline.remaining() / 2) else { break };
        votes.insert(name, vote);
    }
    if given(&votes) < needed {
        return votes;
    }
    if let Some(base) = evidence.answer(&node.me).map(|answer| answer.term.as_ref()) {
        let vote = match own {
            Own::Disk(data) => store_on_disk(data, base, new).map_err(|error| error.to_string()),
            Own::Server(session) => store(session, base, new, deadline).map_err(|error| error.to_string()),
        };
        votes.insert(node.me.clone(), vote.unwrap_or_else(Vote::Unknown));
    }
    votes
}

/// Did a majority give its vote?
#[must_use]
pub fn won(votes: &BTreeMap<NodeName, Vote>, majority: usize) -> bool {
    votes.values().filter(|vote| **vote == Vote::Given).count() >= majority
}

const SETTING: &str = "pgha.term";

/// The term in `postgresql.auto.conf` of a data directory whose server does not run.
pub fn read_on_disk(data: &Path) -> io::Result<Option<Term>> {
    let text = std::fs::read_to_string(data.join("postgresql.auto.conf"))?;
    let last = text.lines().rev().find_map(value_of);
    last.map(|value| value.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))).transpose()
}

/// Stores `new` there if it still stores `base`; no server may run on the directory.
pub fn store_on_disk(data: &Path, base: Option<&Term>, new: &Term) -> io::Result<Vote> {
    let stored = read_on_disk(data)?;
    if stored.as_ref() != base || stored.as_ref().is_some_and(|stored| stored.number >= new.number) {
        return Ok(Vote::Refused(stored));
    }
    write_on_disk(data, new)?;
    Ok(Vote::Given)
}

/// Writes `term` into `postgresql.auto.conf`, in the place of the one there.
pub fn write_on_disk(data: &Path, term: &Term) -> io::Result<()> {
    let path = data.join("postgresql.auto.conf");
    let text = std::fs::read_to_string(&path)?;
    let others = text.lines().filter(|line| value_of(line).is_none());
    let new: String = others.map(|line| format!("{line}\n")).chain([format!("{SETTING} = '{term}'\n")]).collect();
    durable::replace(&path, new.as_bytes())
}

fn value_of(line: &str) -> Option<&str> {
    let value = line.trim().strip_prefix(SETTING)?.trim_start().strip_prefix('=')?.trim();
    value.strip_prefix('\'')?.strip_suffix('\'')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vote_on_disk_is_given_once_and_keeps_the_other_settings() {
        let data = tempfile::tempdir().unwrap();
        let auto = data.path().join("postgresql.auto.conf");
        std::fs::write(&auto, "# Do not edit\nwork_mem = '64MB'\npgha.term = '7/pg1/async'\n").unwrap();
        let (old, new): (Term, Term) = ("7/pg1/async".parse().unwrap(), "8/pg2/async".parse().unwrap());
        assert_eq!(store_on_disk(data.path(), Some(&old), &new).unwrap(), Vote::Given);
        assert_eq!(store_on_disk(data.path(), Some(&old), &new).unwrap(), Vote::Refused(Some(new.clone())));
        assert_eq!(store_on_disk(data.path(), Some(&new), &old).unwrap(), Vote::Refused(Some(new)));
        assert_eq!(
            std::fs::read_to_string(&auto).unwrap(),
            "# Do not edit\nwork_mem = '64MB'\npgha.term = '8/pg2/async'\n"
        );
    }
}
