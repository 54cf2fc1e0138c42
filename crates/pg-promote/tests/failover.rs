//! Two nodes and a witness on one machine: real servers, real programs, no keepalived and no systemd.
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside test functions")]

#[path = "../../pg-ha-system/tests/support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use support::{Server, wait_until};

/// A program of the workspace, built beside this test.
fn program(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_pg-promote")).with_file_name(name);
    assert!(path.exists(), "{} is missing: run `cargo build` first, or scripts/test", path.display());
    path
}

fn psql(server: &Server, arguments: &[&str]) -> Output {
    support::program("psql").args(["-X", "-d", &server.socket_conninfo()]).args(arguments).output().unwrap()
}

struct Cluster {
    nodes: Vec<Server>,
    witness: Server,
    home: tempfile::TempDir,
    watches: Vec<Child>,
}

impl Cluster {
    /// pg1 is the primary and holds term 1, pg2 follows it; pg-watch runs for both.
    fn start() -> Self {
        let (pg1, witness) = (Server::start(), Server::start());
        let pg2 = pg1.standby();
        let home = tempfile::tempdir().unwrap();
        let voter = |server: &Server| format!("host=127.0.0.1 port={} user=postgres dbname=postgres", server.port());
        let config = format!(
            "cluster: test\nnodes:\n  - {{ name: pg1, id: 1, conninfo: \"{}\" }}\n  - {{ name: pg2, id: 2, conninfo: \"{}\" }}\n\
             witnesses:\n  - {{ name: w, conninfo: \"{}\" }}\n\
             postgres: {{ data: DATA, bin: {}, replication_user: postgres }}\nfailover: {{ driver: none, profile: default }}\n",
            voter(&pg1),
            voter(&pg2),
            voter(&witness),
            support::bin().display(),
        );
        for (name, server) in [("pg1", &pg1), ("pg2", &pg2)] {
            std::fs::create_dir(home.path().join(name)).unwrap();
            let own = config.replace("DATA", &server.data().display().to_string());
            std::fs::write(home.path().join(name).join("cluster.yaml"), own).unwrap();
        }
        let mut cluster = Self { nodes: vec![pg1, pg2], witness, home, watches: Vec::new() };
        for server in cluster.nodes.iter().chain([&cluster.witness]) {
            Self::store_first_term(server);
        }
        for name in ["pg1", "pg2"] {
            let watch = cluster.command("pg-watch", name).spawn().unwrap();
            cluster.watches.push(watch);
        }
        wait_until("pg1 has standing, and pg2 may be promoted", || {
            cluster.number("pg1", "standing") > 0 && cluster.number("pg2", "candidate") > 0
        });
        cluster
    }

    fn store_first_term(server: &Server) {
        // The first makes the server know the name; ALTER SYSTEM takes no part in a transaction.
        let statements = ["-c", "SET pgha.term = '1/pg1/async'", "-c", "ALTER SYSTEM SET pgha.term = '1/pg1/async'"];
        assert!(psql(server, &statements).status.success());
    }

    fn command(&self, what: &str, node: &str) -> Command {
        let place = self.home.path().join(node);
        let mut command = Command::new(program(what));
        command
            .env("PG_HA_RUN_DIR", &place)
            .env("PG_HA_STATE_DIR", &place)
            .args(["--node", node, "--config"])
            .arg(place.join("cluster.yaml"))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, what: &str, node: &str, arguments: &[&str]) -> Output {
        self.command(what, node).args(arguments).output().unwrap()
    }

