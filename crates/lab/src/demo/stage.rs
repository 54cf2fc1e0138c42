//! What the acts have in common: the machines, waiting, and one checker after the other without a moment between them.

use std::cell::RefCell;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::checker::{Checker, Seen, Sums};
use crate::client::{self, Gap};
use crate::clock::{Moment, wait_until};
use crate::lab::Lab;
use crate::machine::Machine;
use crate::progress::Step;
use crate::ready;

use super::TOPOLOGY;
use super::journal::{self, Record};

pub(super) struct Stage<'a> {
    pub(super) lab: &'a Lab,
    checker: RefCell<Option<Checker>>,
    sums: RefCell<Vec<Sums>>,
}

impl<'a> Stage<'a> {
    /// Begins to look and to write.
    pub(super) fn new(lab: &'a Lab) -> Result<Self> {
        let checker = RefCell::new(Some(Checker::start(TOPOLOGY)));
        client::start(lab, None)?;
        Ok(Self { lab, checker, sums: RefCell::default() })
    }

    /// What the checker has seen up to now. The next one looks before this one ends.
    pub(super) fn seen(&self) -> Result<Seen> {
        let next = Checker::start(TOPOLOGY);
        sleep(Duration::from_millis(300));
        let seen = self.checker.replace(Some(next)).context("no checker")?.finish()?;
        self.sums.borrow_mut().push(seen.sums());
        Ok(seen)
    }

    /// Ends it all: seconds with two writable nodes, and with the address on two machines.
    pub(super) fn finish(&self) -> Result<(f64, f64)> {
        client::stop(self.lab)?;
        if let Some(checker) = self.checker.take() {
            self.sums.borrow_mut().push(checker.finish()?.sums());
        }
        let sums = self.sums.borrow();
        let total = |pick: fn(&Sums) -> f64| sums.iter().map(pick).sum::<f64>();
        Ok((total(|sums| sums.two_writable), total(|sums| sums.address_on_two)))
    }

    pub(super) fn machine(&self, name: &str) -> Result<Machine> {
        self.lab.find(name)
    }

    /// The outage that a fault began, when it is over.
    pub(super) fn outage(&self, fault: Moment) -> Option<Gap> {
        let gaps = client::read(self.lab).ok()?.gaps();
        gaps.into_iter().find(|gap| gap.end > fault)
    }
}

/// Waits for something, and says so while it does.
pub(super) fn wait(what: &str, limit: Duration, mut so: impl FnMut() -> bool) -> Result<()> {
    let step = Step::begin(what);
    if !wait_until(limit, Duration::from_millis(50), &mut so) {
        bail!("not within {} s: {what}", limit.as_secs());
    }
    step.done();
    Ok(())
}

/// Records of a machine since a moment, once there is one of the wanted kind.
pub(super) fn records_of(
    machine: &Machine,
    since: Moment,
    limit: Duration,
    wanted: fn(&Record) -> bool,
) -> Vec<Record> {
    let mut records = Vec::new();
    wait_until(limit, Duration::from_millis(200), || {
        records = journal::read(machine, since).unwrap_or_default();
        records.iter().any(wanted)
    });
    records
}

/// Is it a standby that the other node sends to?
pub(super) fn streams(standby: &Machine, primary: &Machine) -> bool {
    ready::follows(standby, primary, TOPOLOGY)
}
