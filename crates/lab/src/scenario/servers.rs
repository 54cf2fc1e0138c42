//! The server of the primary dies or hangs; the machine goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{sleep, spawn};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Scenario;
use super::scene::Scene;
use crate::clock::Moment;
use crate::fault::Fault;
use crate::network;
use crate::ready;
use crate::session::{self, Session};
use crate::topology::CLIENT;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a_killed_postmaster_fails_over_without_the_hold",
        promise: "the postmaster is killed: its node says that it is down, and nobody waits for the hold",
        run: a_killed_postmaster_fails_over_without_the_hold,
    },
    Scenario {
        name: "a_long_statement_of_a_killed_postmaster_is_dead_before_another_is_writable",
        promise: "backends outlive their postmaster and can commit: they are dead before another node may",
        run: a_long_statement_of_a_killed_postmaster_is_dead_before_another_is_writable,
    },
    Scenario {
        name: "a_stopped_server_loses_the_address",
        promise: "a server that hangs is no primary: the check says so in time, and the address goes",
        run: a_stopped_server_loses_the_address,
    },
    Scenario {
        name: "a_killed_primary_comes_back_as_a_standby",
        promise: "the server that was killed comes back as a standby by itself",
        run: a_killed_primary_comes_back_as_a_standby,
    },
    Scenario {
        name: "repmgr_tells_the_truth_after_a_failover",
        promise: "after a failover and the return, repmgr cluster show is right on every node",
        run: repmgr_tells_the_truth_after_a_failover,
    },
];

fn kill(node: &str) -> Fault {
    Fault::KillPostgres { node: node.to_owned() }
}

fn a_killed_postmaster_fails_over_without_the_hold(scene: &Scene) -> Result<()> {
    scene.may_lose_at_most(5);
    let killed = scene.inflict(&kill("pg1"))?;
    scene.becomes_primary("pg2", 10)?;
    let outage = scene.writes_again_after(killed, 10)?;
    // How long it takes is for scripts/bench to say; whoever waited for the hold would be above it.
    ensure!(outage < 3.0, "no write was acknowledged for {outage:.3} s: the hold was waited for");
    Ok(())
}

fn a_long_statement_of_a_killed_postmaster_is_dead_before_another_is_writable(scene: &Scene) -> Result<()> {
    let node = scene.machine("pg1")?;
    // Keeps writing for a minute if nobody ends it.
    let statement = "insert into public.orders (id, note) select 1000000 + g, 'long' \
                     from generate_series(1, 600) g where pg_sleep(0.1) is not null";
    spawn(move || -> Result<()> {
        network::enter(CLIENT.name)?;
        session::runtime()?.block_on(async {
            let session = Session::open(&session::config("10.99.0.11"), Duration::from_secs(2)).await?;
            session.client.batch_execute(statement).await.map_err(Into::into)
        })
    });
    let busy = "select count(*) from pg_stat_activity where query like '%generate_series%' and state = 'active' \
                and pid <> pg_backend_pid()";
    scene.wait("the long statement runs", 5, || Ok(ready::sql(&node, busy) == "1"))?;
    let before = node.postgres();
    // Looks without a pause: the time of the last process is what is to be compared.
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = spawn({
        let (before, stop) = (before.clone(), Arc::clone(&stop));
        move || {
            let mut last = Moment::now();
            while before.iter().any(|process| process.lives()) && !stop.load(Ordering::Relaxed) {
                last = Moment::now();
                sleep(Duration::from_micros(500));
            }
            last
        }
    });
    scene.inflict(&kill("pg1"))?;
    let failed_over = scene.becomes_primary("pg2", 10);
    stop.store(true, Ordering::Relaxed);
    let Ok(last) = watcher.join() else { bail!("the watching thread died") };
    failed_over?;
    let left: Vec<_> = before.iter().filter(|process| process.lives()).map(|process| process.command_line()).collect();
    ensure!(left.is_empty(), "still alive on pg1: {}", left.join(", "));
    scene.at_the_end(move |seen, _| {
        let other = seen.nodes.get("pg2").context("nothing seen of pg2")?.writable();
        let first = other.first().context("pg2 was never seen writable")?.begin;
        let early = last.since(first).as_secs_f64();
        ensure!(first >= last, "pg2 was writable {early:.3} s before the last process of pg1 was dead");
        Ok(())
    });
    Ok(())
}

