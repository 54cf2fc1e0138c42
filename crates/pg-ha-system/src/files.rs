//! The files pg-ha keeps on a node. `/run` forgets them at a reboot, `/var/lib` does not.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pg_ha_rules::evidence::{Evidence, Moment};
use pg_ha_rules::fence::Fence;
use pg_ha_rules::heartbeat::State;
use pg_ha_rules::memory::Memory;
use pg_ha_rules::names::{NodeName, Term};
use pg_ha_rules::standing::{Holding, Promoting};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::clock::Deadline;
use crate::durable;

/// What pg-watch saw at its last turn, and what it remembers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Watch {
    /// Its process.
    pub pid: u32,
    /// When the turn was.
    pub at: Moment,
    /// What it published.
    pub state: State,
    /// What it wrote into the standing file.
    pub standing: u8,
    /// Why.
    pub why: String,
    /// The term the majority stores, as far as known.
    pub term: Option<Term>,
    /// What this node holds.
    pub holding: Option<Holding>,
    /// What it remembers of the voters and the holder.
    pub memory: Memory,
    /// What it saw of each voter last.
    pub evidence: Evidence,
    /// When each voter was asked what stands in the evidence.
    pub asked: BTreeMap<NodeName, Moment>,
}

/// Where the files lie.
#[derive(Debug, Clone)]
pub struct Files {
    run: PathBuf,
    state: PathBuf,
}

impl Default for Files {
    /// `/run/pg-ha` and `/var/lib/pg-ha`; `PG_HA_RUN_DIR` and `PG_HA_STATE_DIR` move them, for tests.
    fn default() -> Self {
        let place = |variable, usual: &str| PathBuf::from(std::env::var_os(variable).unwrap_or_else(|| usual.into()));
        Self { run: place("PG_HA_RUN_DIR", "/run/pg-ha"), state: place("PG_HA_STATE_DIR", "/var/lib/pg-ha") }
    }
}

impl Files {
    /// The integer that keepalived tracks for the address.
    #[must_use]
    pub fn standing(&self) -> PathBuf {
        self.run.join("standing")
    }

    /// The integer that keepalived tracks for the election.
    #[must_use]
    pub fn candidate(&self) -> PathBuf {
        self.run.join("candidate")
    }

    /// The journal.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.state.join("journal.jsonl")
    }

    /// Writes an integer file. It is replaced by a rename: keepalived watches the directory and sees it at once.
    pub fn write_number(path: &Path, number: u8) -> io::Result<()> {
        durable::replace_in_memory(path, format!("{number}\n").as_bytes())
    }

    /// Reads an integer file; what is missing or garbage is 0.
    #[must_use]
    pub fn read_number(path: &Path) -> u8 {
        fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// What pg-watch wrote at its last turn, if it wrote anything since the boot.
    pub fn watch(&self) -> io::Result<Option<Watch>> {
        read(&self.run.join("watch.json"))
    }

    /// Writes it.
    pub fn write_watch(&self, watch: &Watch) -> io::Result<()> {
        durable::replace_in_memory(&self.run.join("watch.json"), &serde_json::to_vec(watch)?)
    }

    /// The marker of a promotion.
    pub fn promoting(&self) -> io::Result<Option<Promoting>> {
        read(&self.run.join("promoting.json"))
    }

    /// Sets it.
    pub fn set_promoting(&self, promoting: &Promoting) -> io::Result<()> {
        durable::replace_in_memory(&self.run.join("promoting.json"), &serde_json::to_vec(promoting)?)
    }

    /// Takes it back.
    pub fn clear_promoting(&self) -> io::Result<()> {
        durable::remove(&self.run.join("promoting.json"))
    }

    /// The fence. One that cannot be read is an error, never "no fence".
    pub fn fence(&self) -> io::Result<Option<Fence>> {
        read(&self.state.join("fence.json"))
    }

    /// Sets the fence, durably.
    pub fn set_fence(&self, fence: &Fence) -> io::Result<()> {
        durable::replace(&self.state.join("fence.json"), &serde_json::to_vec(fence)?)
    }

    /// Lifts it, durably.
    pub fn lift_fence(&self) -> io::Result<()> {
        durable::remove(&self.state.join("fence.json"))
    }

    /// Takes the lock `name` of this node, waiting for it until `deadline`; `None`: another has it. It is held until
    /// the file is dropped, and ends with the process however that ends.
    pub fn lock(&self, name: &str, deadline: Deadline) -> io::Result<Option<File>> {
        let path = self.run.join(format!("{name}.lock"));
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) if deadline.passed() => return Ok(None),
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// The socket on which pg-watch listens for a nudge.
    #[must_use]
    pub fn nudge_socket(&self) -> PathBuf {
        self.run.join("watch.sock")
    }

    /// Asks pg-watch to take a turn at once.
    pub fn nudge(&self) -> io::Result<()> {
        UnixDatagram::unbound()?.send_to(b"turn", self.nudge_socket()).map(drop)
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let content = match fs::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()))),
    };
    serde_json::from_slice(&content)
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("cannot read {}: {error}", path.display())))
}
