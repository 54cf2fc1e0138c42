//! The acts, one after the other, and the summary.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::client;
use crate::clock::{Moment, wait_until};
use crate::evidence;
use crate::fault::Fault;
use crate::lab::Lab;
use crate::machine::Machine;
use crate::progress::say;
use crate::ready;
use crate::topology::{Profile, VIP};

use super::TOPOLOGY;
use super::events::{self, event};
use super::journal::Record;
use super::page::{hang, heading, quote};
use super::stage::{Stage, records_of, streams, wait};
use super::told::{self, Failover, Written};

/// All of it. An error is a promise that did not hold.
pub(super) fn play(lab: &Lab, profile: Profile) -> Result<()> {
    lab.up(TOPOLOGY, profile)?;
    let played = acts(lab);
    if played.is_err() {
        let directory = lab.cache.join("evidence/demo");
        evidence::forget(&directory);
        evidence::gather(lab, TOPOLOGY, &directory)?;
        say(&format!("what the machines wrote is in {}", directory.display()));
    }
    played
}

fn acts(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab)?;
    let begin = Duration::from_secs(10);
    wait("a client writes through the address", begin, || {
        client::read(lab).is_ok_and(|record| record.acknowledged.len() > 100)
    })?;
    sleep(Duration::from_millis(1500));
    introduce(&stage)?;

    heading("Act one: the primary's server dies");
    let kill = Fault::KillPostgres { node: "pg1".to_owned() };
    let mut first = fail_over(&stage, "pg1", "pg2", "SIGKILL to the postmaster of pg1", &kill)?;

    heading("Act two: the dead server comes back");
    (first.back, first.repmgr_agrees) = come_back(&stage, &first, first.fault)?;

    heading("Act three: the new primary's machine loses its power");
    let cut = Fault::PowerOff { node: "pg2".to_owned() };
    let mut second = fail_over(&stage, "pg2", "pg1", "the power of pg2 is cut", &cut)?;

    heading("Act four: the machine is switched on again");
    let on = Moment::now();
    Fault::PowerOn { node: "pg2".to_owned() }.inflict(lab)?;
    (second.back, second.repmgr_agrees) = come_back(&stage, &second, on)?;

    summarize(&stage, &[first, second])
}

fn introduce(stage: &Stage) -> Result<()> {
    println!();
    heading("Before");
    hang(
        "  ",
        &format!(
            "Two nodes, pg1 and pg2, and a witness, balancer: one vote each. pg1 is the primary and has the address \
             {VIP}. A client writes a row every 5 ms through that address. A checker asks both servers every 40 ms \
             whether they accept writes, from inside and over the network, and looks every 5 ms who has the address. \
             A term is number/holder/mode: who may be primary."
        ),
    );
    println!();
    let status = stage.machine("pg1")?.run(&["pg-cluster", "status"])?;
    quote("pg-cluster status        (on pg1)", &String::from_utf8_lossy(&status.stdout));
    Ok(())
}

/// Breaks the primary, waits for the other node, and tells it from the evidence.
fn fail_over(stage: &Stage, lost: &str, winner: &str, cause: &str, fault: &Fault) -> Result<Failover> {
    let (lost, winner) = (stage.machine(lost)?, stage.machine(winner)?);
    stage.seen()?;
    let at = Moment::now();
    say(cause);
    fault.inflict(stage.lab)?;
    let mut outage = None;
    wait("the client waits for an address that accepts writes", Duration::from_secs(60), || {
        outage = stage.outage(at);
        outage.is_some()
    })?;
    let outage = outage.context("no outage")?;
    let records = records_of(&winner, at, Duration::from_secs(30), Record::promoted);
    let died = match fault {
        Fault::KillPostgres { .. } => {
            records_of(&lost, at, Duration::from_secs(5), |record| record.program == "pg-watch")
        }
        // Nobody there to write anything.
        _ => Vec::new(),
    };
    ensure!(
        ready::sql(&winner, "select pg_is_in_recovery()") == "f" && ready::holds_address(&winner),
        "the client writes, but {} is not the primary with the address",
        winner.name
    );
    let (seen, report) = (stage.seen()?, client::report(stage.lab)?);
    let missing = report.missing.as_ref().context("nobody at the address could be asked for the rows")?.len();
    let stops: Vec<_> = died.into_iter().filter(|record| record.program == "pg-watch").collect();
    let failover =
        Failover { cause: cause.to_owned(), fault: at, lost, winner, outage, missing, back: 0.0, repmgr_agrees: false };
    println!();
    let written = Written { stops, winner: records };
    told::in_short(&failover, &seen, &written, report.acknowledged);
    told::happened(&failover, &seen, &written);
    told::decided(failover.winner.name, &written);
    Ok(failover)
}

