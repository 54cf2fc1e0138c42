//! What a scenario has at hand: the machines, the faults, waiting, and what is to be judged at the end.

use std::cell::RefCell;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::checker::Seen;
use crate::client::{self, Report};
use crate::clock::{Moment, wait_until};
use crate::fault::Fault;
use crate::lab::Lab;
use crate::machine::Machine;
use crate::progress::say;
use crate::ready;
use crate::topology::Topology;

/// A condition that can only be looked at when the checker has finished.
type Judgement = Box<dyn Fn(&Seen, &Report) -> Result<()>>;

pub(super) struct Scene<'a> {
    pub(super) lab: &'a Lab,
    topology: Topology,
    begun: Moment,
    judgements: RefCell<Vec<Judgement>>,
}

impl<'a> Scene<'a> {
    pub(super) fn new(lab: &'a Lab, topology: Topology, begun: Moment) -> Self {
        Self { lab, topology, begun, judgements: RefCell::default() }
    }

    /// Says what happens now, with the scenario's own seconds.
    pub(super) fn note(&self, what: &str) {
        say(&format!("  {:7.3} s  {what}", Moment::now().since(self.begun).as_secs_f64()));
    }

    /// Long enough for the client to have written and every watcher to have seen the others.
    pub(super) fn settle(&self) -> Result<()> {
        self.wait("the client writes", 10, || Ok(client::read(self.lab)?.acknowledged.len() > 100))?;
        sleep(Duration::from_millis(1500));
        Ok(())
    }

    pub(super) fn machine(&self, name: &str) -> Result<Machine> {
        self.lab.find(name)
    }

    /// Does the damage, and gives the moment just before.
    pub(super) fn inflict(&self, fault: &Fault) -> Result<Moment> {
        self.note(&format!("{fault:?}"));
        let before = Moment::now();
        fault.inflict(self.lab)?;
        Ok(before)
    }

    /// Waits for something that is promised within some seconds.
    pub(super) fn wait(&self, what: &str, seconds: u64, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
        let limit = Duration::from_secs(seconds);
        let mut trouble = None;
        let come = wait_until(limit, Duration::from_millis(20), || {
            so().unwrap_or_else(|error| {
                trouble = Some(error);
                false
            })
        });
        if come {
            self.note(what);
            return Ok(());
        }
        let promise = format!("not within {seconds} s: {what}");
        match trouble {
            Some(error) => Err(error).context(promise),
            None => bail!(promise),
        }
    }

    /// Waits until the client writes again after a moment, and gives the seconds it could not.
    pub(super) fn writes_again_after(&self, fault: Moment, seconds: u64) -> Result<f64> {
        let mut outage = 0.0;
        self.wait("the client writes again", seconds, || {
            let record = client::read(self.lab)?;
            // An acknowledgement may have been under way: what counts is the gap that the fault lies in or before.
            let gap =
                record.gaps().into_iter().filter(|gap| gap.end > fault).max_by(|a, b| a.seconds.total_cmp(&b.seconds));
            outage = gap.map_or(0.0, |gap| gap.seconds);
            Ok(outage > 0.0)
        })?;
        self.note(&format!("no write was acknowledged for {outage:.3} s"));
        Ok(outage)
    }

    /// Waits until a node is the writable one, with the address.
    pub(super) fn becomes_primary(&self, name: &str, seconds: u64) -> Result<()> {
        let machine = self.machine(name)?;
        self.wait(&format!("{name} is primary and has the address"), seconds, || {
            Ok(ready::sql(&machine, "select pg_is_in_recovery()") == "f" && ready::holds_address(&machine))
        })
    }

    /// Waits until a node streams from another one.
    pub(super) fn becomes_standby(&self, name: &str, of: &str, seconds: u64) -> Result<()> {
        let (standby, primary) = (self.machine(name)?, self.machine(of)?);
        self.wait(&format!("{name} is a standby of {of}"), seconds, || {
            Ok(ready::follows(&standby, &primary, self.topology))
        })
    }

    /// A fault may end in safety and still leave nobody to write to.
    pub(super) fn ends_well(&self) -> Result<()> {
        // What happens late shows late: a second primary, or the end of the first, often comes after the promotion.
        sleep(Duration::from_secs(3));
        let nodes: Vec<_> = self.topology.nodes().map(|host| self.lab.machine(host)).collect();
        self.wait("one node is primary and has the address", 10, || {
            let asked = nodes.iter().filter(|node| node.supervisor().is_some());
            let primaries: Vec<_> =
                asked.filter(|node| ready::sql(node, "select pg_is_in_recovery()") == "f").collect();
            Ok(primaries.len() == 1 && ready::holds_address(primaries[0]))
        })?;
        let now = Moment::now();
        self.wait("the client writes", 5, || {
            Ok(client::read(self.lab)?.acknowledged.last().is_some_and(|(_, at)| *at > now))
        })
    }

    /// To be looked at when the checker has finished.
    pub(super) fn at_the_end(&self, judgement: impl Fn(&Seen, &Report) -> Result<()> + 'static) {
        self.judgements.borrow_mut().push(Box::new(judgement));
    }

    /// Asynchronous replication: what was acknowledged in the last moment before the fault may not have left. The client
    /// writes every 5 ms; usually none is missing, sometimes one.
    pub(super) fn may_lose_at_most(&self, rows: usize) {
        self.at_the_end(move |_, report| {
            let missing = report.missing.as_ref().context("nobody at the address could be asked for the rows")?;
            if missing.len() > rows {
                bail!("{} acknowledged rows are missing, at most {rows} may be", missing.len());
            }
            Ok(())
        });
    }

    /// All that was to be looked at.
    pub(super) fn judge(&self, seen: &Seen, report: &Report) -> Result<()> {
        self.judgements.borrow().iter().try_for_each(|judgement| judgement(seen, report))
    }
}
