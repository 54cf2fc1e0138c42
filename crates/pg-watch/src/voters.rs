//! A session on each voter, kept by a thread of its own: it renews the heartbeat and reads what the voter knows.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use pg_ha_rules::evidence::{Moment, Sight};
use pg_ha_rules::heartbeat::{Heartbeat, State};
use pg_ha_rules::names::{NodeName, Term};
use pg_ha_system::clock::{Deadline, now_boottime};
use pg_ha_system::conninfo::ConnInfo;
use pg_ha_system::node::Node;
use pg_ha_system::session::Session;
use pg_ha_system::{observe, votes};

use crate::watch::Event;

/// What is to be said on every voter, and the call to say it now.
#[derive(Debug)]
pub(crate) struct Board {
    said: Mutex<(Heartbeat, u64)>,
    call: Condvar,
}

impl Board {
    pub(crate) fn new(first: Heartbeat) -> Self {
        Self { said: Mutex::new((first, 0)), call: Condvar::new() }
    }

    /// From now on `heartbeat` is said; at once when it says something new, or when `now`.
    pub(crate) fn say(&self, heartbeat: &Heartbeat, now: bool) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let news =
            (said.0.state, said.0.term, said.0.standing) != (heartbeat.state, heartbeat.term, heartbeat.standing);
        said.0 = heartbeat.clone();
        if news || now {
            said.1 += 1;
            self.call.notify_all();
        }
    }

    /// Waits for `pause`, or until called since `heard`; returns what to say, and the call it answers.
    fn next(&self, heard: u64, pause: Duration) -> (Heartbeat, u64) {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let (said, _) =
            self.call.wait_timeout_while(said, pause, |said| said.1 == heard).unwrap_or_else(PoisonError::into_inner);
        said.clone()
    }
}

/// Starts the thread of every voter.
pub(crate) fn start(node: &Node, board: &Arc<Board>, events: &Sender<Event>) -> std::io::Result<()> {
    for (name, conninfo) in &node.voters {
        let (name, conninfo, board, events) = (name.clone(), conninfo.clone(), Arc::clone(board), events.clone());
        let (heartbeat, limit) = (node.timings.heartbeat, node.timings.isolation_limit);
        thread::Builder::new()
            .name(format!("voter-{name}"))
            .spawn(move || keep(&name, &conninfo, &board, &events, heartbeat, limit))?;
    }
    Ok(())
}

/// A session that has not answered for `limit` counts for nothing any more, so it is given up then.
fn keep(
    name: &NodeName,
    conninfo: &ConnInfo,
    board: &Board,
    events: &Sender<Event>,
    heartbeat: Duration,
    limit: Duration,
) {
    let mut session: Option<Session> = None;
    let mut heard = 0;
    let mut due = now_boottime();
    loop {
        let said;
        (said, heard) = board.next(heard, due.saturating_sub(now_boottime()));
        due = now_boottime() + heartbeat;
        let deadline = Deadline::after(limit);
        let mut sent = Moment(now_boottime());
        let answer = session.take().map_or_else(|| Session::open(conninfo, deadline), Ok).and_then(|mut open| {
            sent = Moment(now_boottime());
            let answer = observe::ask(&mut open, Some(&said), deadline)?;
            session = Some(open);
            Ok(answer)
        });
        if let Ok(answer) = &answer {
            teach(conninfo, &said, answer.term.as_ref(), deadline);
        }
        let sight = answer.map_or_else(|error| observe::sight(&error), Sight::Answered);
        if events
            .send(Event::Saw { voter: name.clone(), said, sent, at: Moment(now_boottime()), sight: Box::new(sight) })
            .is_err()
        {
            return;
        }
    }
}

/// A voter that was away when the term was won learns it from its holder: else the next voter lost would leave a holder
/// without its majority, although one answers.
fn teach(conninfo: &ConnInfo, said: &Heartbeat, stored: Option<&Term>, deadline: Deadline) {
    if said.state != State::Primary || stored.is_some_and(|stored| stored.number >= said.term) {
        return;
    }
    let term = Term { number: said.term, holder: said.node.clone() };
    let vote =
        Session::open(conninfo, deadline).and_then(|mut session| votes::store(&mut session, stored, &term, deadline));
    log::info!("a voter did not know term {term} yet: {vote:?}");
}
