//! What a node says of itself on every voter, in its session's `application_name`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::{NodeName, NotA, Position};

/// The state a node publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Holds the term and its server accepts writes.
    Primary,
    /// Holds the term; its server is on the way to accepting writes.
    Promoting,
    /// A standby that may be promoted: it has followed the holder under the present term.
    Standby,
    /// No candidate: not caught up, stopped, fenced, delayed on purpose.
    Unfit,
    /// Held the term of this number; no process of its cluster is left, and it will not act under it again.
    Down,
}

impl State {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Primary, "primary"),
        (Self::Promoting, "promoting"),
        (Self::Standby, "standby"),
        (Self::Unfit, "unfit"),
        (Self::Down, "down"),
    ];

    /// Does a node in this state accept writes, or may it at any moment?
    #[must_use]
    pub fn claims(self) -> bool {
        matches!(self, Self::Primary | Self::Promoting)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(Self::ALL.iter().find(|(state, _)| state == self).map_or("", |(_, word)| word))
    }
}

/// `pgha:NODE:TERM:STATE:STANDING:TIMELINE:LSN`, at most 63 bytes.
///
/// The position comes last and is left out where it would not fit: PostgreSQL cuts what is longer, and a position
/// that was cut would read as another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Who says it.
    pub node: NodeName,
    /// The number of the term it goes by; 0 when it knows none.
    pub term: u32,
    /// Its state.
    pub state: State,
    /// What stands in its standing file.
    pub standing: u8,
    /// How far its server is.
    pub position: Option<Position>,
}

/// PostgreSQL's `NAMEDATALEN - 1`.
const LONGEST: usize = 63;

/// What every heartbeat begins with.
pub const PREFIX: &str = "pgha:";

impl fmt::Display for Heartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = format!("{PREFIX}{}:{}:{}:{}", self.node, self.term, self.state, self.standing);
        match self.position.map(|at| format!("{short}:{at}")).filter(|long| long.len() <= LONGEST) {
            Some(long) => f.write_str(&long),
            None => f.write_str(&short),
        }
    }
}

impl FromStr for Heartbeat {
    type Err = NotA;

    fn from_str(text: &str) -> Result<Self, NotA> {
        let not = || NotA { text: text.to_owned(), expected: "a heartbeat (pgha:NODE:TERM:STATE:STANDING[:POSITION])" };
        let mut parts = text.strip_prefix(PREFIX).ok_or_else(not)?.splitn(5, ':');
        let mut next = || parts.next().ok_or_else(not);
        let (node, term, state, standing) = (next()?, next()?, next()?, next()?);
        Ok(Self {
            node: node.parse()?,
            term: term.parse().map_err(|_| not())?,
            state: State::ALL.iter().find(|(_, word)| *word == state).map(|(state, _)| *state).ok_or_else(not)?,
            standing: standing.parse().map_err(|_| not())?,
            position: parts.next().map(str::parse).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{Lsn, Timeline};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_heartbeat_fits_and_is_read_as_it_was_said(
            node in "[a-z][a-z0-9_-]{0,15}", term: u32, which in 0..5usize, standing: u8, timeline in 1..u32::MAX, lsn: u64,
        ) {
            let said = Heartbeat {
                node: node.parse().unwrap(), term, state: State::ALL[which].0, standing,
                position: Some(Position { timeline: Timeline(timeline), lsn: Lsn(lsn) }),
            };
            let text = said.to_string();
            prop_assert!(text.len() <= 63, "{}", text);
            let read: Heartbeat = text.parse().unwrap();
            prop_assert!(read.position.is_none() || read == said);
            prop_assert_eq!(Heartbeat { position: said.position, ..read }, said);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,70}") {
            let _ = text.parse::<Heartbeat>();
        }
    }
}
