//! The file system every machine starts from: Debian with the packages a server needs, and nothing of pg-ha.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::{attempt, last_words, output};
use crate::fingerprint::Fingerprint;
use crate::progress::{Step, say};

const SUITE: &str = "bookworm";
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,nftables,procps,libssl3,ca-certificates,\
                        postgresql-15,postgresql-15-repmgr,repmgr,keepalived";
/// What only costs time in a machine that lives for a minute.
const MASKED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "console-getty.service",
    // Neither has a configuration before the machine is provisioned.
    "repmgrd.service",
];

/// The image's directory, made if it is not there.
pub(crate) fn ensure(cache: &Path) -> Result<PathBuf> {
    let mut fingerprint = Fingerprint::default();
    fingerprint.text("3").text(SUITE).text(PACKAGES).text(&MASKED.join(","));
    let image = cache.join(format!("image-{}", fingerprint.name()));
    if image.exists() {
        return Ok(image);
    }
    crate::fingerprint::forget_others(cache, "image-", &image);
    let step = Step::begin(format!("making the machines' image with debootstrap ({SUITE}, about a minute, once)"));
    let (partial, log) = (image.with_extension("partial"), cache.join("debootstrap.log"));
    remove_partial(&partial)?;
    let include = format!("--include={PACKAGES}");
    let output = output(&["debootstrap", "--variant=minbase", &include, SUITE, &partial.display().to_string()])?;
    fs::write(&log, [output.stdout.as_slice(), output.stderr.as_slice()].concat())?;
    if !output.status.success() {
        remove_partial(&partial)?;
        bail!("debootstrap failed: {} (see {})", last_words(&output), log.display());
    }
    settle(&partial).context("failed to finish the image")?;
    fs::rename(&partial, &image).context("failed to name the image")?;
    step.done();
    Ok(image)
}

/// What makes an image out of an installation: nothing in it may be the same on two machines.
fn settle(root: &Path) -> Result<()> {
    fs::write(root.join("etc/machine-id"), "")?;
    fs::create_dir_all(root.join("var/log/journal"))?;
    // The package made a server; all machines would have the same one.
    for directory in ["etc/postgresql/15", "var/lib/postgresql/15/main"] {
        fs::remove_dir_all(root.join(directory))?;
    }
    for unit in MASKED {
        symlink("/dev/null", root.join("etc/systemd/system").join(unit))
            .or_else(|error| if error.kind() == std::io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })?;
    }
    Ok(())
}

/// debootstrap mounts in what it makes, and may have been stopped in the middle.
fn remove_partial(partial: &Path) -> Result<()> {
    if !partial.exists() {
        return Ok(());
    }
    for inner in ["proc", "sys", "dev/pts", "dev/shm", "dev", ""] {
        attempt(&["umount", &partial.join(inner).display().to_string()]);
    }
    let mounts = fs::read_to_string("/proc/mounts")?;
    if mounts.contains(&partial.display().to_string()) {
        bail!("{} still has mounts in it; unmount them, then delete it", partial.display());
    }
    say("deleting a half made image");
    fs::remove_dir_all(partial).with_context(|| format!("failed to delete {}", partial.display()))
}
