//! One machine: a disk of its own over a shared image, booted by systemd-nspawn with its own systemd, network,
//! processes and control group.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::cgroup;
use crate::clock::wait_until;
use crate::command::{attempt, last_words, run};
use crate::process::Process;

/// Enough for a few scenarios, and small enough to be filled at once.
const DISK_SIZE: &str = "3G";
/// Joins the control groups given first, up to `--`, and then becomes the rest.
const JOIN_THEN: &str = r#"while [ "$1" != -- ]; do echo 0 > "$1" || exit 125; shift; done; shift; exec "$@""#;

/// A machine, running or not.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) name: &'static str,
    /// Where its disk and its console are kept.
    directory: PathBuf,
}

impl Machine {
    pub(crate) fn new(runtime: &Path, name: &'static str) -> Self {
        Self { name, directory: runtime.join(name) }
    }

    /// Its file system, also while its power is off.
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// What differs from the layers it stands on.
    pub(crate) fn difference(&self) -> PathBuf {
        self.directory.join("disk/upper")
    }

    /// Makes its disk over the layers, the topmost first. A file system of its own: it can run full without filling
    /// this one.
    pub(crate) fn assemble(&self, layers: &[PathBuf]) -> Result<()> {
        let (image, disk, root) = (self.directory.join("disk.img"), self.directory.join("disk"), self.root());
        for directory in [&disk, &root] {
            fs::create_dir_all(directory).with_context(|| format!("failed to make {}", directory.display()))?;
        }
        let (image, disk) = (image.display().to_string(), disk.display().to_string());
        run(&["truncate", "-s", DISK_SIZE, &image])?;
        run(&["mkfs.ext4", "-q", "-F", "-m", "0", &image])?;
        run(&["mount", "-o", "loop", &image, &disk])?;
        for part in ["upper", "work"] {
            fs::create_dir_all(self.directory.join("disk").join(part))?;
        }
        let layers: Vec<_> = layers.iter().map(|layer| layer.display().to_string()).collect();
        let options = format!("lowerdir={},upperdir={disk}/upper,workdir={disk}/work", layers.join(":"));
        run(&["mount", "-t", "overlay", "overlay", "-o", &options, &root.display().to_string()])?;
        Ok(())
    }

    /// Switches it on. Returns at once; `wait_booted` waits.
    pub(crate) fn boot(&self) -> Result<()> {
        if self.supervisor().is_some() {
            bail!("{} is running already", self.name);
        }
        // nspawn makes two groups below the one it is started in; those of an earlier boot must not be in its way.
        let groups = cgroup::entrances(self.name, "")?;
        let console = File::create(self.directory.join("console.log")).context("failed to make the console's log")?;
        let child = Command::new("setsid")
            .args(["sh", "-c", JOIN_THEN, "sh"])
            .args(groups)
            .args(["--", "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", "--console=pipe"])
            .args(["--link-journal=no", "--resolv-conf=off", "--timezone=off"])
            .args(["--capability=CAP_NET_ADMIN,CAP_NET_RAW,CAP_IPC_LOCK", "--machine", self.name])
            .arg(format!("--network-namespace-path=/run/netns/{}", crate::network::of(self.name)))
            .arg("--directory")
            .arg(self.root())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            .spawn()
            .context("failed to start systemd-nspawn")?;
        let pid = i32::try_from(child.id())?;
        let process = Process::present(pid).context("systemd-nspawn ended at once")?;
        fs::write(self.directory.join("nspawn.json"), serde_json::to_vec(&process)?)?;
        Ok(())
    }

    /// The systemd-nspawn process, while it runs.
    pub(crate) fn supervisor(&self) -> Option<Process> {
        let text = fs::read(self.directory.join("nspawn.json")).ok()?;
        let process: Process = serde_json::from_slice(&text).ok()?;
        process.lives().then_some(process)
    }

    /// The machine's own process 1, as this machine numbers it.
    pub(crate) fn leader(&self) -> Option<Process> {
        let supervisor = self.supervisor()?;
        supervisor.children().into_iter().find(|child| child.namespace() != supervisor.namespace())
    }

    /// Waits until systemd has started everything.
    pub(crate) fn wait_booted(&self, limit: Duration) -> Result<()> {
        let booted = wait_until(limit, Duration::from_millis(100), || {
            let state = self.run(&["systemctl", "is-system-running"]);
            let state = state.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
            matches!(state.as_deref(), Ok("running" | "degraded"))
        });
        if !booted {
            let console = self.directory.join("console.log");
            bail!("{} has not booted within {} s; see {}", self.name, limit.as_secs(), console.display());
        }
        Ok(())
    }

