//! The guard: a second process that stops PostgreSQL when pg-watch is gone or mute.
//!
//! At every turn pg-watch writes how long it may be silent; the guard acts when that moment has passed. Nothing is
//! asked of pg-watch but to go on: killed, stopped, stuck, it is the same.

use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use pg_ha_rules::evidence::Moment;
use pg_ha_rules::fence::{Fence, Reason};
use pg_ha_system::clock::now_boottime;
use pg_ha_system::node::Node;
use rustix::process::Signal;

use crate::stop;

/// pg-watch's end of the line to its guard.
#[derive(Debug)]
pub(crate) struct Guard {
    line: PipeWriter,
    child: std::process::Child,
}

impl Guard {
    /// Starts the guard, as this very program.
    pub(crate) fn start(config: &Path, node: &Node) -> anyhow::Result<Self> {
        let (read, line): (PipeReader, PipeWriter) = io::pipe().context("cannot make the line to the guard")?;
        let child = Command::new("/proc/self/exe")
            .arg0("pg-watch-guard")
            .arg("--config")
            .arg(config)
            .args(["--node", node.me.as_str(), "guard"])
            .stdin(Stdio::from(read))
            .process_group(0)
            .spawn()
            .context("cannot start the guard")?;
        Ok(Self { line, child })
    }

    /// Until when pg-watch may be silent; `None`: no primary runs here that would have to be stopped.
    pub(crate) fn lease(&mut self, until: Option<Moment>) -> io::Result<()> {
        writeln!(self.line, "{}", until.map_or(0, |until| until.0.as_nanos()))
    }

    /// Does it live?
    pub(crate) fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

/// The guard's whole life.
pub(crate) fn keep(node: &Node) -> anyhow::Result<()> {
    // A stop of the unit must not take the guard along with pg-watch.
    pg_ha_system::hook::survive_caller()?;
    let _ = rustix::process::set_parent_process_death_signal(None::<Signal>);
    let watch = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get().cast_unsigned());
    let (send, leases) = mpsc::channel();
    let read = move || {
        for line in BufReader::new(io::stdin()).lines().map_while(Result::ok) {
            let Ok(nanoseconds) = line.parse() else { continue };
            if send.send(Duration::from_nanos(nanoseconds)).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("line".to_owned()).spawn(read)?;
    let mut until = Duration::ZERO;
    let data = node.data();
    loop {
        let left = until.saturating_sub(now_boottime());
        let wait = if until.is_zero() { Duration::from_secs(3600) } else { left };
        match leases.recv_timeout(wait) {
            Ok(lease) => {
                until = lease;
                continue;
            }
            Err(RecvTimeoutError::Timeout) if until.is_zero() => continue,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) if until.is_zero() => return Ok(()),
            // pg-watch is gone; a new one has until the lease ends to take over.
            Err(RecvTimeoutError::Disconnected) => thread::sleep(left),
        }
        let Some(successor) = node.files.watch().ok().flatten().filter(|next| next.pid != watch) else { break };
        let Some(held) = successor.holding.map(|h| h.acked.plus(node.timings.isolation_limit)) else { return Ok(()) };
        if held.0 > now_boottime() {
            return Ok(());
        }
        break;
    }
    let last = node.files.watch().ok().flatten();
    let seen = format!("pg-watch (process {watch}) is gone or mute; its guard acts");
    let fence = last.and_then(|last| last.holding).map(|h| Fence {
        reason: Reason::Isolated,
        term: h.term,
        seen: seen.clone(),
    });
    stop::stop(node, &data, fence.as_ref(), &seen);
    Ok(())
}
