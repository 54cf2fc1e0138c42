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
    /// How often in a row it was refused or failed: each time the pause doubles.
    refused: u32,
}

/// The longest pause, in shortest ones.
const LONGEST: u32 = 64;

impl Proposal {
    pub(crate) fn new(program: &'static str, arguments: &[&str], pause: Duration) -> Self {
        Self {
            program,
            arguments: arguments.iter().map(ToString::to_string).collect(),
            pause,
            running: None,
            last: None,
            refused: 0,
        }
    }

    /// Starts the program when it is wanted and neither runs nor ran a moment ago; true: it was started.
    pub(crate) fn make(&mut self, wanted: bool, now: Moment, config: &std::path::Path, node: &str) -> bool {
        if let Some(mut child) = self.running.take() {
            match child.try_wait() {
                Ok(None) => {
                    self.running = Some(child);
                    return false;
                }
                ended => {
                    let done = ended.is_ok_and(|status| status.is_some_and(|status| status.success()));
                    self.refused = if done { 0 } else { self.refused + 1 };
                    self.last = Some(now);
                }
            }
        }
        if !wanted {
            self.refused = 0;
            return false;
        }
        let pause = self.pause * 2_u32.saturating_pow(self.refused).min(LONGEST);
        if self.last.is_some_and(|last| now.since(last) < pause) {
            return false;
        }
        self.last = Some(now);
        let path = std::env::current_exe().unwrap_or_default().with_file_name(self.program);
        let mut command = Command::new(&path);
        command.args(&self.arguments).arg("--config").arg(config).args(["--node", node]);
        match command.stdin(Stdio::null()).process_group(0).spawn() {
            Ok(child) => {
                self.running = Some(child);
                true
            }
            Err(error) => {
                log::error!("cannot start {}: {error}", path.display());
                false
            }
        }
    }
}
