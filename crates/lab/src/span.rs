//! Stretches of time in which something was so, and what they have in common.

use serde::Serialize;

use crate::clock::Moment;

/// From the first moment something was known to be so to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Span {
    pub(crate) begin: Moment,
    pub(crate) end: Moment,
}

impl Span {
    fn seconds(self) -> f64 {
        self.end.since(self.begin).as_secs_f64()
    }
}

/// Made from looks at it, one after the other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spans {
    closed: Vec<Span>,
    open: Option<Span>,
}

impl Spans {
    /// A look that was asked for at one moment and answered at another. Between two looks that say yes it was so all
    /// the time; of a single one only the time between question and answer is known, so it counts from the answer of
    /// the first to the question of the last: never more than was proved.
    pub(crate) fn look(&mut self, so: bool, asked: Moment, answered: Moment) {
        match (&mut self.open, so) {
            (Some(span), true) => span.end = asked.max(span.begin),
            (None, true) => self.open = Some(Span { begin: answered, end: answered }),
            (open, false) => self.closed.extend(open.take()),
        }
    }

    pub(crate) fn finish(mut self) -> Vec<Span> {
        self.closed.extend(self.open.take());
        self.closed
    }
}

/// The times in both.
pub(crate) fn both(one: &[Span], other: &[Span]) -> Vec<Span> {
    let mut common = Vec::new();
    for left in one {
        for right in other {
            let span = Span { begin: left.begin.max(right.begin), end: left.end.min(right.end) };
            if span.begin < span.end {
                common.push(span);
            }
        }
    }
    common
}

/// The times in either, without overlaps.
pub(crate) fn either(one: &[Span], other: &[Span]) -> Vec<Span> {
    let mut all: Vec<_> = one.iter().chain(other).copied().collect();
    all.sort_by_key(|span| span.begin);
    let mut merged: Vec<Span> = Vec::new();
    for span in all {
        match merged.last_mut() {
            Some(last) if span.begin <= last.end => last.end = last.end.max(span.end),
            _ => merged.push(span),
        }
    }
    merged
}

/// How long they are together.
pub(crate) fn total(spans: &[Span]) -> f64 {
    spans.iter().map(|span| span.seconds()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(begin: u64, end: u64) -> Span {
        Span { begin: Moment(begin), end: Moment(end) }
    }

    #[test]
    fn looks_prove_no_more_than_the_time_between_the_first_answer_and_the_last_question() {
        let mut spans = Spans::default();
        for (so, asked) in [(false, 0), (true, 10), (true, 20), (true, 30), (false, 40), (true, 50)] {
            spans.look(so, Moment(asked), Moment(asked + 5));
        }
        assert_eq!(spans.finish(), [span(15, 30), span(55, 55)]);
    }

    #[test]
    fn what_is_in_both_and_in_either() {
        let (one, other) = ([span(0, 10), span(20, 30)], [span(5, 22), span(40, 41)]);
        assert_eq!(both(&one, &other), [span(5, 10), span(20, 22)]);
        assert_eq!(either(&one, &other), [span(0, 30), span(40, 41)]);
    }
}
