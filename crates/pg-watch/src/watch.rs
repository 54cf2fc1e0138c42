//! The loop: take in what the voters said, take a turn by the rule, publish, and stop PostgreSQL when the rule says so.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use pg_ha_rules::evidence::{Answer, Evidence, Moment, Role, Sight};
use pg_ha_rules::fence::Fence;
use pg_ha_rules::heartbeat::{Heartbeat, State};
use pg_ha_rules::hold;
use pg_ha_rules::memory::Memory;
use pg_ha_rules::names::NodeName;
use pg_ha_rules::standing::{self, Ack, Holding, Server, Turn, View};
use pg_ha_rules::term::{self, Truth};
use pg_ha_system::clock::{Deadline, now_boottime};
use pg_ha_system::files::{Files, Watch};
use pg_ha_system::node::Node;
use pg_ha_system::{processes, votes};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Pid;
use sd_notify::NotifyState;

use crate::guard::Guard;
use crate::proposals::Proposal;
use crate::stop;
use crate::voters::{self, Board};

/// How long the marker of a promotion, or of a start as primary, keeps others waiting.
const PROMOTION_LIMIT: Duration = Duration::from_secs(10);

/// How long a standby may be without an upstream before pg-follow is called: a server that just started connects.
const IDLE: Duration = Duration::from_secs(1);

/// How much later the guard acts, so that a pg-watch that is awake acts first and says why. Part of `pause_allowance`.
const GUARD_GRACE: Duration = Duration::from_millis(50);

/// What wakes the loop before its time.
#[derive(Debug)]
pub(crate) enum Event {
    /// A voter was asked.
    Saw {
        /// Which.
        voter: NodeName,
        /// What it was told.
        said: Heartbeat,
        /// When the heartbeat was sent.
        sent: Moment,
        /// When the answer came in.
        at: Moment,
        /// What came back.
        sight: Box<Sight>,
    },
    /// A hook asks for a turn at once.
    Nudged,
    /// The postmaster ended.
    Ended(Pid),
}

/// The own server, as far as known.
#[derive(Debug, Default)]
struct Own {
    /// Its postmaster.
    postmaster: Option<Pid>,
    /// When that was first seen.
    found: Moment,
    /// What it said last, and when it was asked.
    said: Option<(Answer, Moment)>,
}

struct Watcher {
    node: Node,
    config: PathBuf,
    data: PathBuf,
    began: Moment,
    board: Arc<Board>,
    events: Sender<Event>,
    guard: Guard,
    acks: BTreeMap<NodeName, Ack>,
    evidence: Evidence,
    asked: BTreeMap<NodeName, Moment>,
    memory: Memory,
    holding: Option<Holding>,
    /// Until when this node may be primary without another acknowledgement.
    lease: Option<Moment>,
    own: Own,
    /// A fence that could not be written keeps its force in memory, but is not proof enough to call this node down.
    unwritten: Option<Fence>,
    why: String,
    promote: Proposal,
    follow: Proposal,
    idle_since: Option<Moment>,
    /// This node found its way back: pg-follow is to put the books right.
    rejoined: bool,
}

/// Runs until the process is ended.
pub(crate) fn run(node: Node, config: &Path) -> anyhow::Result<()> {
    let lock = node
        .files
        .lock("watch", Deadline::after(Duration::from_secs(2)))
        .context("cannot lock /run/pg-ha; is it there? (systemd-tmpfiles --create)")?;
    let _lock = lock.context("another pg-watch runs here")?;
    let (events, inbox) = mpsc::channel();
    listen(&node.files, events.clone()).context("cannot listen for nudges")?;
    let nothing = Heartbeat { node: node.me.clone(), term: 0, state: State::Unfit, standing: 0, position: None };
    let board = Arc::new(Board::new(nothing));
    voters::start(&node, &board, &events).context("cannot start the voters' threads")?;
    // What an earlier pg-watch held and saw still binds this one; after a reboot there is nothing.
    let before = node.files.watch().ok().flatten();
    let guard = Guard::start(config, &node)?;
    let watcher = Watcher {
        config: config.to_owned(),
        data: node.data(),
        began: Moment(now_boottime()),
        board,
        events,
        guard,
        acks: BTreeMap::new(),
        evidence: Evidence::default(),
        asked: BTreeMap::new(),
        memory: before.as_ref().map(|before| before.memory.clone()).unwrap_or_default(),
        holding: before.and_then(|before| before.holding),
        lease: None,
        own: Own::default(),
        unwritten: None,
        why: String::new(),
        promote: Proposal::new("pg-promote", &[], Duration::from_millis(500)),
        follow: Proposal::new("pg-follow", &["--if-needed"], Duration::from_secs(5)),
        idle_since: None,
        rejoined: false,
        node,
    };
    watcher.go(&inbox)
}