fn a_stopped_server_loses_the_address(scene: &Scene) -> Result<()> {
    let node = scene.machine("pg1")?;
    scene.may_lose_at_most(5);
    let stopped = scene.inflict(&Fault::StopPostgres { node: "pg1".to_owned() })?;
    let begun = Moment::now();
    let check = node.run(&["pg-health-check", "--role", "primary", "--deadline", "800ms"])?;
    let took = Moment::now().since(begun).as_secs_f64();
    scene.note(&format!("pg-health-check: {} after {took:.3} s", check.status));
    ensure!(!check.status.success(), "pg-health-check calls a stopped server a primary");
    ensure!(took < 1.0, "pg-health-check took {took:.3} s, promised is under a second");
    scene.wait("pg1 has no longer the address", 15, || Ok(!ready::holds_address(&node)))?;
    scene.becomes_primary("pg2", 15)?;
    scene.writes_again_after(stopped, 5)?;
    // What was only asleep wakes up, if it is still there.
    scene.inflict(&Fault::ThawPostgres { node: "pg1".to_owned() })?;
    scene.becomes_standby("pg1", "pg2", 60)
}

fn a_killed_primary_comes_back_as_a_standby(scene: &Scene) -> Result<()> {
    scene.inflict(&kill("pg1"))?;
    scene.becomes_primary("pg2", 10)?;
    scene.becomes_standby("pg1", "pg2", 60)?;
    // And the other way round: both directions are the same.
    sleep(Duration::from_secs(2));
    scene.inflict(&kill("pg2"))?;
    scene.becomes_primary("pg1", 10)?;
    scene.becomes_standby("pg2", "pg1", 60)
}

fn repmgr_tells_the_truth_after_a_failover(scene: &Scene) -> Result<()> {
    scene.inflict(&kill("pg1"))?;
    scene.becomes_primary("pg2", 10)?;
    scene.becomes_standby("pg1", "pg2", 60)?;
    for name in ["pg1", "pg2"] {
        let node = scene.machine(name)?;
        let mut shown = String::new();
        let asked = scene.wait(&format!("repmgr on {name} shows pg2 as primary and pg1 as its standby"), 15, || {
            let output =
                node.run(&["runuser", "-u", "postgres", "--", "repmgr", "-f", "/etc/repmgr.conf", "cluster", "show"])?;
            shown = String::from_utf8_lossy(&output.stdout).into_owned();
            Ok(output.status.success() && is_true(&shown))
        });
        asked.with_context(|| format!("repmgr on {name} shows:\n{shown}"))?;
    }
    Ok(())
}

/// The table's columns: ID | Name | Role | Status | Upstream | …
fn is_true(table: &str) -> bool {
    let line = |name: &str| -> Option<Vec<String>> {
        let lines = table.lines().map(|line| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>());
        lines.into_iter().find(|cells| cells.get(1).is_some_and(|cell| cell == name))
    };
    let (Some(primary), Some(standby)) = (line("pg2"), line("pg1")) else { return false };
    primary[2..4] == ["primary", "* running"] && standby[2..5] == ["standby", "running", "pg2"]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repmgr_s_table_is_read_by_its_columns() {
        let table = " ID | Name | Role    | Status    | Upstream | Location | Priority | Timeline | Connection string\n\
                     ----+------+---------+-----------+----------+----------+----------+----------+------------------\n \
                     1  | pg1  | standby |   running | pg2      | default  | 100      | 2        | host=10.99.0.11\n \
                     2  | pg2  | primary | * running |          | default  | 100      | 2        | host=10.99.0.12\n";
        assert!(is_true(table));
        assert!(!is_true(&table.replace("* running", "! running")));
    }
}
