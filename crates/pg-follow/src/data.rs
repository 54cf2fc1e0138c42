//! The data directory: what points it at an upstream, and the two ways to make it anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use pg_ha_rules::names::{NodeName, Term};
use pg_ha_system::clock::Deadline;
use pg_ha_system::command;
use pg_ha_system::conninfo::ConnInfo;
use pg_ha_system::durable;
use pg_ha_system::node::Node;
use pg_ha_system::session::{Session, quote_literal};
use pg_ha_system::votes;

/// Is there no cluster in the data directory?
pub(crate) fn is_empty(node: &Node) -> bool {
    !node.cluster.postgres.data.join("PG_VERSION").exists()
}

/// How the server's own user reaches the holder: by the replication user, with the password from its own passfile.
fn upstream(node: &Node, holder: &NodeName) -> anyhow::Result<ConnInfo> {
    let mut conninfo = node.voters.get(holder).context("the holder is no voter")?.without_password();
    conninfo.remove("passfile").remove("dbname").remove("options");
    conninfo.set("user", &node.cluster.postgres.replication_user)?;
    conninfo.set("application_name", node.me.as_str())?;
    if let Some(passfile) = &node.cluster.postgres.replication_passfile {
        conninfo.set("passfile", passfile.to_string_lossy())?;
    }
    Ok(conninfo)
}

fn slot(node: &NodeName) -> String {
    // Slots know no `-`.
    format!("pgha_{}", node.as_str().replace('-', "_"))
}

/// `primary_conninfo` and `primary_slot_name`.
pub(crate) fn upstream_settings(node: &Node, holder: &NodeName) -> anyhow::Result<[(&'static str, String); 2]> {
    Ok([("primary_conninfo", upstream(node, holder)?.render()), ("primary_slot_name", slot(&node.me))])
}

/// Makes sure that the holder has this node's slot.
pub(crate) fn create_slot(node: &Node, holder: &NodeName, deadline: Deadline) -> anyhow::Result<()> {
    let mut session = Session::open(node.voters.get(holder).context("the holder is no voter")?, deadline)?;
    let name = quote_literal(&slot(&node.me));
    session.rows(
        &format!(
            "SELECT pg_create_physical_replication_slot({name})
              WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {name})"
        ),
        deadline,
    )?;
    Ok(())
}

/// Makes a stopped data directory that of a standby of `holder`.
pub(crate) fn point_at(node: &Node, holder: &NodeName) -> anyhow::Result<()> {
    let data = &node.cluster.postgres.data;
    // The signal first: from here on the directory starts as nothing but a standby.
    durable::replace(&data.join("standby.signal"), b"").context("cannot write standby.signal")?;
    let auto = data.join("postgresql.auto.conf");
    let text = fs::read_to_string(&auto).with_context(|| format!("cannot read {}", auto.display()))?;
    let settings = upstream_settings(node, holder)?;
    let named = |line: &&str| !settings.iter().any(|(name, _)| line.split(['=', ' ']).next() == Some(*name));
    let mut lines: Vec<String> = text.lines().filter(named).map(str::to_owned).collect();
    lines.extend(settings.iter().map(|(name, value)| format!("{name} = '{}'", value.replace('\'', "''"))));
    let new = lines.join("\n") + "\n";
    durable::replace(&auto, new.as_bytes()).with_context(|| format!("cannot write {}", auto.display()))
}

/// A copied `postgresql.auto.conf` brings the source's term along: the greater of the two is kept.
fn keep_term(data: &Path, own: Option<Term>) -> anyhow::Result<()> {
    let copied = votes::read_on_disk(data)?;
    match own {
        Some(own) if copied.is_none_or(|copied| copied.number < own.number) => Ok(votes::write_on_disk(data, &own)?),
        _ => Ok(()),
    }
}

/// Takes back what the holder's history does not have. The server was stopped cleanly before.
pub(crate) fn rewind(node: &Node, term: &Term, deadline: Deadline) -> anyhow::Result<()> {
    let postgres = &node.cluster.postgres;
    let own = votes::read_on_disk(&postgres.data)?;
    let mut source = upstream(node, &term.holder)?;
    source.set("dbname", "postgres")?;
    let arguments = [
        "--target-pgdata",
        &postgres.data.display().to_string(),
        "--source-server",
        &source.render(),
        "--no-ensure-shutdown",
    ]
    .map(str::to_owned);
    let said = command::run(
        &postgres.bin.join("pg_rewind"),
        &arguments,
        command::owner_of(&postgres.data).as_ref(),
        "",
        deadline,
    )?;
    said.lines().for_each(|line| log::info!("pg_rewind: {line}"));
    keep_term(&postgres.data, own)
}

/// Copies the whole cluster beside the old directory, then puts it in its place; the old one is kept.
pub(crate) fn clone(node: &Node, term: &Term, deadline: Deadline) -> anyhow::Result<()> {
    let (postgres, data) = (&node.cluster.postgres, node.data());
    let beside = |suffix: &str| PathBuf::from(format!("{}.{suffix}", data.display()));
    let own = votes::read_on_disk(&data).unwrap_or_default();
    let new = beside("pg-follow");
    if new.exists() {
        // Only ever a copy that a killed run left half done.
        fs::remove_dir_all(&new).with_context(|| format!("cannot remove {}", new.display()))?;
    }
    let parent = data.parent().context("the data directory has no parent")?;
    let user = command::owner_of(if data.exists() { &data } else { parent });
    let arguments = [
        "--pgdata",
        &new.display().to_string(),
        "--dbname",
        &upstream(node, &term.holder)?.render(),
        "--wal-method",
        "stream",
        "--checkpoint",
        "fast",
    ]
    .map(str::to_owned);
    command::run(&postgres.bin.join("pg_basebackup"), &arguments, user.as_ref(), "", deadline)?;
    durable::replace(&new.join("standby.signal"), b"").context("cannot write standby.signal")?;
    keep_term(&new, own)?;
    if is_empty(node) {
        let _ = fs::remove_dir(&data);
    } else {
        let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let old = beside(&format!("before-{seconds}"));
        fs::rename(&data, &old).with_context(|| format!("cannot move {}", data.display()))?;
        log::warn!("the old data directory is kept as {}; remove it when nothing in it is missed", old.display());
    }
    fs::rename(&new, &data).with_context(|| format!("cannot put {} in its place", new.display()))?;
    Ok(durable::sync_directory(parent)?)
}
