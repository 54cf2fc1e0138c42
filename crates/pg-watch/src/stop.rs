//! Stopping PostgreSQL: standing first, then the address, then KILL to every process, and no disk before that.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use pg_ha_rules::fence::Fence;
use pg_ha_system::clock::Deadline;
use pg_ha_system::command;
use pg_ha_system::files::Files;
use pg_ha_system::journal::Record;
use pg_ha_system::node::Node;
use pg_ha_system::processes;
use std::path::{Path, PathBuf};

/// What is left when PostgreSQL was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopped {
    /// No process of the cluster is left.
    pub(crate) gone: bool,
    /// The fence is on disk.
    pub(crate) fenced: bool,
}

/// Stops PostgreSQL in `data` and fences this node. `data` was resolved before: nothing here looks at a disk that may
/// hang, but for the fence, which is given up after a while.
pub(crate) fn stop(node: &Node, data: &Path, fence: Option<&Fence>, seen: &str) -> Stopped {
    log::error!("stopping PostgreSQL: {seen}");
    let mut record = Record::begin(node.files.journal(), &node.me, "pg-watch");
    for path in [node.files.standing(), node.files.candidate()] {
        if let Err(error) = Files::write_number(&path, 0) {
            log::error!("cannot write {}: {error}", path.display());
        }
    }
    record.step("standing 0");
    drop_address(node);
    let killed = processes::kill_all(data, Deadline::after(node.timings.stop_limit));
    record.step("kill");
    match &killed {
        Ok(count) => log::warn!("{count} processes of PostgreSQL killed, none is left"),
        Err(left) => {
            log::error!("{} processes of PostgreSQL do not die: {left:?}; cut this machine's power", left.len());
        }
    }
    let (send, fenced) = mpsc::channel();
    let (files, fence, gone, seen) = (node.files.clone(), fence.cloned(), killed.is_ok(), seen.to_owned());
    // The marker may hang with its disk, this thread with it; nobody waits for it for long.
    let mark = move || {
        let marked = fence.as_ref().map_or(Ok(()), |fence| files.set_fence(fence));
        if let Err(error) = &marked {
            log::error!("cannot write the fence: {error}");
        }
        let _ = send.send(marked.is_ok() && fence.is_some());
        record.step("fence");
        record.set("fence", &fence);
        record.set("seen", &seen);
        record.set("killed", killed.map_or_else(|left| format!("{left:?} are left"), |count| count.to_string()));
        if let Err(error) = record.end("stopped") {
            log::warn!("cannot write the journal: {error}");
        }
    };
    let spawned = thread::Builder::new().name("fence".to_owned()).spawn(mark).is_ok();
    let fenced = spawned && fenced.recv_timeout(Duration::from_secs(1)).unwrap_or(false);
    Stopped { gone, fenced }
}

/// Takes the address off the interface, in case keepalived is not there to do it.
fn drop_address(node: &Node) {
    let Some(address) = &node.cluster.address else { return };
    let (vip, interface) = (address.vip.to_string(), address.interface.clone());
    let drop_it = move || {
        let arguments = ["address", "del", &vip, "dev", &interface];
        // Nearly always keepalived was faster, and there is nothing to delete.
        let _ =
            command::run(&PathBuf::from("/usr/sbin/ip"), &arguments, None, "", Deadline::after(Duration::from_secs(1)));
    };
    let _ = thread::Builder::new().name("address".to_owned()).spawn(drop_it);
}
