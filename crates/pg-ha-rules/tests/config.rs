//! cluster.yaml: what is taken, what is refused, and what an operator reads then.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use insta::assert_snapshot;
use pg_ha_rules::config::{Bytes, Cluster, Driver, Profile};
use pg_ha_rules::names::NodeName;
use proptest::prelude::*;

const GOOD: &str = r#"cluster: main
nodes:
  - { name: pg1, id: 1, conninfo: "host=10.99.0.11 user=pgha dbname=postgres passfile=/etc/pg-ha/passfile" }
  - { name: pg2, id: 2, conninfo: "host=10.99.0.12 user=pgha dbname=postgres passfile=/etc/pg-ha/passfile", priority: 90 }
witnesses:
  - { name: balancer, conninfo: "host=10.99.0.13 user=pgha dbname=postgres passfile=/etc/pg-ha/passfile" }
address: { vip: 10.99.0.100/24, interface: eth0 }
postgres: { service: postgresql@15-main, data: /var/lib/postgresql/15/main, bin: /usr/lib/postgresql/15/bin }
failover: { driver: keepalived, profile: default, max_lag: 16MiB }
repmgr: { config: /etc/repmgr.conf }
"#;

const WITNESSES: &str = "witnesses:\n  - { name: balancer, conninfo: \"host=10.99.0.13 user=pgha dbname=postgres passfile=/etc/pg-ha/passfile\" }\n";

