//! Processes by id, as /proc shows them. An id alone is not enough to signal: it may be another process by now.

use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// One process, told from a later one with the same id by the time it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    began: u64,
}

impl Process {
    /// The process that has this id now.
    pub(crate) fn present(pid: i32) -> Option<Self> {
        Some(Self { pid, began: stat(pid)?.began })
    }

    /// Whether it still runs.
    pub(crate) fn lives(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.began == self.began && stat.state != 'Z')
    }

    /// Signals it, if it is still the same one.
    pub(crate) fn signal(self, signal: Signal) {
        if self.lives() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Whether it stands still after SIGSTOP.
    pub(crate) fn is_stopped(self) -> bool {
        stat(self.pid).is_none_or(|stat| stat.began != self.began || "TtZ".contains(stat.state))
    }

    /// Its command line, words separated by spaces.
    pub(crate) fn command_line(self) -> String {
        let bytes = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().to_owned()
    }

    /// The name of its program.
    pub(crate) fn name(self) -> String {
        fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default().trim_end().to_owned()
    }

    /// Those it started.
    pub(crate) fn children(self) -> Vec<Self> {
        let path = format!("/proc/{0}/task/{0}/children", self.pid);
        let text = fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| Self::present(pid.parse().ok()?)).collect()
    }

    /// Its process namespace: the machine it is in.
    pub(crate) fn namespace(self) -> Option<u64> {
        fs::metadata(format!("/proc/{}/ns/pid", self.pid)).ok().map(|metadata| metadata.ino())
    }

    /// Every process of this one's namespace.
    pub(crate) fn neighbours(self) -> Vec<Self> {
        let Some(namespace) = self.namespace() else { return Vec::new() };
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(Self::present).filter(|process| process.namespace() == Some(namespace)).collect()
    }
}

struct Stat {
    state: char,
    began: u64,
}

/// From /proc/PID/stat: the name may hold anything, so count from its closing bracket.
fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = text.rsplit_once(") ")?.1;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    let began = fields.nth(18)?.parse().ok()?;
    Some(Stat { state, began })
}
