//! Running other programs: a whole process group under one deadline.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::User;
use rustix::process::{Pid, Signal, kill_process_group};
use wait_timeout::ChildExt;

use crate::clock::Deadline;

/// Why a command gave no good result.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started.
    #[error("cannot run {program}: {error}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        error: io::Error,
    },
    /// It did not end in time; its whole process group was killed.
    #[error("{program} did not end in time and was killed")]
    Deadline {
        /// The program.
        program: String,
    },
    /// It ended with something else than 0.
    #[error("{program} ended with {status}: {said}")]
    Failed {
        /// The program.
        program: String,
        /// Exit code or signal.
        status: std::process::ExitStatus,
        /// The end of what it wrote to stderr.
        said: String,
    },
}

/// The user who owns `path`: what belongs to PostgreSQL is not touched as root.
#[must_use]
pub fn owner_of(path: &Path) -> Option<User> {
    User::from_uid(std::fs::metadata(path).ok()?.uid().into()).ok().flatten()
}

/// Runs `program` until `deadline`, as `user` (as whoever runs this, where `None`), with `input` on its stdin, and
/// returns its stdout.
pub fn run<S: AsRef<OsStr>>(
    program: &Path,
    arguments: &[S],
    user: Option<&User>,
    input: &str,
    deadline: Deadline,
) -> Result<String, CommandError> {
    let name = program.display().to_string();
    let not_started = |error| CommandError::Start { program: name.clone(), error };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    if let Some(user) = user.filter(|user| user.uid != nix::unistd::getuid()) {
        // The caller's HOME is root's: libpq would look for a passfile there.
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).current_dir("/").env("HOME", &user.dir);
    }
    let mut child = command.spawn().map_err(not_started)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read it says so by its exit.
        let _ = stdin.write_all(input.as_bytes());
    }
    let (out, err) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let status = child.wait_timeout(deadline.remaining()).map_err(not_started)?;
    let Some(status) = status else {
        if let Some(group) = Pid::from_raw(child.id().cast_signed()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = child.wait();
        return Err(CommandError::Deadline { program: name });
    };
    let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
    if status.success() {
        return Ok(out);
    }
    let mut said: Vec<_> = err.lines().rev().take(3).collect();
    said.reverse();
    Err(CommandError::Failed { program: name, status, said: said.join("; ") })
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_command_that_hangs_dies_with_its_children() {
        let begun = Instant::now();
        let script = "sleep 600 & sleep 600";
        let hung = run(Path::new("/bin/sh"), &["-c", script], None, "", Deadline::after(Duration::from_millis(100)));
        assert!(matches!(hung, Err(CommandError::Deadline { .. })));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_command_that_fails_says_what_it_said() {
        let failed = run(
            Path::new("/bin/sh"),
            &["-c", "echo why >&2; exit 3"],
            None,
            "",
            Deadline::after(Duration::from_secs(5)),
        );
        assert!(failed.unwrap_err().to_string().contains("why"));
    }
}
