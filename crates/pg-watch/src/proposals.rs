//! The programs pg-watch calls when it sees that there is something to do: each asks its own gate again.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pg_ha_rules::evidence::Moment;

/// A program that may run once at a time, and not again before `pause` has passed.
#[derive(Debug)]
pub(crate) struct Proposal {
    program: &'static str,
    arguments: Vec<String>,
    pause: Duration,
    running: Option<Child>,
    last: Option<Moment>,
}

impl Proposal {
    pub(crate) fn new(program: &'static str, arguments: &[&str], pause: Duration) -> Self {
        Self { program, arguments: arguments.iter().map(ToString::to_string).collect(), pause, running: None, last: None }
    }

    /// Starts the program when it is wanted and neither runs nor ran a moment ago.
    pub(crate) fn make(&mut self, wanted: bool, now: Moment, config: &std::path::Path, node: &str) {
        if self.running.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None))) {
            return;
        }
        if self.running.take().is_some() {
            self.last = Some(now);
        }
        if !wanted || self.last.is_some_and(|last| now.since(last) < self.pause) {
            return;
        }
        self.last = Some(now);
        let path = std::env::current_exe().unwrap_or_default().with_file_name(self.program);
        let mut command = Command::new(&path);
        command.args(&self.arguments).arg("--config").arg(config).args(["--node", node]);
        match command.stdin(Stdio::null()).process_group(0).spawn() {
            Ok(child) => self.running = Some(child),
            Err(error) => log::error!("cannot start {}: {error}", path.display()),
        }
    }
}
