//! The words everything else is said in: node names, positions, timelines, terms.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not what it should be. Reads after "… is not a …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct NotA {
    /// What was given.
    pub text: String,
    /// What was expected, with its form.
    pub expected: &'static str,
}

impl NotA {
    fn new(text: &str, expected: &'static str) -> Self {
        Self { text: text.chars().take(80).collect(), expected }
    }
}

/// The name of a voter: 1 to 16 of `a-z 0-9 - _`, the first a letter.
///
/// The limit comes from the heartbeat, which must fit PostgreSQL's 63 bytes of `application_name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

impl NodeName {
    const FORM: &'static str = "a node name (1 to 16 of a-z, 0-9, - and _, beginning with a letter)";

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = NotA;

    fn from_str(text: &str) -> Result<Self, NotA> {
        let body = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        let good = text.len() <= 16 && text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(body);
        if good { Ok(Self(text.to_owned())) } else { Err(NotA::new(text, Self::FORM)) }
    }
}

impl TryFrom<String> for NodeName {
    type Error = NotA;

    fn try_from(text: String) -> Result<Self, NotA> {
        text.parse()
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A position in the write-ahead log, in bytes; written as PostgreSQL does, `16/B374D848`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

impl Lsn {
    /// Bytes by which `self` lies behind `other`; 0 when it does not.
    #[must_use]
    pub fn behind(self, other: Self) -> u64 {
        other.0.saturating_sub(self.0)
    }
}

impl FromStr for Lsn {
    type Err = NotA;

    fn from_str(text: &str) -> Result<Self, NotA> {
        let not = || NotA::new(text, "an LSN (such as 16/B374D848)");
        let half = |part: &str| {
            let hex = (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u64::from_str_radix(part, 16).ok()).flatten().ok_or_else(not)
        };
        let (high, low) = text.split_once('/').ok_or_else(not)?;
        Ok(Self(half(high)? << 32 | half(low)?))
    }
}

impl TryFrom<String> for Lsn {
    type Error = NotA;

    fn try_from(text: String) -> Result<Self, NotA> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> Self {
        lsn.to_string()
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A timeline's number. Two of them compare only when one history contains the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timeline(pub u32);

impl FromStr for Timeline {
    type Err = NotA;

    fn from_str(text: &str) -> Result<Self, NotA> {
        text.parse()
            .ok()
            .filter(|number| *number > 0)
            .map(Self)
            .ok_or_else(|| NotA::new(text, "a timeline (a number from 1)"))
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A place in a history: a timeline and an LSN on it; written `3:16/B374D848`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The timeline.
    pub timeline: Timeline,
    /// The LSN on it.
    pub lsn: Lsn,
}

impl FromStr for Position {
    type Err = NotA;

    fn from_str(text: &str) -> Result<Self, NotA> {
        let (timeline, lsn) =
            text.split_once(':').ok_or_else(|| NotA::new(text, "a position (such as 3:16/B374D848)"))?;
        Ok(Self { timeline: timeline.parse()?, lsn: lsn.parse()? })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.timeline, self.lsn)
    }
}

/// Who may be primary: `number/holder/sync set`, as every voter stores it in `pgha.term`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Term {
    /// Counts up with every bid; never goes back.
    pub number: u32,
    /// The node that may be primary under this number.
    pub holder: NodeName,
}

/// What stands in the place of the set in a term without synchronous standbys.
const ASYNC: &str = "async";

impl FromStr for Term {
    type Err = NotA;

    fn from_str(text: &str) -> Result<Self, NotA> {
        let not = || NotA::new(text, "a term (such as 7/pg2/async)");
        let mut parts = text.splitn(3, '/');
        let (number, holder, set) = (parts.next(), parts.next(), parts.next());
        let number = number.and_then(|n| n.parse().ok()).filter(|n| *n > 0).ok_or_else(not)?;
        let holder = holder.ok_or_else(not)?.parse().map_err(|_| not())?;
        if set == Some(ASYNC) { Ok(Self { number, holder }) } else { Err(not()) }
    }
}

impl TryFrom<String> for Term {
    type Error = NotA;

    fn try_from(text: String) -> Result<Self, NotA> {
        text.parse()
    }
}

impl From<Term> for String {
    fn from(term: Term) -> Self {
        term.to_string()
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{ASYNC}", self.number, self.holder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_term_reads_as_it_is_written() {
        let term: Term = "7/pg2/async".parse().unwrap();
        assert_eq!((term.number, term.holder.as_str()), (7, "pg2"));
        assert_eq!(term.to_string(), "7/pg2/async");
        for bad in ["", "7", "7/pg2", "0/pg2/async", "-1/pg2/async", "7/Pg2/async", "7/pg2/any", "7//async"] {
            assert!(bad.parse::<Term>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_that_would_break_a_heartbeat_is_refused() {
        for bad in ["", "1a", "PG1", "a b", "a:b", "a/b", "a'b", "aaaaaaaaaaaaaaaaa", "é"] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_lsn_is_read_strictly() {
        for bad in ["", "/", "1/", "/1", "1/G", "123456789/0", "+1/0", "1/2/3", " 1/2"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
        assert_eq!("16/B374D848".parse::<Lsn>().unwrap().0, 0x16_B374_D848);
    }

    proptest! {
        #[test]
        fn an_lsn_survives_its_text(raw: u64) {
            prop_assert_eq!(Lsn(raw).to_string().parse::<Lsn>().unwrap(), Lsn(raw));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in ".{0,40}") {
            let _ = (text.parse::<Term>(), text.parse::<Lsn>(), text.parse::<NodeName>(), text.parse::<Position>());
        }
    }
}
