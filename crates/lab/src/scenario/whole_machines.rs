//! A whole machine loses its power, its cable or its time.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Scenario;
use super::scene::Scene;
use crate::fault::Fault;
use crate::ready;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "power_loss_fails_over",
        promise: "the primary's machine loses its power: another node takes the writes",
        run: power_loss_fails_over,
    },
    Scenario {
        name: "a_primary_that_lost_its_power_comes_back_as_a_standby",
        promise: "a machine that boots again after its node was replaced never accepts a write",
        run: a_primary_that_lost_its_power_comes_back_as_a_standby,
    },
    Scenario {
        name: "a_pulled_cable_fails_over_and_the_isolated_primary_stops",
        promise: "the primary's cable is pulled: it stops before another may start, and rejoins when the cable is back",
        run: a_pulled_cable_fails_over_and_the_isolated_primary_stops,
    },
    Scenario {
        name: "a_silent_network_fails_over_and_the_isolated_primary_stops",
        promise: "the same while the carrier stays, so that no interface tells of it",
        run: a_silent_network_fails_over_and_the_isolated_primary_stops,
    },
    Scenario {
        name: "a_frozen_machine_that_thaws_accepts_no_write",
        promise: "a machine that stood still while its node was replaced accepts no write when it goes on",
        run: a_frozen_machine_that_thaws_accepts_no_write,
    },
];

fn power_off(node: &str) -> Fault {
    Fault::PowerOff { node: node.to_owned() }
}

fn power_loss_fails_over(scene: &Scene) -> Result<()> {
    let lost = scene.inflict(&power_off("pg1"))?;
    scene.becomes_primary("pg2", 10)?;
    let outage = scene.writes_again_after(lost, 10)?;
    ensure!(outage < 5.0, "no write was acknowledged for {outage:.3} s, promised is under five seconds");
    Ok(())
}

fn a_primary_that_lost_its_power_comes_back_as_a_standby(scene: &Scene) -> Result<()> {
    scene.inflict(&power_off("pg1"))?;
    scene.becomes_primary("pg2", 10)?;
    scene.inflict(&Fault::PowerOn { node: "pg1".to_owned() })?;
    scene.becomes_standby("pg1", "pg2", 90)?;
    sleep(Duration::from_secs(2));
    scene.inflict(&power_off("pg2"))?;
    scene.becomes_primary("pg1", 10)?;
    scene.inflict(&Fault::PowerOn { node: "pg2".to_owned() })?;
    scene.becomes_standby("pg2", "pg1", 90)
}

fn a_pulled_cable_fails_over_and_the_isolated_primary_stops(scene: &Scene) -> Result<()> {
    isolate(scene, false)
}

fn a_silent_network_fails_over_and_the_isolated_primary_stops(scene: &Scene) -> Result<()> {
    isolate(scene, true)
}

fn isolate(scene: &Scene, keep_carrier: bool) -> Result<()> {
    let node = scene.machine("pg1")?;
    let cut = scene.inflict(&Fault::Cut { node: "pg1".to_owned(), keep_carrier })?;
    scene.becomes_primary("pg2", 15)?;
    scene.writes_again_after(cut, 5)?;
    ensure!(ready::sql(&node, "select pg_is_in_recovery()") != "f", "pg1 still accepts writes without a network");
    scene.at_the_end(move |seen, _| {
        let writable = |name| Some(seen.nodes.get(name)?.writable());
        let last = writable("pg1").and_then(|spans| spans.last().copied()).context("pg1 was never seen writable")?.end;
        let first = writable("pg2").and_then(|spans| spans.first().copied()).context("pg2 was never writable")?.begin;
        ensure!(last < first, "pg1 accepted writes {:.3} s into pg2's time", last.since(first).as_secs_f64());
        Ok(())
    });
    scene.inflict(&Fault::Heal { node: "pg1".to_owned() })?;
    scene.becomes_standby("pg1", "pg2", 90)
}

fn a_frozen_machine_that_thaws_accepts_no_write(scene: &Scene) -> Result<()> {
    let frozen = scene.inflict(&Fault::Freeze { node: "pg1".to_owned() })?;
    scene.becomes_primary("pg2", 15)?;
    scene.writes_again_after(frozen, 5)?;
    scene.inflict(&Fault::Thaw { node: "pg1".to_owned() })?;
    scene.becomes_standby("pg1", "pg2", 90)
}
