//! A throw-away `PostgreSQL` for tests: its own directory, its own port, gone when it is dropped.
//!
//! Only the standard library is used, so that the tests of other crates can take it as it is:
//!
//! ```ignore
//! #[path = "../../pg-ha-system/tests/support/mod.rs"]
//! mod support;
//! ```
//!
//! A test that cannot have its server fails and says what is missing: a test that is skipped in silence proves nothing.

#![allow(dead_code, missing_docs, unreachable_pub)] // Each test file uses a part of it.
#![allow(clippy::expect_used, clippy::panic, clippy::must_use_candidate)]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the programs are: `PG_HA_TEST_BIN`, or Debian's place for 15.
pub fn bin() -> PathBuf {
    let bin =
        std::env::var_os("PG_HA_TEST_BIN").map_or_else(|| PathBuf::from("/usr/lib/postgresql/15/bin"), PathBuf::from);
    assert!(
        bin.join("initdb").exists(),
        "these tests need PostgreSQL: {} is missing (Debian: postgresql-15), or set PG_HA_TEST_BIN",
        bin.join("initdb").display()
    );
    bin
}

/// Who runs the server. initdb and postgres refuse root.
#[derive(Debug, Clone, Copy)]
struct Account {
    uid: u32,
    gid: u32,
}

/// `postgres`, or `nobody`, if we are root; ourselves otherwise.
fn account() -> Option<Account> {
    let status = fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let uids = status.lines().find(|line| line.starts_with("Uid:")).expect("a Uid line");
    if uids.split_whitespace().nth(2) != Some("0") {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let find = |name: &str| {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut ids = line.split(':').skip(2).map(str::parse);
        Some(Account { uid: ids.next()?.ok()?, gid: ids.next()?.ok()? })
    };
    let account = find("postgres").or_else(|| find("nobody"));
    Some(account.expect("run as root, these tests need an account postgres or nobody"))
}

/// A directory of one test, owned by the server's account, gone when it is dropped.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// A new one, in `/tmp`: the path of a Unix socket must be short.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/tmp/pg-ha-test-{}-{number}", std::process::id()));
        // Left behind by a process of the same number that was killed.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a directory in /tmp");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode set");
        give_to_server(&path);
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file in it, owned by the server's account.
    pub fn write(&self, name: &str, contents: &[u8], mode: u32) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, contents).expect("a file written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode set");
        give_to_server(&path);
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes the server's account the owner of a file.
pub fn give_to_server(path: &Path) {
    if let Some(account) = account() {
        chown(path, Some(account.uid), Some(account.gid)).expect("the owner changed");
    }
}

/// A port that nobody listens to, for the moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port on 127.0.0.1");
    listener.local_addr().expect("its number").port()
}

/// A program of `PostgreSQL`'s, run under the server's account.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(bin().join(name));
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").current_dir("/");
    if let Some(account) = account() {
        command.uid(account.uid).gid(account.gid);
    }
    command
}

