//! The term rule: the truth is the highest term that a majority of the voters stores.

use crate::evidence::Evidence;
use crate::names::{NodeName, Term};

/// What the voters that answered store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Truth {
    /// Fewer than a majority answered: nothing is known.
    Unknown,
    /// A majority answered, and none of them ever stored a term.
    None,
    /// A majority answered, but no term is stored at a majority: a bid is under way, or died half way.
    Undecided,
    /// The highest term stored at a majority.
    Held(Term),
}

/// Reads the truth from the terms of the voters that answered.
#[must_use]
pub fn truth<'a>(terms: impl IntoIterator<Item = Option<&'a Term>>, majority: usize) -> Truth {
    let terms: Vec<_> = terms.into_iter().collect();
    if terms.len() < majority {
        return Truth::Unknown;
    }
    let stored = || terms.iter().copied().flatten();
    stored()
        .filter(|term| stored().filter(|other| other == term).count() >= majority)
        .max_by_key(|term| term.number)
        .map_or_else(
            || if stored().next().is_none() { Truth::None } else { Truth::Undecided },
            |t| Truth::Held(t.clone()),
        )
}

/// The truth as `evidence` shows it.
#[must_use]
pub fn truth_of(evidence: &Evidence, majority: usize) -> Truth {
    truth(evidence.answers().map(|(_, answer)| answer.term.as_ref()), majority)
}

/// The term `holder` bids: one above the highest number seen anywhere. Lower ones never overwrite higher ones.
#[must_use]
pub fn next(evidence: &Evidence, holder: &NodeName) -> Term {
    let highest = evidence.answers().filter_map(|(_, answer)| answer.term.as_ref()).map(|term| term.number).max();
    Term { number: highest.unwrap_or(0).saturating_add(1), holder: holder.clone() }
}

/// The highest rank; with a node's priority at most 254, VRRP's highest.
pub const MAX_RANK: u8 = 100;

/// What the holder of a term adds to its VRRP priority: more than the holder of the term before it, so that a machine
/// that thaws and advertises its old priority cannot take the address back.
///
/// After `MAX_RANK` terms it begins again at 1: there, and only there, a thawed old holder outranks the new one until
/// its own pg-watch has had its first turn.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "below MAX_RANK")]
pub fn rank(number: u32) -> u8 {
    (number.saturating_sub(1) % u32::from(MAX_RANK)) as u8 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn terms(texts: &[&str]) -> Vec<Option<Term>> {
        texts.iter().map(|text| text.parse().ok()).collect()
    }

    fn of(texts: &[&str]) -> Truth {
        truth(terms(texts).iter().map(Option::as_ref), 2)
    }

    #[test]
    fn the_truth_is_the_highest_term_at_a_majority() {
        let held = |text: &str| Truth::Held(text.parse().unwrap());
        assert_eq!(of(&["5/pg1/async", "5/pg1/async", "6/pg2/async"]), held("5/pg1/async"));
        assert_eq!(of(&["6/pg2/async", "5/pg1/async", "6/pg2/async"]), held("6/pg2/async"));
        assert_eq!(of(&["6/pg2/async", "6/pg1/async"]), Truth::Undecided);
        assert_eq!(of(&["6/pg2/async"]), Truth::Unknown);
        assert_eq!(of(&["-", "-"]), Truth::None);
        assert_eq!(of(&["-", "1/pg1/async"]), Truth::Undecided);
    }

    proptest! {
        #[test]
        fn a_new_term_outranks_the_one_before_it(number in 1..u32::MAX) {
            prop_assert!((1..=MAX_RANK).contains(&rank(number)));
            prop_assert!(rank(number + 1) > rank(number) || rank(number) == MAX_RANK);
        }
    }
}
