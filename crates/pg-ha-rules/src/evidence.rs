//! What one node has seen of the voters, within one deadline. **Unknown is never read as dead.**

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::heartbeat::Heartbeat;
use crate::names::{Lsn, NodeName, Position, Term};

/// A moment by this machine's `CLOCK_BOOTTIME`: it goes on while the machine sleeps, and no administrator sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Moment(pub Duration);

impl Moment {
    /// Time from `earlier` to `self`; zero when it is the other way round.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `by` later.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }

    /// The moment `by` earlier.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(by))
    }
}

/// What one look at a voter gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sight {
    /// It answered the question.
    Answered(Answer),
    /// A server is there but did not answer the question: starting, shutting down, refusing the login, full.
    Alive(String),
    /// Nothing listens. Not proof of anything: an orphaned backend can still commit, a firewall can refuse.
    Refused,
    /// Nothing came back before the deadline, or the way there is cut.
    Silent(String),
}

impl Sight {
    /// The answer, if there was one.
    #[must_use]
    pub fn answer(&self) -> Option<&Answer> {
        if let Self::Answered(answer) = self { Some(answer) } else { None }
    }
}

impl fmt::Display for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(answer) => write!(f, "answered: {answer}"),
            Self::Alive(why) => write!(f, "alive, but no answer: {why}"),
            Self::Refused => f.write_str("refused the connection"),
            Self::Silent(why) => write!(f, "silent: {why}"),
        }
    }
}

/// Is a server a primary or a standby?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Not in recovery.
    Primary,
    /// In recovery.
    Standby,
}

/// What a voter's server said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The cluster's system identifier (a witness has one of its own).
    pub system: String,
    /// Its role.
    pub role: Role,
    /// `pgha.term` as stored there; `None` when none was ever stored.
    pub term: Option<Term>,
    /// How far it is: written (primary), or the further of received and replayed (standby).
    pub position: Option<Position>,
    /// What a standby has received but not yet replayed, in bytes.
    pub backlog: u64,
    /// What keeps a standby from being promoted in good order: replay paused, delayed on purpose.
    pub hindrance: Option<String>,
    /// The host a standby's receiver streams from at this moment.
    pub streams_from: Option<String>,
    /// When its postmaster started, as text: another one means that it lost its memory of heartbeats.
    pub started: String,
    /// The heartbeats of all nodes there.
    pub heartbeats: Vec<Beat>,
}

/// One heartbeat as a voter shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// What it says.
    pub said: Heartbeat,
    /// Which renewal it is: another text means that it was renewed. Nothing is computed from it, so no clock but the
    /// watcher's own counts.
    pub renewal: String,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = if self.role == Role::Primary { "primary" } else { "standby" };
        write!(f, "{role}")?;
        self.position.map_or(Ok(()), |at| write!(f, " at {at}"))?;
        match &self.term {
            Some(term) => write!(f, ", term {term}")?,
            None => f.write_str(", no term")?,
        }
        self.heartbeats.iter().try_for_each(|beat| write!(f, ", {} says {}", beat.said.node, beat.said.state))
    }
}

/// A look at every voter at once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Evidence {
    /// When the last of it came in.
    pub at: Moment,
    /// What was seen of each.
    pub voters: BTreeMap<NodeName, Sight>,
}

impl Evidence {
    /// Those that answered.
    pub fn answers(&self) -> impl Iterator<Item = (&NodeName, &Answer)> {
        self.voters.iter().filter_map(|(name, sight)| sight.answer().map(|answer| (name, answer)))
    }

    /// What the voter `name` answered.
    #[must_use]
    pub fn answer(&self, name: &NodeName) -> Option<&Answer> {
        self.voters.get(name).and_then(Sight::answer)
    }
}

/// How far apart two positions on one history are; `None` when they lie on different timelines.
#[must_use]
pub fn lag(own: Position, other: Position) -> Option<u64> {
    (own.timeline == other.timeline).then(|| Lsn::behind(own.lsn, other.lsn))
}
