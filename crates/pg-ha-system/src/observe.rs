//! Looking at every voter at once, within one deadline.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use pg_ha_rules::evidence::{Answer, Beat, Evidence, Moment, Role, Sight};
use pg_ha_rules::heartbeat::Heartbeat;
use pg_ha_rules::names::Position;

use crate::clock::{Deadline, now_boottime};
use crate::node::Node;
use crate::session::{Session, SessionError};

/// What the last voters get once a majority has answered.
pub const STRAGGLERS: Duration = Duration::from_millis(50);

/// What a voter is asked, in one round trip.
///
/// The term comes from `pg_file_settings`, which shows an `ALTER SYSTEM` at once; where a mistake in
/// postgresql.conf hides that, from the value the server goes by.
/// `pg_control_checkpoint()` is stale for a while after a promotion, so the receiver's timeline counts too.
const QUESTION: &str = "
SELECT (SELECT system_identifier FROM pg_control_system()) AS system,
       r.recovering,
       coalesce((SELECT setting FROM pg_file_settings WHERE name = 'pgha.term' ORDER BY seqno DESC LIMIT 1),
                current_setting('pgha.term', true)) AS term,
       CASE WHEN r.recovering
            THEN greatest((SELECT received_tli FROM pg_stat_wal_receiver),
                          (SELECT timeline_id FROM pg_control_checkpoint()),
                          (SELECT min_recovery_end_timeline FROM pg_control_recovery()))
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8))::bit(32)::int
       END AS timeline,
       CASE WHEN r.recovering
            THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
            ELSE pg_current_wal_flush_lsn()
       END AS lsn,
       CASE WHEN r.recovering
            THEN greatest(0, pg_last_wal_receive_lsn() - pg_last_wal_replay_lsn())
            ELSE 0
       END AS backlog,
       CASE WHEN NOT r.recovering THEN NULL
            WHEN pg_get_wal_replay_pause_state() <> 'not paused' THEN 'replay is ' || pg_get_wal_replay_pause_state()
            WHEN current_setting('recovery_min_apply_delay') <> '0' THEN 'recovery_min_apply_delay is set'
       END AS hindrance,
       (SELECT sender_host FROM pg_stat_wal_receiver WHERE status = 'streaming') AS streams_from,
       extract(epoch FROM pg_postmaster_start_time()) AS started,
       (SELECT string_agg(pid || '@' || extract(epoch FROM query_start) || ' ' || application_name, E'\\n' ORDER BY pid)
          FROM pg_stat_activity
         WHERE application_name LIKE 'pgha:%' AND usename = current_user) AS heartbeats
  FROM (SELECT pg_is_in_recovery() AS recovering) r";

/// Asks one voter; with `heartbeat`, renews that there in the same round trip.
pub fn ask(session: &mut Session, heartbeat: Option<&Heartbeat>, deadline: Deadline) -> Result<Answer, SessionError> {
    let question = match heartbeat {
        // A heartbeat holds nothing that would need quoting: names, numbers, `:` and `/`.
        Some(said) => format!("SET application_name = '{said}'; {QUESTION}"),
        None => QUESTION.to_owned(),
    };
    let rows = session.rows(&question, deadline)?;
    let row = rows.first();
    let field = |name: &str| row.and_then(|row| row.named(name)).map(str::to_owned);
    let position = match (field("timeline").and_then(|t| t.parse().ok()), field("lsn").and_then(|l| l.parse().ok())) {
        (Some(timeline), Some(lsn)) => Some(Position { timeline, lsn }),
        _ => None,
    };
    Ok(Answer {
        system: field("system").unwrap_or_default(),
        role: if field("recovering").as_deref() == Some("f") { Role::Primary } else { Role::Standby },
        term: field("term").and_then(|term| term.parse().ok()),
        position,
        backlog: field("backlog").and_then(|bytes| bytes.parse().ok()).unwrap_or(0),
        hindrance: field("hindrance"),
        streams_from: field("streams_from"),
        started: field("started").unwrap_or_default(),
        heartbeats: field("heartbeats").unwrap_or_default().lines().filter_map(beat).collect(),
    })
}

/// `PID@START HEARTBEAT`.
fn beat(line: &str) -> Option<Beat> {
    let (renewal, said) = line.split_once(' ')?;
    Some(Beat { renewal: renewal.to_owned(), said: said.parse().ok()? })
}

/// What an error says of the voter.
#[must_use]
pub fn sight(error: &SessionError) -> Sight {
    match error {
        SessionError::Refused { .. } => Sight::Refused,
        SessionError::Starting { .. }
        | SessionError::ShuttingDown { .. }
        | SessionError::Alive { .. }
        | SessionError::Sql { .. } => Sight::Alive(error.to_string()),
        SessionError::Silent { .. }
        | SessionError::Unreachable { .. }
        | SessionError::Lost { .. }
        | SessionError::NotAsked { .. }
        | SessionError::Config { .. } => Sight::Silent(error.to_string()),
    }
}

/// Asks every voter in parallel. Whoever has not answered by `deadline` is silent; nothing waits longer. Once a
/// majority has answered, the others get a moment more: a dead machine must not hold up every look.
#[must_use]
pub fn observe(node: &Node, deadline: Deadline) -> Evidence {
    let (send, receive) = mpsc::channel();
    for (name, conninfo) in &node.voters {
        let (name, conninfo, send) = (name.clone(), conninfo.clone(), send.clone());
        let look = move || {
            let answer = Session::open(&conninfo, deadline).and_then(|mut session| ask(&mut session, None, deadline));
            let _ = send.send((name, answer.map_or_else(|error| sight(&error), Sight::Answered)));
        };
        // Where no thread can be had, that voter stays silent.
        let _ = thread::Builder::new().name("observe".to_owned()).spawn(look);
    }
    drop(send);
    let mut voters: BTreeMap<_, _> =
        node.voters.keys().map(|name| (name.clone(), Sight::Silent("no answer in time".to_owned()))).collect();
    let mut until = deadline;
    while let Ok((name, sight)) = receive.recv_timeout(until.remaining()) {
        voters.insert(name, sight);
        if voters.values().filter(|sight| sight.answer().is_some()).count() >= node.cluster.majority() {
            until = until.or_earlier(Deadline::after(STRAGGLERS));
        }
    }
    Evidence { at: Moment(now_boottime()), voters }
}
