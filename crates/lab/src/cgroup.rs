//! A control group for each machine. systemd in one machine finds and kills what it supervises by control group, so
//! two machines in one group would kill each other's services.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::clock::wait_until;

const ALL: &str = "pgha";

/// The hierarchies a machine needs its own group in: version 2, and where the host mixes both versions, systemd's own.
fn hierarchies() -> Vec<PathBuf> {
    let unified = Path::new("/sys/fs/cgroup/unified");
    let roots: &[&Path] =
        if unified.exists() { &[unified, Path::new("/sys/fs/cgroup/systemd")] } else { &[Path::new("/sys/fs/cgroup")] };
    roots.iter().filter(|root| root.exists()).map(|root| root.to_path_buf()).collect()
}

/// The files to write one's process id to, to be part of a machine. `part` is a group below the machine's.
pub(crate) fn entrances(machine: &str, part: &str) -> Result<Vec<PathBuf>> {
    let mut entrances = Vec::new();
    for root in hierarchies() {
        let directory = root.join(ALL).join(machine).join(part);
        fs::create_dir_all(&directory).with_context(|| format!("failed to make {}", directory.display()))?;
        entrances.push(directory.join("cgroup.procs"));
    }
    if entrances.is_empty() {
        bail!("no control groups at /sys/fs/cgroup; the machines need them mounted");
    }
    Ok(entrances)
}

/// Groups that are there already.
pub(crate) fn taken() -> Option<PathBuf> {
    hierarchies().into_iter().map(|root| root.join(ALL)).find(|directory| directory.exists())
}

fn file(machine: &str, name: &str) -> Option<PathBuf> {
    hierarchies().first().map(|root| root.join(ALL).join(machine).join(name))
}

/// Stops every process of a machine between two instructions, or lets them go on.
pub(crate) fn set_frozen(machine: &str, frozen: bool) -> Result<()> {
    let path = file(machine, "cgroup.freeze").context("no control groups of version 2")?;
    fs::write(&path, if frozen { "1" } else { "0" }).with_context(|| format!("failed to write {}", path.display()))?;
    if !wait_until(Duration::from_secs(5), Duration::from_millis(2), || is_frozen(machine) == frozen) {
        bail!("{machine} did not become {} within 5 s", if frozen { "frozen" } else { "thawed" });
    }
    Ok(())
}

/// Whether all its processes stand still.
pub(crate) fn is_frozen(machine: &str) -> bool {
    let events = file(machine, "cgroup.events").and_then(|path| fs::read_to_string(path).ok());
    events.is_some_and(|text| text.lines().any(|line| line == "frozen 1"))
}

/// Removes the groups of a machine whose processes are gone.
pub(crate) fn remove(machine: &str) {
    for root in hierarchies() {
        let directory = root.join(ALL).join(machine);
        wait_until(Duration::from_secs(2), Duration::from_millis(20), || {
            remove_tree(&directory);
            !directory.exists()
        });
        let _ = fs::remove_dir(root.join(ALL));
    }
}

/// Groups vanish by rmdir, the innermost first; their files cannot be deleted.
fn remove_tree(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(directory);
}