/// A datagram on the socket asks for a turn at once.
fn listen(files: &Files, events: Sender<Event>) -> std::io::Result<()> {
    let path = files.nudge_socket();
    let _ = fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path)?;
    let wait = move || {
        let mut buffer = [0; 16];
        while socket.recv(&mut buffer).is_ok() && events.send(Event::Nudged).is_ok() {}
    };
    thread::Builder::new().name("nudge".to_owned()).spawn(wait).map(drop)
}

/// Is what was said a claim to be primary, and does the voter show it to the others? Where it does not (its
/// `track_activities` is off), no bidder would be held off by it.
fn shows_claim(answer: &Answer, said: &Heartbeat) -> bool {
    let mut shown = answer.heartbeats.iter().map(|beat| &beat.said);
    said.state.claims() && shown.any(|s| s.node == said.node && s.term == said.term && s.state.claims())
}

impl Watcher {
    fn go(mut self, inbox: &Receiver<Event>) -> anyhow::Result<()> {
        let mut ready = false;
        loop {
            let nudged = match inbox.recv_timeout(self.pause()) {
                Ok(event) => inbox.try_iter().fold(self.take(event), |nudged, event| nudged | self.take(event)),
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the voters' threads ended"),
            };
            self.turn(nudged);
            let _ = sd_notify::notify(&[NotifyState::Watchdog]);
            if !ready {
                let _ = sd_notify::notify(&[NotifyState::Ready]);
                ready = true;
            }
        }
    }

    /// Until the next heartbeat, or until this node may be primary no longer.
    fn pause(&self) -> Duration {
        let now = Moment(now_boottime());
        let left = self.lease.map(|until| until.since(now) + Duration::from_millis(1));
        left.map_or(self.node.timings.heartbeat, |left| left.min(self.node.timings.heartbeat))
    }

    /// Takes in an event; true: say the heartbeat again at once.
    fn take(&mut self, event: Event) -> bool {
        match event {
            Event::Saw { voter, said, sent, at, sight } => {
                if let Sight::Answered(answer) = &*sight {
                    let claimed = if shows_claim(answer, &said) {
                        Some(sent)
                    } else {
                        self.acks
                            .get(&voter)
                            .filter(|before| before.term == answer.term)
                            .and_then(|before| before.claimed)
                    };
                    self.acks.insert(voter.clone(), Ack { sent, term: answer.term.clone(), claimed });
                    self.memory.saw(&voter, answer, &self.node.me, at, self.node.timings.isolation_limit);
                    if voter == self.node.me && self.own.postmaster.is_some() && sent >= self.own.found {
                        self.own.said = Some((answer.clone(), sent));
                    }
                }
                if let (Sight::Alive(_), Some((_, asked))) =
                    (&*sight, self.own.said.as_mut().filter(|_| voter == self.node.me))
                {
                    // Shutting down, or full: it gives no answer, but it does not hang.
                    *asked = sent;
                }
                self.evidence.at = at;
                self.asked.insert(voter.clone(), sent);
                self.evidence.voters.insert(voter, *sight);
                false
            }
            Event::Nudged => true,
            Event::Ended(pid) => {
                if self.own.postmaster == Some(pid) {
                    log::warn!("the postmaster (process {pid}) has ended");
                    self.own = Own::default();
                }
                false
            }
        }
    }

    fn turn(&mut self, nudged: bool) {
        let now = Moment(now_boottime());
        let truth = self.truth(now);
        if let Some((answer, _)) = &self.own.said {
            self.memory.follows(answer, &truth, &self.node.me, self.node.cluster.failover.max_lag.0);
        }
        let fence = self.fence();
        let turn = self.decide(now, &truth, fence.as_ref());
        self.publish(&turn, now, nudged);
        if let Some(order) = turn.stop {
            let fence = order.term.map(|term| Fence { reason: order.reason, term, seen: order.seen.clone() });
            let stopped = stop::stop(&self.node, &self.data, fence.as_ref(), &order.seen);
            self.own = Own::default();
            self.unwritten = fence.filter(|_| !stopped.fenced);
            // Say what is left of it at once: `down` spares the others the hold.
            let fence = self.fence();
            let after = self.decide(Moment(now_boottime()), &truth, fence.as_ref());
            if after.stop.is_none() {
                self.publish(&after, Moment(now_boottime()), true);
            }
        }
        self.propose(turn.state, &truth, fence.as_ref(), now);
    }

