//! Time that a suspended machine cannot skip.
//!
//! Every wait here is measured by `CLOCK_BOOTTIME`: it cannot be set, and, unlike `CLOCK_MONOTONIC`, it goes on
//! while the machine sleeps. A node that wakes up must see that its time has run out.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since the machine booted, time asleep included.
#[must_use]
pub fn now_boottime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanoseconds)
}

/// A point in time by `CLOCK_BOOTTIME` after which an answer is no answer any more.
///
/// One deadline is meant to be handed down through everything that serves one decision, so that the parts cannot
/// add up to more than the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Duration);

impl Deadline {
    /// The deadline this long from now.
    #[must_use]
    pub fn after(wait: Duration) -> Self {
        Self(now_boottime().saturating_add(wait))
    }

    /// The deadline at this point of `CLOCK_BOOTTIME`.
    #[must_use]
    pub fn at(boottime: Duration) -> Self {
        Self(boottime)
    }

    /// The point of `CLOCK_BOOTTIME`.
    #[must_use]
    pub fn boottime(self) -> Duration {
        self.0
    }

    /// What is left, zero when it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_sub(now_boottime())
    }

    /// Whether it has passed.
    #[must_use]
    pub fn passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// The earlier of two deadlines.
    #[must_use]
    pub fn or_earlier(self, other: Self) -> Self {
        self.min(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_runs_out() {
        let deadline = Deadline::after(Duration::from_millis(20));
        assert!(!deadline.passed());
        assert!(deadline.remaining() <= Duration::from_millis(20));
        std::thread::sleep(Duration::from_millis(25));
        assert!(deadline.passed());
        assert_eq!(deadline.remaining(), Duration::ZERO);
    }

    #[test]
    fn a_deadline_without_end_does_not_overflow() {
        assert!(!Deadline::after(Duration::MAX).passed());
    }
}