    /// The command that runs another inside the machine, as root, with a plain environment.
    fn inside(&self, words: &[impl AsRef<std::ffi::OsStr>]) -> Result<Command> {
        let Some(leader) = self.leader() else { bail!("{0} is off; scripts/lab fault power-on {0}", self.name) };
        if cgroup::is_frozen(self.name) {
            bail!("{0} is frozen; scripts/lab fault thaw {0}", self.name);
        }
        let mut command = Command::new("sh");
        command
            .args(["-c", JOIN_THEN, "sh"])
            // What is run in a machine freezes and dies with it.
            .args(cgroup::entrances(self.name, "exec")?)
            .args(["--", "nsenter", "--all", "--target", &leader.pid.to_string(), "--"])
            .args(words)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("LANG", "C.UTF-8");
        Ok(command)
    }

    /// Runs a command inside and gives whatever it said.
    pub(crate) fn run(&self, words: &[impl AsRef<std::ffi::OsStr>]) -> Result<Output> {
        self.inside(words)?.stdin(Stdio::null()).output().context("failed to run sh")
    }

    /// Runs a command inside that must succeed, and gives its standard output.
    pub(crate) fn must(&self, words: &[&str]) -> Result<String> {
        let output = self.run(words)?;
        if !output.status.success() {
            bail!("{}: {}: {}", self.name, words.join(" "), last_words(&output));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Starts a command inside and does not wait for it.
    pub(crate) fn spawn(&self, words: &[&str], output: Stdio) -> Result<std::process::Child> {
        self.inside(words)?
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(Stdio::null())
            .spawn()
            .context("failed to run sh")
    }

    /// Becomes a command inside: its streams and exit code are this program's.
    pub(crate) fn become_command(&self, words: &[impl AsRef<std::ffi::OsStr>]) -> Result<std::convert::Infallible> {
        Err(self.inside(words)?.exec()).context("failed to run sh")
    }

    /// The processes of its PostgreSQL.
    pub(crate) fn postgres(&self) -> Vec<Process> {
        let all = self.leader().map(Process::neighbours).unwrap_or_default();
        all.into_iter().filter(|process| process.name() == "postgres").collect()
    }

    /// The postmaster. Its children call themselves `postgres: …`, also when they have outlived it.
    pub(crate) fn postmaster(&self) -> Option<Process> {
        self.postgres().into_iter().find(|process| process.command_line().starts_with('/'))
    }

    /// Ends everything in it at once: when process 1 of a namespace dies, the kernel kills the others.
    pub(crate) fn kill(&self) -> Result<()> {
        if let Some(leader) = self.leader() {
            leader.signal(Signal::SIGKILL);
        }
        if cgroup::is_frozen(self.name) {
            cgroup::set_frozen(self.name, false)?;
        }
        self.wait_gone(Duration::from_secs(10))
    }

    /// Shuts it down as an operator would.
    pub(crate) fn shut_down(&self, limit: Duration) -> Result<()> {
        self.must(&["systemctl", "poweroff"])?;
        self.wait_gone(limit)
    }

    fn wait_gone(&self, limit: Duration) -> Result<()> {
        if !wait_until(limit, Duration::from_millis(5), || self.supervisor().is_none()) {
            bail!("{} is still running after {} s", self.name, limit.as_secs());
        }
        Ok(())
    }

    /// Takes it away with all it wrote.
    pub(crate) fn remove(&self) {
        if self.kill().is_err()
            && let Some(supervisor) = self.supervisor()
        {
            supervisor.signal(Signal::SIGKILL);
        }
        cgroup::remove(self.name);
        self.remove_traces();
        for mount in [self.root(), self.directory.join("disk")] {
            let mount = mount.display().to_string();
            wait_until(Duration::from_secs(5), Duration::from_millis(50), || {
                !attempt(&["mountpoint", "-q", &mount]) || attempt(&["umount", &mount])
            });
        }
    }

    /// nspawn leaves its lock and a directory behind when it is killed, or when /run is no tmpfs.
    fn remove_traces(&self) {
        let traces = Path::new("/run/systemd/nspawn");
        let _ = fs::remove_dir(traces.join("propagate").join(self.name));
        if let Ok(root) = fs::metadata(self.root()) {
            let _ = fs::remove_file(traces.join(format!("locks/inode-{}:{}", root.dev(), root.ino())));
        }
        for empty in ["propagate", "locks", ""] {
            let _ = fs::remove_dir(traces.join(empty));
        }
    }
}
