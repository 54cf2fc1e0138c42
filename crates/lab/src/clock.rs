//! One clock for everything: all machines run on one kernel, so `CLOCK_MONOTONIC` is the same in each of them.

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A moment, in nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Moment(pub(crate) u64);

impl Moment {
    pub(crate) fn now() -> Self {
        let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        Self(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    }

    /// The time since an earlier moment; nothing if it is a later one.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Asks again and again until the answer is yes or the time is over.
pub(crate) fn wait_until(limit: Duration, every: Duration, mut yes: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if yes() {
            return true;
        }
        if begun.elapsed() >= limit {
            return false;
        }
        sleep(every);
    }
}
