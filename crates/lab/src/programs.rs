//! The programs under trial.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::progress::Step;

/// What is installed in every machine.
pub(crate) const NAMES: &[&str] = &["pg-cluster", "pg-follow", "pg-health-check", "pg-promote", "pg-watch"];

/// Builds them and gives the directory they are in. `PG_HA_BIN_DIR` names one with programs built elsewhere.
pub(crate) fn build(repository: &Path) -> Result<PathBuf> {
    let directory = if let Some(directory) = std::env::var_os("PG_HA_BIN_DIR") {
        PathBuf::from(directory)
    } else {
        let step = Step::begin("building the programs");
        let status = Command::new("cargo")
            .args(["build", "--quiet", "--locked", "--profile", "lab"])
            .current_dir(repository)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .context("cargo cannot be run; install Rust (https://rustup.rs)")?;
        if !status.success() {
            bail!("the programs do not build; cargo said why above");
        }
        step.done();
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository.join("target"), PathBuf::from).join("lab")
    };
    for name in NAMES {
        if !directory.join(name).is_file() {
            bail!("there is no {name} in {}; build it with cargo build --profile lab", directory.display());
        }
    }
    Ok(directory)
}