fn good(text: &str) -> Cluster {
    Cluster::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The good file with one text in place of another.
fn with(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    GOOD.replacen(from, to, 1)
}

fn refusal(text: &str) -> String {
    Cluster::parse(text).expect_err(text).to_string()
}

/// What an operator reads when `to` stands where `from` should.
fn refused(from: &str, to: &str) -> String {
    refusal(&with(from, to))
}

/// What an operator reads when the failover line also has `setting`.
fn refused_failover(setting: &str) -> String {
    refused("max_lag: 16MiB", setting)
}

#[test]
fn a_good_file_is_read_as_it_is_meant() {
    let cluster = good(GOOD);
    assert_eq!(cluster.cluster, "main");
    assert_eq!(cluster.nodes.iter().map(|node| (node.id, node.priority)).collect::<Vec<_>>(), [(1, 100), (2, 90)]);
    assert_eq!(cluster.voter_names().map(NodeName::as_str).collect::<Vec<_>>(), ["pg1", "pg2", "balancer"]);
    assert!(cluster.voters().all(|voter| voter.conninfo.contains("user=pgha")));
    assert_eq!(cluster.majority(), 2);
    assert_eq!(cluster.node(&"pg2".parse().unwrap()).map(|node| node.id), Some(2));
    assert_eq!(cluster.node(&"balancer".parse().unwrap()), None);
    let address = cluster.address.as_ref().unwrap();
    assert_eq!((address.vip.to_string().as_str(), address.interface.as_str()), ("10.99.0.100/24", "eth0"));
    assert_eq!(cluster.postgres.data, Path::new("/var/lib/postgresql/15/main"));
    assert_eq!(cluster.failover.driver, Driver::Keepalived);
    assert_eq!(cluster.repmgr.unwrap().config, Path::new("/etc/repmgr.conf"));
}

#[test]
fn what_is_left_out_takes_the_documented_default() {
    let text = with(", profile: default, max_lag: 16MiB", "").replace("repmgr: { config: /etc/repmgr.conf }\n", "");
    let cluster = good(&text);
    assert_eq!(cluster.failover.profile, Profile::Default);
    assert_eq!(cluster.failover.max_lag, Bytes(16 * 1024 * 1024));
    assert_eq!(cluster.nodes[0].priority, 100);
    assert_eq!(cluster.postgres.replication_user, "repmgr");
    assert_eq!(cluster.postgres.replication_passfile, None);
    assert_eq!(cluster.repmgr, None);
    assert_eq!(good(GOOD).repmgr.unwrap().database, "repmgr");
}

#[test]
fn a_setting_takes_the_place_of_the_profiles() {
    let cluster = good(&with("profile: default", "profile: fast, promotion_hold: 0.7s, heartbeat: 100 ms"));
    let timings = cluster.timings();
    assert_eq!(timings.promotion_hold, Duration::from_millis(700));
    assert_eq!(timings.heartbeat, Duration::from_millis(100));
    assert_eq!(timings.isolation_limit, Profile::Fast.timings().isolation_limit);
}

#[test]
fn a_size_is_powers_of_1024_in_postgresqls_units_and_in_iec_units() {
    for (text, bytes) in [
        ("16MiB", 16 << 20),
        ("16MB", 16 << 20),
        ("'16 MB'", 16 << 20),
        ("8kB", 8 << 10),
        ("8KiB", 8 << 10),
        ("1GB", 1 << 30),
        ("2TiB", 2 << 40),
        ("512B", 512),
    ] {
        assert_eq!(good(&with("16MiB", text)).failover.max_lag, Bytes(bytes), "{text}");
    }
    assert_eq!(Bytes(16 << 20).to_string(), "16MiB");
    assert_eq!((Bytes(0).to_string(), Bytes(1000).to_string()), ("0B".to_owned(), "1000B".to_owned()));
}

#[test]
fn what_is_not_yaml_is_refused_with_its_place() {
    assert_snapshot!(refusal(""), @"missing field `cluster` at line 1 column 1");
    assert_snapshot!(refusal("cluster: main\nnodes: [\n"), @"did not find expected node content at line 3 column 1, while parsing a flow node");
    assert_snapshot!(refusal("cluster: main\n\tnodes: []\n"), @"found a tab character that violates indentation at line 2 column 1, while scanning a plain scalar at line 1 column 10");
    assert_snapshot!(refusal("just words"), @r#"invalid type: string "just words", expected the keys cluster, nodes, postgres and failover (docs/cluster-yaml.md) at line 1 column 1"#);
    assert_snapshot!(refusal(&format!("{GOOD}---\n{GOOD}")), @"deserializing from YAML containing more than one document is not supported at line 1 column 1");
}

#[test]
fn an_unknown_missing_or_repeated_key_is_refused_with_its_place() {
    assert_snapshot!(refused("repmgr: {", "synchronous: { members: 1 }\nrepmgr: {"), @"unknown field `synchronous`, expected one of `cluster`, `nodes`, `witnesses`, `address`, `postgres`, `failover`, `repmgr` at line 10 column 1");
    assert_snapshot!(refused("priority", "prio"), @"nodes[1]: unknown field `prio`, expected one of `name`, `id`, `conninfo`, `priority` at line 4 column 109");
    assert_snapshot!(refused("max_lag", "max_lags"), @"failover: unknown field `max_lags`, expected one of `driver`, `profile`, `max_lag`, `heartbeat`, `isolation_limit`, `promotion_hold`, `stop_limit`, `pause_allowance` at line 9 column 51");
    assert_snapshot!(refused("driver: keepalived, ", ""), @"failover: missing field `driver` at line 9 column 11");
    assert_snapshot!(refused("driver: keepalived", "driver: pacemaker"), @"failover.driver: unknown variant `pacemaker`, expected one of `keepalived`, `repmgrd`, `none` at line 9 column 21");
    assert_snapshot!(refused("profile: default", "profile: slow"), @"failover.profile: unknown variant `slow`, expected one of `fast`, `default`, `patient` at line 9 column 42");
    assert_snapshot!(refused("failover: { driver: keepalived, profile: default, max_lag: 16MiB }", "failover:"), @"failover: missing field `driver` at line 9 column 10");
    assert_snapshot!(refused("cluster: main", "cluster: main\ncluster: other"), @"duplicate field `cluster` at line 1 column 1");
}

#[test]
fn a_value_without_its_unit_is_refused_and_the_units_are_named() {
    assert_snapshot!(refused_failover("heartbeat: 250"), @"failover.heartbeat: invalid type: integer `250`, expected a duration with its unit: ms, s, min or h, such as `250ms` or `2 s` at line 9 column 62");
    assert_snapshot!(refused_failover("heartbeat: '250'"), @"failover.heartbeat: `250` is not a duration with its unit: ms, s, min or h, such as `250ms` or `2 s` at line 9 column 62");
    assert_snapshot!(refused_failover("heartbeat: 0"), @"failover.heartbeat: invalid type: integer `0`, expected a duration with its unit: ms, s, min or h, such as `250ms` or `2 s` at line 9 column 62");
    assert_snapshot!(refused_failover("heartbeat: 250 minutos"), @"failover.heartbeat: `250 minutos` is not a duration with its unit: ms, s, min or h, such as `250ms` or `2 s` at line 9 column 62");
    assert_snapshot!(refused_failover("max_lag: 16777216"), @"failover.max_lag: invalid type: integer `16777216`, expected a size, a whole number with its unit: B, kB, MB, GB, TB (powers of 1024, as PostgreSQL means them) or KiB, MiB, GiB, TiB (the same), such as `16MiB` at line 9 column 60");
    assert_snapshot!(refused_failover("max_lag: 1.5GB"), @"failover.max_lag: `1.5GB` is not a size, a whole number with its unit: B, kB, MB, GB, TB (powers of 1024, as PostgreSQL means them) or KiB, MiB, GiB, TiB (the same), such as `16MiB` at line 9 column 60");
    assert_snapshot!(refused_failover("max_lag: 16 mb"), @"failover.max_lag: `16 mb` is not a size, a whole number with its unit: B, kB, MB, GB, TB (powers of 1024, as PostgreSQL means them) or KiB, MiB, GiB, TiB (the same), such as `16MiB` at line 9 column 60");
    assert_snapshot!(refused_failover("max_lag: 99999999TB"), @"failover.max_lag: `99999999TB` is not a size, a whole number with its unit: B, kB, MB, GB, TB (powers of 1024, as PostgreSQL means them) or KiB, MiB, GiB, TiB (the same), such as `16MiB` at line 9 column 60");
}

#[test]
fn a_name_that_is_none_is_refused_with_its_place() {
    assert_snapshot!(refused("name: pg2", "name: PG-Two"), @"nodes[1]: `PG-Two` is not a node name (1 to 16 of a-z, 0-9, - and _, beginning with a letter) at line 4 column 5");
    assert_snapshot!(refused("name: balancer", "name: balancer.example.org"), @"witnesses[0]: `balancer.example.org` is not a node name (1 to 16 of a-z, 0-9, - and _, beginning with a letter) at line 6 column 5");
    assert_snapshot!(refused("id: 2", "id: two"), @r#"nodes[1].id: invalid type: string "two", expected a whole number from 1 at line 4 column 22"#);
    assert_snapshot!(refused("cluster: main", "cluster: 'main cluster'"), @"cluster: give it a name of 1 to 40 letters, digits, - and _");
}

#[test]
fn duplicates_are_refused_and_both_places_named() {
    assert_snapshot!(refused("name: pg2", "name: pg1"), @"nodes[1].name: `pg1` is already the name of nodes[0]; each voter needs its own");
    assert_snapshot!(refused("name: balancer", "name: pg1"), @"witnesses[0].name: `pg1` is already the name of nodes[0]; each voter needs its own");
    assert_snapshot!(refused("id: 2", "id: 1"), @"nodes[1].id: 1 is already the id of nodes[0]; give another");
    assert_snapshot!(refused("id: 1", "id: 0"), @"nodes[0].id: 0 is not within 1 and 2147483647, repmgr's limits");
    assert_snapshot!(refused("10.99.0.12", "10.99.0.11"), @"nodes[1].conninfo: 10.99.0.11 port 5432 is also where pg1 leads (nodes[0]); each voter is its own server");
    assert_snapshot!(refused("host=10.99.0.12 user=pgha", "hostaddr='10.99.0.11' port = 5432 user=pgha"), @"nodes[1].conninfo: 10.99.0.11 port 5432 is also where pg1 leads (nodes[0]); each voter is its own server");
    good(&with("10.99.0.12", "10.99.0.11 port=5433"));
}

#[test]
fn an_even_number_of_votes_is_refused() {
    let third = "  - { name: other, conninfo: host=10.99.0.14 }\naddress:";
    assert_snapshot!(refused("address:", third), @"witnesses: 4 votes are an even number, no safer than 3; add a witness or take one away");
    assert_snapshot!(refused(WITNESSES, ""), @"witnesses: 2 votes are an even number, no safer than 1; add a witness or take one away");
    assert_snapshot!(refused(&GOOD[GOOD.find("nodes").unwrap()..GOOD.find("witnesses").unwrap()], "nodes: []\n"), @"nodes: there are none; name at least one");
}

#[test]
fn a_priority_leaves_room_for_the_rank() {
    for priority in ["0", "155", "255"] {
        assert!(refused("90", priority).starts_with("nodes[1].priority: "), "{priority}");
    }
    assert_snapshot!(refused("90", "155"), @"nodes[1].priority: 155 is not within 1 and 154: a rank of up to 100 is added to it, and VRRP ends at 254");
    assert_snapshot!(refused("90", "300"), @"nodes[1].priority: invalid value: integer `300`, expected a whole number from 1 to 154 at line 4 column 119");
    good(&with("90", "1"));
    good(&with("90", "154"));
}

#[test]
fn there_is_one_virtual_address_and_it_is_no_machines_own() {
    assert_snapshot!(refused("10.99.0.100/24", "10.99.0.12/24"), @"nodes[1].conninfo: 10.99.0.12 is the virtual address, which moves; give the machine's own");
    assert_snapshot!(refused("10.99.0.100/24", "[10.99.0.100/24, 10.99.0.101/24]"), @"address.vip: invalid type: sequence, expected one IPv4 or IPv6 address with the prefix length of its network, such as `10.99.0.100/24` at line 7 column 17");
    assert_snapshot!(refused("10.99.0.100/24", "10.99.0.100/24, vip: 10.99.0.101/24"), @"address: duplicate field `vip` at line 7 column 10");
    assert_snapshot!(refused("{ vip: 10.99.0.100/24, interface: eth0 }", "[{ vip: 10.99.0.100/24, interface: eth0 }]"), @"address: invalid type: sequence, expected one address: { vip, interface } at line 7 column 10");
    assert_snapshot!(refused("10.99.0.100/24", "10.99.0.100"), @"address.vip: `10.99.0.100` is not one IPv4 or IPv6 address with the prefix length of its network, such as `10.99.0.100/24` at line 7 column 17");
    assert_snapshot!(refused("10.99.0.100/24", "10.99.0.100/33"), @"address.vip: `10.99.0.100/33` is not one IPv4 or IPv6 address with the prefix length of its network, such as `10.99.0.100/24` at line 7 column 17");
    assert_snapshot!(refused("eth0", "'eth 0'"), @"address.interface: `eth 0` is no interface's name; `ip link` shows them");
    good(&with("10.99.0.100/24", "fd00::64/64"));
}

#[test]
fn a_driver_needs_what_it_works_on() {
    let address = "address: { vip: 10.99.0.100/24, interface: eth0 }\n";
    assert_snapshot!(refused(address, ""), @"failover.driver: keepalived moves an address, and none is given; add `address: { vip, interface }`");
    let without = with("repmgr: { config: /etc/repmgr.conf }\n", "").replace("keepalived", "repmgrd");
    assert_snapshot!(refusal(&without), @"failover.driver: repmgrd needs repmgr's metadata; add `repmgr: { config: /etc/repmgr.conf }`");
    for driver in ["repmgrd", "none"] {
        good(&with(address, "").replace("keepalived", driver));
    }
}

#[test]
fn no_secret_stands_in_the_file_and_none_is_repeated_in_the_message() {
    for conninfo in [
        "host=10.99.0.12 password=hunter2",
        "host=10.99.0.12 password = 'hunter2'",
        "host=10.99.0.12 sslpassword=hunter2",
        "postgresql://pgha:hunter2@10.99.0.12/postgres",
        "postgres://pgha@10.99.0.12/postgres?sslmode=require&password=hunter2",
        "postgres://pgha:hunter2?@10.99.0.12/postgres",
        "host=10.99.0.12 stray password=hunter2",
        "postgres://pgha@10.99.0.12/postgres?pass%77ord=hunter2",
    ] {
        let error = refused("host=10.99.0.12 user=pgha dbname=postgres passfile=/etc/pg-ha/passfile", conninfo);
        assert!(error.starts_with("nodes[1].conninfo: holds a password"), "{conninfo}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    assert_snapshot!(refused("host=10.99.0.12", "host=10.99.0.12 password=hunter2"), @"nodes[1].conninfo: holds a password; secrets do not stand in this file: name a passfile=, or use certificates");
    for conninfo in
        ["host=10.99.0.12 application_name='password=x'", "postgresql://pgha@10.99.0.12/postgres?passfile=/a"]
    {
        good(&with("host=10.99.0.12 user=pgha dbname=postgres passfile=/etc/pg-ha/passfile", conninfo));
    }
}

#[test]
fn a_connection_string_leads_to_a_machine_in_both_of_libpqs_forms() {
    assert_snapshot!(refused("host=10.99.0.12 ", ""), @"nodes[1].conninfo: names no host, so that every machine would reach its own server; add host=");
    let of = |conninfo| refused("host=10.99.0.12 user=pgha dbname=postgres passfile=/etc/pg-ha/passfile", conninfo);
    assert_snapshot!(of("postgresql://pgha@10.99.0.11/postgres"), @"nodes[1].conninfo: 10.99.0.11 port 5432 is also where pg1 leads (nodes[0]); each voter is its own server");
    assert_snapshot!(of("postgresql://10.99.0.14:5433,10.99.0.13:5432/postgres"), @"witnesses[0].conninfo: 10.99.0.13 port 5432 is also where pg2 leads (nodes[1]); each voter is its own server");
    assert_snapshot!(of("postgresql://[::ffff:10.99.0.11]/"), @"nodes[1].conninfo: 10.99.0.11 port 5432 is also where pg1 leads (nodes[0]); each voter is its own server");
    assert_snapshot!(of("postgresql:///postgres?host=10.99.0.100"), @"nodes[1].conninfo: 10.99.0.100 is the virtual address, which moves; give the machine's own");
}

#[test]
fn a_path_is_a_full_one() {
    assert_snapshot!(refused("/var/lib/postgresql/15/main", "15/main"), @"postgres.data: `15/main` must be a full path, from / and without ..");
    assert_snapshot!(refused("/usr/lib/postgresql/15/bin", "/usr/lib/../bin"), @"postgres.bin: `/usr/lib/../bin` must be a full path, from / and without ..");
    assert_snapshot!(refused("/var/lib/postgresql/15/main", "/"), @"postgres.data: / cannot be a data directory of its own; name the directory with PG_VERSION in it");
    assert_snapshot!(refused("/etc/repmgr.conf", "repmgr.conf"), @"repmgr.config: `repmgr.conf` must be a full path, from / and without ..");
    assert_snapshot!(refused("postgresql@15-main", "/lib/systemd/system/postgresql.service"), @"postgres.service: `/lib/systemd/system/postgresql.service` is no unit's name; `systemctl list-units 'postgresql*'` shows them");
}

#[test]
fn timings_that_break_the_inequality_are_refused_and_the_sum_is_shown() {
    assert_snapshot!(refused_failover("promotion_hold: 2s"), @"failover.promotion_hold: 2s is less than isolation_limit 2s + stop_limit 700ms + pause_allowance 300ms, so that a second primary could start before the first has stopped; raise it to 3s");
    assert_snapshot!(refused_failover("isolation_limit: 3s"), @"failover.promotion_hold: 3s is less than isolation_limit 3s + stop_limit 700ms + pause_allowance 300ms, so that a second primary could start before the first has stopped; raise it to 4s");
    assert_snapshot!(refused_failover("heartbeat: 1.5s"), @"failover.isolation_limit: 2s is less than two heartbeats of 1s 500ms, so that one lost packet would stop the primary; raise it");
    assert_snapshot!(refused_failover("heartbeat: 1ms"), @"failover.heartbeat: 1ms is too often; 10ms is the least");
    assert_snapshot!(refused_failover("stop_limit: 0s, pause_allowance: 0s"), @"
    2 problems
      failover.stop_limit: killing a server takes time; write what it takes at most, such as 500ms
      failover.pause_allowance: every machine is paused at times; write for how long at most, such as 500ms
    ");
    assert_snapshot!(refused_failover("pause_allowance: 500000000000years"), @"failover.promotion_hold: 3s is less than isolation_limit 2s + stop_limit 700ms + pause_allowance 500000000000years, so that a second primary could start before the first has stopped; raise it to 500000000000years 2s 700ms");
    assert_snapshot!(refused_failover("max_lag: 0B"), @"failover.max_lag: 0 would let no standby be promoted after a crash; 16MiB is one WAL segment");
}

#[test]
fn all_that_does_not_fit_is_said_at_once() {
    let text = with("name: pg2, id: 2", "name: pg1, id: 1").replace("90", "200").replace("16MiB", "0B");
    let text = text.replace("/var/lib/postgresql/15/main", "main").replace("10.99.0.13", "10.99.0.100");
    assert_snapshot!(refusal(&text), @"
    6 problems
      nodes[1].name: `pg1` is already the name of nodes[0]; each voter needs its own
      nodes[1].id: 1 is already the id of nodes[0]; give another
      nodes[1].priority: 200 is not within 1 and 154: a rank of up to 100 is added to it, and VRRP ends at 254
      witnesses[0].conninfo: 10.99.0.100 is the virtual address, which moves; give the machine's own
      postgres.data: `main` must be a full path, from / and without ..
      failover.max_lag: 0 would let no standby be promoted after a crash; 16MiB is one WAL segment
    ");
}

#[test]
fn every_profile_keeps_the_inequality() {
    for profile in [Profile::Fast, Profile::Default, Profile::Patient] {
        let timings = profile.timings();
        assert!(timings.promotion_hold >= timings.stopped_within(), "{profile:?}: {timings:?}");
        assert!(timings.heartbeat * 4 <= timings.isolation_limit, "{profile:?}: {timings:?}");
    }
}

/// Every cluster.yaml below `directory`.
fn examples(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            examples(&path, found);
        } else if name.starts_with("cluster") && path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
}

#[test]
fn every_example_that_ships_parses() {
    let mut found = Vec::new();
    examples(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../etc"), &mut found);
    assert!(!found.is_empty(), "no cluster*.yaml below etc/");
    for path in found {
        let text = std::fs::read_to_string(&path).unwrap();
        Cluster::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// The manual's examples are files an operator may copy.
#[test]
fn every_whole_file_in_the_manual_parses() {
    let manual = include_str!("../../../docs/cluster-yaml.md");
    let blocks = manual.split("```yaml\n").skip(1).filter_map(|rest| rest.split_once("```"));
    let files: Vec<_> = blocks.map(|(block, _)| block).filter(|block| block.starts_with("cluster:")).collect();
    assert!(files.len() >= 2, "{files:?}");
    for text in files {
        good(text);
    }
}

/// The manual's table of profiles is the one in force.
#[test]
fn the_manual_gives_each_profile_its_numbers() {
    let manual = include_str!("../../../docs/cluster-yaml.md");
    for (name, profile) in [("fast", Profile::Fast), ("default", Profile::Default), ("patient", Profile::Patient)] {
        let t = profile.timings();
        let cells = [t.heartbeat, t.isolation_limit, t.promotion_hold, t.stop_limit, t.pause_allowance].map(|limit| {
            if limit.subsec_millis() == 0 {
                format!("{} s", limit.as_secs())
            } else {
                format!("{} ms", limit.as_millis())
            }
        });
        let row = format!("| `{name}` | {} |", cells.join(" | "));
        assert!(manual.contains(&row), "{row}");
    }
}

fn millis() -> impl Strategy<Value = Option<u64>> {
    proptest::option::of(prop_oneof![0..200u64, 200..10_000u64, any::<u64>()])
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(.|\n){0,200}") {
        let _ = Cluster::parse(&text);
    }

    #[test]
    fn no_small_change_of_a_good_file_makes_it_panic(at in 0..GOOD.len(), cut in 0..40usize, text in "(.|\n){0,8}") {
        let mut bytes = GOOD.as_bytes().to_vec();
        bytes.splice(at..(at + cut).min(GOOD.len()), text.bytes());
        let _ = Cluster::parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_connection_string_makes_it_panic(conninfo in "(postgres(ql)?://)?[a-z0-9=%:@/?&,'\\\\ \\[\\]é]{0,60}") {
        let quoted = format!("'{}'", conninfo.replace('\'', "''"));
        let _ = Cluster::parse(&with("\"host=10.99.0.12 user=pgha dbname=postgres passfile=/etc/pg-ha/passfile\"", &quoted));
    }

    #[test]
    fn timings_that_are_taken_keep_the_inequality(
        profile in prop::sample::select(vec!["fast", "default", "patient"]),
        heartbeat in millis(), isolation in millis(), hold in millis(), stop in millis(), pause in millis(),
    ) {
        let mut line = format!("profile: {profile}");
        for (key, value) in [
            ("heartbeat", heartbeat), ("isolation_limit", isolation), ("promotion_hold", hold),
            ("stop_limit", stop), ("pause_allowance", pause),
        ] {
            if let Some(value) = value {
                line = format!("{line}, {key}: {value}ms");
            }
        }
        if let Ok(cluster) = Cluster::parse(&with("profile: default", &line)) {
            let t = cluster.timings();
            prop_assert!(t.promotion_hold >= t.isolation_limit + t.stop_limit + t.pause_allowance, "{:?}", t);
            prop_assert!(t.heartbeat * 2 <= t.isolation_limit, "{:?}", t);
            prop_assert!(!t.heartbeat.is_zero() && !t.stop_limit.is_zero());
        }
    }

    #[test]
    fn a_size_survives_its_text(size: u64) {
        prop_assert_eq!(Bytes(size).to_string().parse::<Bytes>().unwrap(), Bytes(size));
    }
}