    /// The term a majority of the voters that acknowledged lately stores.
    fn truth(&self, now: Moment) -> Truth {
        let fresh = self.acks.values().filter(|ack| now.since(ack.sent) <= self.node.timings.isolation_limit);
        term::truth(fresh.map(|ack| ack.term.as_ref()), self.node.cluster.majority())
    }

    /// The fence in force; lifted here when this node has rejoined. One that cannot be read is in force.
    fn fence(&mut self) -> Option<Fence> {
        match self.node.files.fence() {
            Ok(Some(fence)) if self.memory.lifts(&fence) => match self.node.files.lift_fence() {
                Ok(()) => {
                    log::info!("fence lifted: this node follows the holder again");
                    self.rejoined = true;
                    None
                }
                Err(_) => Some(fence),
            },
            Ok(fence) => {
                let rejoined = self.unwritten.as_ref().is_some_and(|unwritten| self.memory.lifts(unwritten));
                if fence.is_some() || rejoined {
                    self.unwritten = None;
                }
                fence.or_else(|| self.unwritten.clone())
            }
            Err(error) => {
                log::error!("{error}");
                let term = self
                    .holding
                    .as_ref()
                    .map(|h| h.term.clone())
                    .or_else(|| self.acks.values().find_map(|ack| ack.term.clone()));
                term.map(|term| Fence { reason: pg_ha_rules::fence::Reason::Superseded, term, seen: error.to_string() })
            }
        }
    }

    fn decide(&mut self, now: Moment, truth: &Truth, fence: Option<&Fence>) -> Turn {
        let server = self.server(now);
        if self.own.said.is_none() && self.node.has_server() {
            // While the server cannot be asked, this node's vote is what stands on its disk.
            if let Ok(term) = votes::read_on_disk(&self.data) {
                self.acks.insert(self.node.me.clone(), Ack { sent: now, term, claimed: Some(now) });
            }
        }
        let promoting = self.node.files.promoting().unwrap_or_default();
        let promoting = promoting.filter(|p| p.pid.is_none_or(|pid| Path::new(&format!("/proc/{pid}")).exists()));
        let hindered = self.own.said.as_ref().is_none_or(|(answer, _)| answer.hindrance.is_some());
        let view = View {
            me: &self.node.me,
            now,
            began: self.began,
            majority: self.node.cluster.majority(),
            limit: self.node.timings.isolation_limit,
            promotion_limit: PROMOTION_LIMIT,
            acks: &self.acks,
            server,
            fence,
            promoting: promoting.as_ref(),
            stood: self.stood(),
            holding: self.holding.as_ref(),
            eligible: fence.is_none() && !hindered && self.memory.eligible(truth, &self.node.me),
        };
        let mut turn = standing::turn(&view);
        if turn.state == State::Primary && promoting.is_some_and(|marker| marker.pid.is_none()) {
            // The start, or the promotion, has ended well: a death from now on is a death.
            if let Err(error) = self.node.files.clear_promoting() {
                log::warn!("cannot take back the marker of the promotion: {error}");
            }
        }
        if turn.state == State::Down && self.unwritten.is_some() {
            turn.state = State::Unfit;
        }
        turn
    }

    /// Does the standing file give this node the rank of the term it holds?
    fn stood(&self) -> bool {
        let standing = Files::read_number(&self.node.files.standing());
        self.holding.as_ref().is_some_and(|held| standing == term::rank(held.term.number))
    }

    /// Looks at the processes only while no postmaster is known: a known one is watched by its descriptor.
    fn server(&mut self, now: Moment) -> Server {
        if !self.node.has_server() {
            return Server::Gone;
        }
        if self.own.postmaster.is_none() {
            self.follow_data();
            let Some(pid) = processes::postmaster(&self.data) else {
                return if processes::of_cluster(&self.data).is_empty() { Server::Gone } else { Server::Orphans };
            };
            match self.follow_process(pid) {
                Ok(()) => self.own = Own { postmaster: Some(pid), found: now, said: None },
                Err(error) => log::warn!("cannot watch the postmaster (process {pid}): {error}"),
            }
        }
        let said = self.own.said.as_ref();
        let role = said.map_or_else(
            || if self.data.join("standby.signal").exists() { Role::Standby } else { Role::Primary },
            |(answer, _)| answer.role,
        );
        Server::Running { role, answered: said.map(|(_, asked)| *asked) }
    }

