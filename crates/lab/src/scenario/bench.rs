//! How long nobody can write, after each kind of failure: several runs, median and worst. scripts/bench writes the table
//! into docs/outage.md.

use anyhow::{Context, Result, bail, ensure};

use super::{all, fresh};
use crate::lab::Lab;
use crate::progress::say;
use crate::topology::Profile;

/// The failures, and the scenario that inflicts each once.
const FAILURES: &[(&str, &str)] = &[
    ("postmaster killed (kill -9)", "a_killed_postmaster_fails_over_without_the_hold"),
    (
        "the same, a long statement still running",
        "a_long_statement_of_a_killed_postmaster_is_dead_before_another_is_writable",
    ),
    ("server stopped (SIGSTOP of all its processes)", "a_stopped_server_loses_the_address"),
    ("power of the machine lost", "power_loss_fails_over"),
    ("cable pulled", "a_pulled_cable_fails_over_and_the_isolated_primary_stops"),
    ("pg-watch killed and kept from restarting", "a_node_without_pg_watch_does_not_keep_the_address"),
];

/// Runs each `runs` times and prints the table.
pub(crate) fn outages(lab: &Lab, profile: Profile, runs: usize) -> Result<()> {
    println!("| failure, profile `{}` | median, s | worst, s | two writable, s | missing rows |", profile.word());
    println!("|---|---|---|---|---|");
    ensure!(runs > 0, "no runs, no table; give at least one");
    for (failure, name) in FAILURES {
        let scenario = all().into_iter().find(|scenario| scenario.name == *name).context("no such scenario")?;
        let (mut outages, mut two, mut missing) = (Vec::new(), 0.0_f64, Vec::new());
        for run in 1..=runs {
            say(&format!("{failure}: run {run} of {runs}"));
            let outcome = fresh(lab, &scenario, profile)?;
            let report = outcome.client.filter(|_| outcome.held);
            let Some(report) = report else { bail!("{name} broke its promise: {}", outcome.broken.join("; ")) };
            let longest = report.gaps.first().context("no outage was seen")?;
            outages.push(longest.seconds);
            two = outcome.sums.map_or(two, |sums| two.max(sums.two_writable));
            missing.push(report.missing.map_or_else(|| "?".to_owned(), |missing| missing.len().to_string()));
        }
        outages.sort_by(f64::total_cmp);
        // Of an even number of runs, the mean of the middle two.
        let (low, high) = (outages[(outages.len() - 1) / 2], outages[outages.len() / 2]);
        let (median, worst) = (f64::midpoint(low, high), outages[outages.len() - 1]);
        println!("| {failure} | {median:.2} | {worst:.2} | {two:.1} | {} |", missing.join(", "));
    }
    lab.down()
}
