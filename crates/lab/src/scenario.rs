//! The promises, tried on the machines. A scenario's name is the promise it holds.

mod attempts;
pub(crate) mod bench;
mod scene;
mod servers;
mod whole_machines;

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::checker::{Checker, Sums};
use crate::client;
use crate::clock::Moment;
use crate::evidence;
use crate::lab::Lab;
use crate::progress::say;
use crate::topology::{Profile, Topology};

use scene::Scene;

/// One of them.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// In a sentence, for the list.
    pub(crate) promise: &'static str,
    /// Does the damage and looks. An error is a broken promise, in words.
    run: fn(&Scene) -> Result<()>,
}

/// All of them, in the order they are listed and run.
pub(crate) fn all() -> Vec<Scenario> {
    [servers::SCENARIOS, whole_machines::SCENARIOS, attempts::SCENARIOS].concat()
}

/// What came of one.
#[derive(Debug, Serialize)]
struct Outcome {
    name: &'static str,
    promise: &'static str,
    held: bool,
    /// What was seen instead.
    broken: Vec<String>,
    sums: Option<Sums>,
    client: Option<client::Report>,
    timeline: Vec<(f64, String)>,
}

/// Runs one, or all of them, each from a fresh boot. An error names those that broke.
pub(crate) fn run(lab: &Lab, name: &str, profile: Profile, json: Option<&Path>) -> Result<()> {
    let chosen: Vec<_> = all().into_iter().filter(|scenario| name == "all" || scenario.name == name).collect();
    if chosen.is_empty() {
        bail!("no scenario is called {name}; scripts/lab scenarios lists them");
    }
    let mut outcomes = Vec::new();
    for scenario in &chosen {
        let outcome = fresh(lab, scenario, profile)?;
        show(&outcome);
        let keep = !outcome.held && std::env::var_os("PG_HA_LAB_KEEP").is_some();
        outcomes.push(outcome);
        if keep {
            say("the machines are left as they are; scripts/lab down takes them away");
            break;
        }
        lab.down()?;
    }
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_vec_pretty(&outcomes)?)
            .with_context(|| format!("failed to write {}", path.display()))?;
    }
    let broken: Vec<_> = outcomes.iter().filter(|outcome| !outcome.held).map(|outcome| outcome.name).collect();
    if !broken.is_empty() {
        bail!("{} of {} promises broken: {}", broken.len(), outcomes.len(), broken.join(", "));
    }
    say(&format!("{} of {} promises held", outcomes.len(), chosen.len()));
    Ok(())
}

/// One scenario from a fresh boot; the machines are left as it left them, and what they wrote is kept if it broke.
fn fresh(lab: &Lab, scenario: &Scenario, profile: Profile) -> Result<Outcome> {
    lab.down()?;
    lab.up(Topology::Keepalived, profile)?;
    say(&format!("{}: {}", scenario.name, scenario.promise));
    let outcome = play(lab, scenario)?;
    let evidence = lab.cache.join("evidence").join(scenario.name);
    evidence::forget(&evidence);
    if !outcome.held {
        evidence::gather(lab, Topology::Keepalived, &evidence)?;
        say(&format!("what the machines wrote is in {}", evidence.display()));
    }
    Ok(outcome)
}

/// One scenario on machines that have just booted.
fn play(lab: &Lab, scenario: &Scenario) -> Result<Outcome> {
    let topology = lab.must_be_up()?.topology;
    let checker = Checker::start(topology);
    client::start(lab, None)?;
    let scene = Scene::new(lab, topology, Moment::now());
    let ran = scene.settle().and_then(|()| (scenario.run)(&scene)).and_then(|()| scene.ends_well());
    client::stop(lab)?;
    let mut report = client::report(lab)?;
    let seen = checker.finish()?;
    // One origin for all times that are shown.
    report.counted_from = Some(seen.begun);
    let sums = seen.sums();
    let mut broken: Vec<_> = ran.err().map(|error| format!("{error:#}")).into_iter().collect();
    if sums.two_writable > 0.0 {
        broken.push(format!("two nodes accepted writes for {:.3} s", sums.two_writable));
    }
    if sums.address_on_two_writable > 0.0 {
        broken.push(format!("two writable nodes had the address for {:.3} s", sums.address_on_two_writable));
    }
    if let Err(error) = scene.judge(&seen, &report) {
        broken.push(format!("{error:#}"));
    }
    Ok(Outcome {
        name: scenario.name,
        promise: scenario.promise,
        held: broken.is_empty(),
        broken,
        sums: Some(sums),
        client: Some(report),
        timeline: seen.timeline(),
    })
}

fn show(outcome: &Outcome) {
    for (seconds, what) in &outcome.timeline {
        println!("  {seconds:7.3} s  {what}");
    }
    if let Some(report) = &outcome.client {
        for line in report.to_string().lines() {
            println!("  {line}");
        }
    }
    if let Some(sums) = &outcome.sums {
        println!(
            "  two writable  {:.3} s (inside {:.3}, network {:.3})",
            sums.two_writable, sums.two_writable_inside, sums.two_writable_network
        );
        println!(
            "  the address   {:.3} s on two machines ({:.3} of it both writable), {:.3} s on none",
            sums.address_on_two, sums.address_on_two_writable, sums.address_on_none
        );
    }
    for broken in &outcome.broken {
        println!("  BROKEN        {broken}");
    }
    println!("{} {}", if outcome.held { "held  " } else { "BROKEN" }, outcome.name);
}
