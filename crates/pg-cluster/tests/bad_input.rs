//! What bad input gets: one line that names the thing, a documented exit code, and nothing done.
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside test functions")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const PROGRAMS: [&str; 4] = ["pg-cluster", "pg-promote", "pg-follow", "pg-watch"];

fn program(name: &str) -> Command {
    let path = Path::new(env!("CARGO_BIN_EXE_pg-cluster")).with_file_name(name);
    assert!(path.exists(), "{} is missing: run `cargo build` first, or scripts/test", path.display());
    let mut command = Command::new(path);
    if name == "pg-cluster" {
        command.arg("status");
    }
    command.stdin(Stdio::null());
    command
}

fn run(home: &Path, name: &str, arguments: &[&str]) -> Output {
    program(name).args(arguments).env("PG_HA_RUN_DIR", home).env("PG_HA_STATE_DIR", home).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A cluster whose voters all have this port; nothing listens at the two others.
fn config(home: &Path, ports: [u16; 3], change: impl Fn(String) -> String) -> PathBuf {
    let voter = |port| format!("host=127.0.0.1 port={port} user=pgha dbname=postgres");
    let text = format!(
        "cluster: test\nnodes:\n  - {{ name: pg1, id: 1, conninfo: \"{}\" }}\n  - {{ name: pg2, id: 2, conninfo: \"{}\" }}\n\
         witnesses:\n  - {{ name: w, conninfo: \"{}\" }}\n\
         postgres: {{ data: {}, bin: /nowhere }}\nfailover: {{ driver: none }}\n",
        voter(ports[0]),
        voter(ports[1]),
        voter(ports[2]),
        home.join("data").display(),
    );
    let path = home.join("cluster.yaml");
    std::fs::write(&path, change(text)).unwrap();
    path
}

fn files(home: &Path) -> usize {
    std::fs::read_dir(home).unwrap().count()
}

#[test]
fn a_missing_file_is_named_and_nothing_is_done() {
    for name in PROGRAMS {
        let home = tempfile::tempdir().unwrap();
        let output = run(home.path(), name, &["--config", "/nowhere/cluster.yaml"]);
        assert_eq!(output.status.code(), Some(3), "{name}: {}", said(&output));
        assert!(said(&output).contains("/nowhere/cluster.yaml"), "{name}: {}", said(&output));
        assert_eq!(said(&output).lines().count(), 1, "{name}: {}", said(&output));
        assert_eq!(files(home.path()), 0);
    }
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    for name in PROGRAMS {
        let home = tempfile::tempdir().unwrap();
        let path = config(home.path(), [1, 2, 3], |text| text.replace("driver:", "drivers:"));
        let output = run(home.path(), name, &["--node", "pg1", "--config", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(3), "{name}: {}", said(&output));
        assert!(said(&output).contains("`drivers`") && said(&output).contains("line 8"), "{name}: {}", said(&output));
        assert_eq!(files(home.path()), 1, "{name} left something");
    }
}

#[test]
fn a_machine_that_is_not_in_the_file_is_told_its_name() {
    for name in PROGRAMS {
        let home = tempfile::tempdir().unwrap();
        let path = config(home.path(), [1, 2, 3], |text| text);
        let output = run(home.path(), name, &["--node", "stranger", "--config", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(3), "{name}: {}", said(&output));
        assert!(said(&output).contains("`stranger`") && said(&output).contains("--node"), "{name}: {}", said(&output));
    }
}

#[test]
fn voters_that_accept_and_say_nothing_cost_one_deadline_together() {
    let home = tempfile::tempdir().unwrap();
    let silent: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports = [0, 1, 2].map(|n: usize| silent[n].local_addr().unwrap().port());
    let path = config(home.path(), ports, |text| text);
    let begun = Instant::now();
    let output = run(home.path(), "pg-cluster", &["--node", "pg1", "--config", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("no primary") && text.contains("pg2 silent"), "{text}");
}

#[test]
fn a_password_in_the_file_is_refused_and_not_shown() {
    let home = tempfile::tempdir().unwrap();
    let path = config(home.path(), [1, 2, 3], |text| text.replacen("user=pgha", "user=pgha password=s3cret", 1));
    let output = run(home.path(), "pg-promote", &["--node", "pg1", "--config", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
    assert!(said(&output).contains("password") && !said(&output).contains("s3cret"), "{}", said(&output));
}

#[test]
fn a_check_that_cannot_read_its_file_says_no() {
    let home = tempfile::tempdir().unwrap();
    let output = run(home.path(), "pg-health-check", &["--config", "/nowhere/cluster.yaml"]);
    assert_eq!(output.status.code(), Some(1), "keepalived reads only 0 and 1 rightly");
    assert!(String::from_utf8_lossy(&output.stdout).contains("/nowhere/cluster.yaml"));
}
