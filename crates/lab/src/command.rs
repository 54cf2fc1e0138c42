//! Running the system's own tools: ip, nft, mount, systemd-nspawn.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a tool and gives its standard output; what it says on failure becomes the error.
pub(crate) fn run<S: AsRef<OsStr>>(words: &[S]) -> Result<String> {
    let output = output(words)?;
    if !output.status.success() {
        bail!("{}: {}", shown(words), last_words(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a tool whose failure means that there was nothing to do.
pub(crate) fn attempt<S: AsRef<OsStr>>(words: &[S]) -> bool {
    output(words).is_ok_and(|output| output.status.success())
}

/// Runs a tool and gives whatever it said.
pub(crate) fn output<S: AsRef<OsStr>>(words: &[S]) -> Result<Output> {
    let (program, arguments) = words.split_first().context("an empty command line")?;
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} cannot be run; scripts/install-build-deps installs it", shown(&[program])))
}

/// The last line a failed tool wrote.
pub(crate) fn last_words(output: &Output) -> String {
    let text = [output.stderr.as_slice(), output.stdout.as_slice()].map(String::from_utf8_lossy);
    let line = text.iter().flat_map(|text| text.lines().rev()).find(|line| !line.trim().is_empty());
    line.map_or_else(|| output.status.to_string(), |line| line.trim().to_owned())
}

fn shown<S: AsRef<OsStr>>(words: &[S]) -> String {
    words.iter().map(|word| word.as_ref().to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
