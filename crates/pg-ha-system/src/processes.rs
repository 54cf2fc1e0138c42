//! The processes of one PostgreSQL cluster, and how to end them all.
//!
//! They are known by their working directory: every process of PostgreSQL's works in the data directory, also a
//! backend whose postmaster is gone, which can still commit.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::clock::Deadline;

/// Every live process of the cluster in `data`, which must be given as the kernel names it (no symlink in it).
#[must_use]
pub fn of_cluster(data: &Path) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
        .filter(|pid| is_postgres_in(*pid, data))
        .collect()
}

/// The postmaster, if it lives. Found without a look at the disk, which may hang: it is the process that is no child
/// of another, and whose command line is not a title such as `postgres: walwriter`.
#[must_use]
pub fn postmaster(data: &Path) -> Option<Pid> {
    of_cluster(data).into_iter().find(|pid| {
        let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        let single = line.split(|byte| *byte == 0).any(|argument| argument == b"--single");
        !line.is_empty()
            && !line.starts_with(b"postgres: ")
            && !single
            && !parent(*pid).is_some_and(|of| is_postgres_in(of, data))
    })
}

fn parent(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The name in parentheses may hold anything; after it come the state and the parent.
    Pid::from_raw(stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?)
}

fn is_postgres_in(pid: Pid, data: &Path) -> bool {
    let link = |name| fs::read_link(format!("/proc/{}/{name}", pid.as_raw_nonzero()));
    // A program that was upgraded on disk while it runs is shown as "…/postgres (deleted)". Of a zombie neither
    // link can be read: it cannot commit either.
    let named = |exe: &Path| {
        exe.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.trim_end_matches(" (deleted)") == "postgres")
    };
    link("cwd").is_ok_and(|cwd| cwd == data) && link("exe").is_ok_and(|exe| named(&exe))
}

/// A descriptor that becomes readable when the process ends.
pub fn watch_end(pid: Pid) -> io::Result<OwnedFd> {
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Kills the postmaster, so that it starts no more, then every other process of the cluster, until none is left.
/// Returns how many were killed; `Err` holds those that were still there at the deadline.
pub fn kill_all(data: &Path, deadline: Deadline) -> Result<usize, Vec<Pid>> {
    let mut killed = std::collections::BTreeSet::new();
    if let Some(pid) = postmaster(data) {
        let _ = kill_process(pid, Signal::KILL);
        killed.insert(pid.as_raw_nonzero());
    }
    loop {
        let left = of_cluster(data);
        if left.is_empty() {
            return Ok(killed.len());
        }
        if deadline.passed() {
            return Err(left);
        }
        for pid in left {
            let _ = kill_process(pid, Signal::KILL);
            killed.insert(pid.as_raw_nonzero());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
