//! What the machines wrote: kept when a promise breaks, to be read afterwards. Also of a machine that is off.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::command::output;
use crate::lab::Lab;
use crate::topology::Topology;

/// Files of a machine that tell what happened in it, and what they are kept as.
const FILES: &[(&str, &str)] = &[
    ("var/lib/pg-ha/journal.jsonl", "decisions.jsonl"),
    ("var/lib/pg-ha/fence.json", "fence.json"),
    ("var/log/postgresql/postgresql-15-main.log", "postgresql.log"),
];

/// Deletes what an earlier run left.
pub(crate) fn forget(directory: &Path) {
    let _ = fs::remove_dir_all(directory);
}

/// Copies it, one directory for each machine.
pub(crate) fn gather(lab: &Lab, topology: Topology, directory: &Path) -> Result<()> {
    for (host, _) in topology.machines() {
        let (root, directory) = (lab.machine(*host).root(), directory.join(host.name));
        fs::create_dir_all(&directory).with_context(|| format!("failed to make {}", directory.display()))?;
        for (from, to) in FILES {
            // Not every machine has every file.
            let _ = fs::copy(root.join(from), directory.join(to));
        }
        let journal = root.join("var/log/journal").display().to_string();
        let said = output(&["journalctl", "--directory", &journal, "--output=short-precise", "--no-pager", "--quiet"])?;
        fs::write(directory.join("journal.log"), said.stdout)?;
    }
    Ok(())
}
