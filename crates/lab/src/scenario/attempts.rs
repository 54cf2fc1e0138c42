//! A part of pg-ha is missing, or called in a way it should not be.

use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::Scenario;
use super::scene::Scene;
use crate::fault::Fault;
use crate::machine::Machine;
use crate::ready;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a_node_without_its_check_program_does_not_keep_a_false_address",
        promise: "keepalived takes a missing check for a success: the address goes all the same when the server dies",
        run: a_node_without_its_check_program_does_not_keep_a_false_address,
    },
    Scenario {
        name: "a_node_without_check_and_watch_does_not_keep_the_address",
        promise: "neither check nor pg-watch: nothing is left to vouch for the node, and the address goes",
        run: a_node_without_check_and_watch_does_not_keep_the_address,
    },
    Scenario {
        name: "a_node_without_pg_watch_does_not_keep_the_address",
        promise: "pg-watch is killed and stays away: the node keeps neither the address nor its writes",
        run: a_node_without_pg_watch_does_not_keep_the_address,
    },
    Scenario {
        name: "two_promotions_at_once_on_one_node_make_one_primary",
        promise: "two pg-promote at once on one node: one promotes, the other finds it done",
        run: two_promotions_at_once_on_one_node_make_one_primary,
    },
    Scenario {
        name: "a_promotion_on_each_node_makes_one_primary",
        promise: "pg-promote on both nodes at once: one term is won, one node promotes",
        run: a_promotion_on_each_node_makes_one_primary,
    },
    Scenario {
        name: "a_promotion_told_to_end_makes_no_second_primary",
        promise: "SIGTERM to pg-promote and to keepalived in the middle of a promotion changes nothing of that",
        run: a_promotion_told_to_end_makes_no_second_primary,
    },
];

fn pg1() -> String {
    "pg1".to_owned()
}

fn loses_the_address(scene: &Scene, node: &Machine, seconds: u64) -> Result<()> {
    scene.wait(&format!("{} has no longer the address", node.name), seconds, || Ok(!ready::holds_address(node)))
}

fn a_node_without_its_check_program_does_not_keep_a_false_address(scene: &Scene) -> Result<()> {
    let node = scene.machine("pg1")?;
    scene.inflict(&Fault::NoCheck { node: pg1() })?;
    // keepalived runs it each second: it has noticed, and calls it a success.
    sleep(Duration::from_millis(2500));
    scene.inflict(&Fault::KillPostgres { node: pg1() })?;
    loses_the_address(scene, &node, 5)?;
    scene.becomes_primary("pg2", 10)
}

fn a_node_without_check_and_watch_does_not_keep_the_address(scene: &Scene) -> Result<()> {
    let node = scene.machine("pg1")?;
    scene.inflict(&Fault::NoCheck { node: pg1() })?;
    sleep(Duration::from_millis(2500));
    let killed = scene.inflict(&Fault::KillWatch { node: pg1(), for_good: true })?;
    loses_the_address(scene, &node, 10)?;
    scene.becomes_primary("pg2", 15)?;
    scene.writes_again_after(killed, 5).map(drop)
}

fn a_node_without_pg_watch_does_not_keep_the_address(scene: &Scene) -> Result<()> {
    let node = scene.machine("pg1")?;
    let killed = scene.inflict(&Fault::KillWatch { node: pg1(), for_good: true })?;
    loses_the_address(scene, &node, 10)?;
    scene.becomes_primary("pg2", 15)?;
    ensure!(ready::sql(&node, "select pg_is_in_recovery()") != "f", "pg1 accepts writes without pg-watch");
    scene.writes_again_after(killed, 5).map(drop)
}

/// A promotion that nobody waits for yet.
fn promotion(node: &Machine) -> Result<Child> {
    node.spawn(&["timeout", "30", "pg-promote"], Stdio::null())
}

fn two_promotions_at_once_on_one_node_make_one_primary(scene: &Scene) -> Result<()> {
    let node = scene.machine("pg2")?;
    let killed = scene.inflict(&Fault::KillPostgres { node: pg1() })?;
    let mut promotions = [promotion(&node)?, promotion(&node)?];
    for promotion in &mut promotions {
        scene.note(&format!("pg-promote on pg2: {}", promotion.wait()?));
    }
    scene.becomes_primary("pg2", 10)?;
    scene.writes_again_after(killed, 10)?;
    let timeline = ready::sql(&node, "select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)");
    ensure!(timeline == "00000002", "pg2 is on timeline {timeline}: it was promoted more than once");
    Ok(())
}

fn a_promotion_on_each_node_makes_one_primary(scene: &Scene) -> Result<()> {
    let (one, other) = (scene.machine("pg1")?, scene.machine("pg2")?);
    let killed = scene.inflict(&Fault::KillPostgres { node: pg1() })?;
    let mut promotions = [promotion(&one)?, promotion(&other)?];
    for (node, promotion) in ["pg1", "pg2"].iter().zip(&mut promotions) {
        scene.note(&format!("pg-promote on {node}: {}", promotion.wait()?));
    }
    scene.ends_well()?;
    scene.writes_again_after(killed, 10).map(drop)
}

fn a_promotion_told_to_end_makes_no_second_primary(scene: &Scene) -> Result<()> {
    let node = scene.machine("pg2")?;
    let killed = scene.inflict(&Fault::KillPostgres { node: pg1() })?;
    // keepalived asks within a tenth of a second; whatever runs by then is told to end, and so is keepalived.
    for _ in 0..10 {
        sleep(Duration::from_millis(25));
        node.run(&["pkill", "-TERM", "-x", "pg-promote"])?;
    }
    node.run(&["systemctl", "restart", "keepalived"])?;
    scene.ends_well()?;
    scene.writes_again_after(killed, 20).map(drop)
}