fn succeeded(what: &str, output: &Output) {
    assert!(
        output.status.success(),
        "{what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A server of one's own. Listens on 127.0.0.1, and on a socket in [`socket_directory`](Self::socket_directory).
///
/// The superuser is `postgres`, trusted over both, unless [`hba`](Self::hba) says otherwise.
#[derive(Debug)]
pub struct Server {
    directory: Directory,
    port: u16,
    postmaster: Option<Child>,
}

impl Server {
    /// A new cluster, started.
    pub fn start() -> Self {
        let mut server = Self::create();
        server.run();
        server
    }

    /// A new cluster, not started.
    pub fn create() -> Self {
        let directory = Directory::new();
        let output = program("initdb")
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"])
            .arg("-D")
            .arg(directory.path().join("data"))
            .output()
            .expect("initdb started");
        succeeded("initdb", &output);
        Self::at(directory)
    }

    /// A standby of this server, started and streaming once this returns.
    pub fn standby(&self) -> Self {
        let directory = Directory::new();
        let output = program("pg_basebackup")
            .args(["--no-sync", "-c", "fast", "-R", "-d", &self.conninfo(), "-D"])
            .arg(directory.path().join("data"))
            .output()
            .expect("pg_basebackup started");
        succeeded("pg_basebackup", &output);
        let mut standby = Self::at(directory);
        standby.run();
        let streaming = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        wait_until("a standby that streams", || standby.psql(streaming) == "1");
        standby
    }

    fn at(directory: Directory) -> Self {
        let server = Self { port: free_port(), directory, postmaster: None };
        // What is slow and keeps data safe is of no use here.
        server.configure(&format!(
            "port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nfsync = off\n\
             shared_buffers = 16MB\nmax_connections = 20\nlogging_collector = off\nwal_log_hints = on\n",
            server.port,
            server.directory.path().display(),
        ));
        server
    }

    /// Adds lines to `postgresql.conf`; they count from the next start or reload.
    pub fn configure(&self, lines: &str) {
        let path = self.data().join("postgresql.conf");
        let mut file = File::options().append(true).open(path).expect("postgresql.conf");
        writeln!(file, "{lines}").expect("postgresql.conf written");
    }

    /// Puts `lines` in place of `pg_hba.conf`, after one that lets `postgres` in by the socket, and reloads it.
    pub fn hba(&self, lines: &str) {
        let contents = format!("local all postgres trust\n{lines}\n");
        fs::write(self.data().join("pg_hba.conf"), contents).expect("pg_hba.conf written");
        if self.postmaster.is_some() {
            // The postmaster reads both files before it starts another backend.
            let loaded = "SELECT pg_conf_load_time()";
            let before = self.psql(loaded);
            self.signal("HUP");
            wait_until("pg_hba.conf reloaded", || self.psql(loaded) != before);
        }
    }

    /// Starts it, and waits until it takes sessions.
    pub fn run(&mut self) {
        self.launch();
        wait_until("a server that takes sessions", || {
            if let Some(status) = self.postmaster.as_mut().and_then(|child| child.try_wait().expect("waited")) {
                panic!("postgres ended with {status}:\n{}", self.log());
            }
            self.try_psql("SELECT 1").is_ok()
        });
    }

    /// Starts it, and does not wait.
    pub fn launch(&mut self) {
        let log = File::options().create(true).append(true).open(self.directory.path().join("log")).expect("a log");
        let child = program("postgres")
            .arg("-D")
            .arg(self.data())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("postgres started");
        self.postmaster = Some(child);
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub fn socket_directory(&self) -> &Path {
        self.directory.path()
    }

    /// A place for the test's own files, which the server can read.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// As superuser over TCP.
    pub fn conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port)
    }

    /// As superuser by the Unix socket.
    pub fn socket_conninfo(&self) -> String {
        format!("host={} port={} user=postgres dbname=postgres", self.socket_directory().display(), self.port)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Runs SQL as superuser by the socket, with psql: no code of ours in between.
    pub fn psql(&self, sql: &str) -> String {
        self.try_psql(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    fn try_psql(&self, sql: &str) -> Result<String, String> {
        let output = program("psql")
            .args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &self.socket_conninfo(), "-c", sql])
            .output()
            .expect("psql started");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Process id of the postmaster.
    pub fn pid(&self) -> u32 {
        self.postmaster.as_ref().expect("a server that runs").id()
    }

    /// Sends the postmaster a signal: `INT` (fast stop), `HUP`, ...
    pub fn signal(&self, name: &str) {
        kill(name, &[self.pid()]);
    }

    /// Stops the postmaster and all its processes where they are, as a frozen machine would.
    pub fn freeze(&self) {
        let mut pids = vec![self.pid()];
        // The postmaster first, so that no process comes after we have looked.
        kill("STOP", &pids);
        pids = children(self.pid());
        kill("STOP", &pids);
    }

    /// Lets it go on after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        kill("CONT", &children(self.pid()));
        self.signal("CONT");
    }

    /// Ends it at once, as `pg_ctl stop -m immediate`. Its files stay.
    pub fn stop(&mut self) {
        let Some(mut child) = self.postmaster.take() else { return };
        if child.try_wait().is_ok_and(|status| status.is_none()) {
            let pid = child.id();
            kill("CONT", &children(pid));
            kill("CONT", &[pid]);
            kill("QUIT", &[pid]);
            let end = Instant::now() + PATIENCE;
            while child.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
        }
        let _ = child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let last: Vec<&str> = log.lines().rev().take(20).collect();
            let mut text = String::new();
            for line in last.iter().rev() {
                let _ = writeln!(text, "  {line}");
            }
            eprintln!("the server on port {} logged last:\n{text}", self.port);
        }
        self.stop();
    }
}

fn children(pid: u32) -> Vec<u32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
        .collect()
}

fn kill(signal: &str, pids: &[u32]) {
    if !pids.is_empty() {
        let pids = pids.iter().map(ToString::to_string);
        // A process that has just ended is no failure.
        let _ = Command::new("kill").arg(format!("-{signal}")).args(pids).stderr(Stdio::null()).status();
    }
}

/// Waits for something that is only a matter of time.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "no {what} within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