    /// The directory may have been made, or moved, since pg-watch began; the guard knows processes by it too.
    fn follow_data(&mut self) {
        let data = self.node.data();
        if data != self.data {
            log::info!("the data directory is {}", data.display());
            self.data = data;
            self.start_guard();
        }
    }

    fn start_guard(&mut self) {
        match Guard::start(&self.config, &self.node) {
            Ok(guard) => self.guard = guard,
            Err(error) => log::error!("{error:#}"),
        }
    }

    fn follow_process(&self, pid: Pid) -> std::io::Result<()> {
        let descriptor = processes::watch_end(pid)?;
        let events = self.events.clone();
        let wait = move || {
            while poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], None).is_err() {}
            let _ = events.send(Event::Ended(pid));
        };
        thread::Builder::new().name("postmaster".to_owned()).spawn(wait).map(drop)
    }

    /// Standing first: it is what keepalived acts upon.
    fn publish(&mut self, turn: &Turn, now: Moment, nudged: bool) {
        let files = &self.node.files;
        let candidate = match turn.state {
            State::Primary | State::Promoting => term::MAX_RANK,
            State::Standby => 1,
            State::Unfit | State::Down => 0,
        };
        for (path, number) in [(files.standing(), turn.standing), (files.candidate(), candidate)] {
            if (Files::read_number(&path) != number || !path.exists())
                && let Err(error) = Files::write_number(&path, number)
            {
                log::error!("cannot write {}: {error}", path.display());
            }
        }
        let position = self.own.said.as_ref().and_then(|(answer, _)| self.memory.position(answer));
        let heartbeat = Heartbeat {
            node: self.node.me.clone(),
            term: turn.term,
            state: turn.state,
            standing: turn.standing,
            position,
        };
        self.board.say(&heartbeat, nudged);
        self.holding.clone_from(&turn.holding);
        if !self.guard.lives() {
            log::warn!("the guard has ended; starting another");
            self.start_guard();
        }
        let held = turn.state.claims().then_some(turn.holding.as_ref()).flatten();
        self.lease = held.map(|held| held.acked.plus(self.node.timings.isolation_limit));
        if turn.stop.is_some() {
            // The guard keeps its lease until PostgreSQL is stopped, in case this process does not get that far.
        } else if let Err(error) = self.guard.lease(self.lease.map(|until| until.plus(GUARD_GRACE))) {
            log::error!("the guard does not listen: {error}");
        }
        if self.why != turn.why {
            log::info!("{} (standing {}): {}", turn.state, turn.standing, turn.why);
            self.why.clone_from(&turn.why);
        }
        let watch = Watch {
            pid: std::process::id(),
            at: now,
            state: turn.state,
            standing: turn.standing,
            why: turn.why.clone(),
            term: if let Truth::Held(term) = self.truth(now) { Some(term) } else { None },
            holding: turn.holding.clone(),
            memory: self.memory.clone(),
            evidence: self.evidence.clone(),
            asked: self.asked.clone(),
        };
        if let Err(error) = self.node.files.write_watch(&watch) {
            log::error!("cannot write watch.json: {error}");
        }
    }

    /// Calls the hook that could do something about what is seen; it asks its own gate.
    fn propose(&mut self, state: State, truth: &Truth, fence: Option<&Fence>, now: Moment) {
        let (me, hold) = (self.node.me.clone(), self.node.timings.promotion_hold);
        let quiet = self.evidence.answers().filter_map(|(voter, _)| self.memory.voters.get(voter));
        let quiet = quiet.filter(|watched| hold::wait(watched, &me, now, hold).is_none()).count();
        let vacant = state == State::Standby && quiet >= self.node.cluster.majority();
        self.promote.make(vacant, now, &self.config, me.as_str());

        let follows = self.own.said.as_ref().is_some_and(|(answer, _)| answer.streams_from.is_some());
        let standby = self.own.said.as_ref().is_some_and(|(answer, _)| answer.role == Role::Standby);
        let rebuilding = fence.is_some_and(|fence| fence.reason == pg_ha_rules::fence::Reason::Rebuilding);
        let led = matches!(truth, Truth::Held(term) if term.holder != me);
        let idle = led && (rebuilding || (standby && !follows));
        self.idle_since = if idle { self.idle_since.or(Some(now)) } else { None };
        let long = self.idle_since.is_some_and(|since| now.since(since) > IDLE);
        if self.follow.make(long || self.rejoined, now, &self.config, me.as_str()) {
            self.rejoined = false;
        }
    }
}