    fn number(&self, node: &str, file: &str) -> u8 {
        let text = std::fs::read_to_string(self.home.path().join(node).join(file)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    fn is_primary(&self, node: usize) -> bool {
        self.nodes[node].psql("SELECT pg_is_in_recovery()").trim() == "f"
    }

    fn term(&self) -> String {
        self.witness.psql("SELECT setting FROM pg_file_settings WHERE name = 'pgha.term'").trim().to_owned()
    }

    fn kill_postmaster(&self, node: usize) {
        self.nodes[node].signal("KILL");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for watch in &mut self.watches {
            let _ = watch.kill();
            let _ = watch.wait();
        }
    }
}

#[test]
fn while_the_primary_lives_nobody_is_promoted() {
    let cluster = Cluster::start();
    let refused = cluster.run("pg-promote", "pg2", &["--deadline", "8s"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(16), "{said}");
    assert!(said.contains("pg1 said"), "{said}");
    assert_eq!(cluster.term(), "1/pg1/async");
    assert!(!cluster.is_primary(1));
    let again = cluster.run("pg-promote", "pg1", &[]);
    assert_eq!(again.status.code(), Some(0), "the primary itself is one already");
}

#[test]
fn a_killed_postmaster_is_followed_by_one_promotion_whoever_asks() {
    let cluster = Cluster::start();
    cluster.kill_postmaster(0);
    let mut asked: Vec<_> = (0..2).map(|_| cluster.command("pg-promote", "pg2").spawn().unwrap()).collect();
    wait_until("pg2 is the primary", || cluster.is_primary(1));
    for promote in &mut asked {
        assert_eq!(promote.wait().unwrap().code(), Some(0));
    }
    assert_eq!(cluster.term(), "2/pg2/async");
    wait_until("pg2 has standing", || cluster.number("pg2", "standing") > 0);
    assert_eq!(cluster.number("pg1", "standing"), 0);
}

#[test]
fn an_old_primary_comes_back_as_a_standby_without_systemd() {
    let mut cluster = Cluster::start();
    cluster.kill_postmaster(0);
    wait_until("pg2 is the primary", || cluster.is_primary(1));
    cluster.nodes[0].stop();
    let followed = cluster.run("pg-follow", "pg1", &["--deadline", "60s"]);
    assert!(followed.status.success(), "{}", String::from_utf8_lossy(&followed.stderr));
    assert!(!cluster.is_primary(0));
    let streams = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
    assert_eq!(cluster.nodes[0].psql(streams), "1");
    wait_until("the fence is lifted", || !cluster.home.path().join("pg1/fence.json").exists());
    let again = cluster.run("pg-follow", "pg1", &[]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("nothing to do"));
    let stop = ["-D", &cluster.nodes[0].data().display().to_string(), "-m", "immediate", "stop"].map(str::to_owned);
    assert!(support::program("pg_ctl").args(stop).status().unwrap().success());
}

#[test]
fn two_bidders_win_one_term() {
    // pg1's server is killed and started again while pg2 bids: the old holder asks for a new term, the standby too.
    let mut cluster = Cluster::start();
    cluster.kill_postmaster(0);
    wait_until("pg1 said that it is down", || cluster.home.path().join("pg1/fence.json").exists());
    let promote = cluster.command("pg-promote", "pg2").args(["--deadline", "10s"]).spawn().unwrap();
    let mut boot = cluster.command("pg-promote", "pg1").args(["--boot", "--deadline", "20s"]).spawn().unwrap();
    let may_start = boot.wait().unwrap().success();
    // Reaps what was killed: PostgreSQL takes its process for alive otherwise.
    cluster.nodes[0].stop();
    if may_start {
        cluster.nodes[0].run();
    }
    let promoted = promote.wait_with_output().unwrap().status.success();
    let first = may_start && cluster.is_primary(0);
    assert!(
        first != cluster.is_primary(1),
        "pg1 may start: {may_start}, it is the primary: {first}; pg2 was promoted: {promoted}"
    );
    assert_eq!(cluster.is_primary(1), promoted);
}

#[test]
fn without_pg_watch_no_evidence_is_old_enough() {
    let mut cluster = Cluster::start();
    for watch in &mut cluster.watches {
        watch.kill().unwrap();
        watch.wait().unwrap();
    }
    wait_until("the guard has stopped pg1", || !psql(&cluster.nodes[0], &["-c", "SELECT 1"]).status.success());
    wait_until("pg1 lost its standing", || cluster.number("pg1", "standing") == 0);
    let refused = cluster.run("pg-promote", "pg2", &["--deadline", "8s"]);
    assert_eq!(refused.status.code(), Some(23));
    assert!(!cluster.is_primary(1));
}

#[test]
fn a_stopped_server_is_found_out_within_the_deadline() {
    let cluster = Cluster::start();
    let check = |arguments: &[&str]| cluster.run("pg-health-check", "pg1", arguments);
    assert_eq!(check(&[]).status.code(), Some(0));
    assert_eq!(check(&["--role", "primary"]).status.code(), Some(0));
    cluster.nodes[0].freeze();
    let begun = Instant::now();
    let answer = check(&["--role", "primary", "--deadline", "800ms"]);
    assert_eq!(answer.status.code(), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    wait_until("pg1 lost its standing", || cluster.number("pg1", "standing") == 0);
    // Stopped processes die of KILL too; the fence is written when none is left.
    wait_until("every process of pg1 is dead", || cluster.home.path().join("pg1/fence.json").exists());
}
