//! docs/runbook.md is made from the code: `UPDATE_DOCS=1 cargo test -p pg-ha-rules --test runbook` writes it.

use std::path::Path;

use pg_ha_rules::exit::Refusal;

const HEAD: &str = "# Exit codes and refusals

Made from `crates/pg-ha-rules/src/exit.rs` by `UPDATE_DOCS=1 cargo test -p pg-ha-rules --test runbook`.

| code | of every program |
|---|---|
| 0 | done, or nothing to do |
| 1 | pg-health-check: no |
| 2 | the command line is wrong |
| 3 | cluster.yaml is wrong, or this machine is not in it; nothing was done |
| 4 | something is missing: a right, a tool, a file, a running server |
| 5 | the hook's own deadline ended it; the next run puts right what it had begun |
| 6 | a step failed in the middle; the message says which |

`pg-cluster status` alone exits 0 healthy, 1 degraded, 2 no primary or more than one. pg-health-check exits 0 or 1 only.

A refusal changes nothing. It says what was seen; this is what it means, and what can be done:

| code | refusal | meaning | what to do |
|---|---|---|---|
";

#[test]
fn the_runbook_names_every_refusal_as_the_programs_do() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/runbook.md");
    let line = |refusal: &Refusal| {
        format!("| {} | {refusal:?} | {} | {} |\n", refusal.code(), refusal.meaning(), refusal.hint())
    };
    let made: String = [HEAD.to_owned()].into_iter().chain(Refusal::ALL.iter().map(line)).collect();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), made, "write it anew, see the head of this file");
}