/// Waits until the lost node is a standby, and tells how it came to that.
fn come_back(stage: &Stage, failover: &Failover, since: Moment) -> Result<(f64, bool)> {
    let Failover { lost, winner, fault, .. } = failover;
    let what = format!("{} comes back as a standby of {}", lost.name, winner.name);
    let begun = Moment::now();
    wait(&what, Duration::from_secs(120), || {
        // systemd starts a killed server again by itself.
        let waited = Moment::now().since(begun).as_secs();
        if waited >= 30 && lost.postmaster().is_none() {
            let _ = lost.run(&["systemctl", "start", "postgresql@15-main"]);
        }
        streams(lost, winner)
    })?;
    let back = Moment::now();
    wait("pg-cluster calls the cluster healthy", Duration::from_secs(60), || {
        lost.run(&["pg-cluster", "status"]).is_ok_and(|output| output.status.success())
    })?;
    let (shown, agrees) = repmgr(lost);
    // repmgr may agree before pg-follow has written down that it is done.
    let records = records_of(lost, since, Duration::from_secs(2), |record| record.program == "pg-follow");
    let seen = stage.seen()?;
    let records: Vec<_> = records.into_iter().filter(|record| record.program != "pg-watch").collect();
    let mut happened = events::of_checker(&seen, since);
    if since > *fault {
        happened.push(event(since, "demo", format!("the power of {} is back", lost.name)));
    }
    happened.extend(events::of_journal(lost.name, &records));
    happened.push(event(back, "demo", format!("{} streams from {}", lost.name, winner.name)));
    println!();
    events::print(happened, *fault);
    let writable = seen.nodes.get(lost.name).map(crate::checker::Node::writable).unwrap_or_default();
    ensure!(writable.is_empty(), "{} accepted writes again, {} times", lost.name, writable.len());
    println!("  {} was never seen to accept a write in this time.\n", lost.name);
    let status = lost.run(&["pg-cluster", "status"])?;
    quote(&format!("pg-cluster status        (on {})", lost.name), &String::from_utf8_lossy(&status.stdout));
    quote(&format!("repmgr cluster show --compact        (on {})", lost.name), shown.trim_end());
    sleep(Duration::from_secs(2));
    Ok((back.since(since).as_secs_f64(), agrees))
}

/// repmgr's table, as it prints it; once it has nothing to complain about, if that comes soon: else false.
fn repmgr(node: &Machine) -> (String, bool) {
    let mut shown = String::new();
    let agrees = wait_until(Duration::from_secs(10), Duration::from_millis(500), || {
        let show = "runuser -u postgres -- repmgr -f /etc/repmgr.conf cluster show --compact";
        let Ok(output) = node.run(&show.split(' ').collect::<Vec<_>>()) else { return false };
        shown = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        output.status.success()
    });
    (shown, agrees)
}

/// The figures, and whether the promises held.
fn summarize(stage: &Stage, failovers: &[Failover]) -> Result<()> {
    let (two_writable, two_addresses) = stage.finish()?;
    let report = client::report(stage.lab)?;
    let missing = report.missing.as_ref().context("nobody at the address could be asked for the rows")?.len();
    heading("Summary");
    let mut before = 0;
    for Failover { cause, lost, winner, outage, missing, back, repmgr_agrees, .. } in failovers {
        println!("  {cause}");
        println!("      no write was acknowledged for     {:8.3} s, then {} served", outage.seconds, winner.name);
        println!("      acknowledged rows missing on {:5}{:8}", winner.name, missing.saturating_sub(before));
        println!("      {:3} was a standby again after     {back:8.3} s", lost.name);
        if !repmgr_agrees {
            println!("      repmgr's table did not say so 10 s later: see above");
        }
        before = *missing;
    }
    println!("  in all");
    println!("      rows acknowledged                 {:8}", report.acknowledged);
    println!("      of them missing now               {missing:8}");
    let told = |gap: &&client::Gap| !failovers.iter().any(|failover| failover.outage.begin == gap.begin);
    let others: Vec<_> = report.gaps.iter().filter(told).collect();
    let longest = others.iter().map(|gap| gap.seconds).fold(0.0, f64::max);
    println!("      other pauses over 0.1 s           {:8}   (the longest {longest:.3} s)", others.len());
    println!("      two nodes accepted writes for     {two_writable:8.3} s");
    println!("      the address was on two machines   {two_addresses:8.3} s");
    println!();
    hang(
        "  ",
        "Replication is asynchronous: a row that was acknowledged in the last moment before a failure may not have \
         left the machine. Such rows are counted as missing.",
    );
    println!();
    let mut broken = Vec::new();
    if two_writable > 0.0 {
        broken.push(format!("two nodes accepted writes for {two_writable:.3} s"));
    }
    if two_addresses > 0.0 {
        broken.push(format!("the address was on two machines for {two_addresses:.3} s"));
    }
    if !broken.is_empty() {
        bail!("a promise is broken: {}", broken.join("; "));
    }
    println!("  Two failures, two failovers, never two primaries.");
    Ok(())
}
