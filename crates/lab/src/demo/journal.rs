//! What pg-ha's programs wrote into a machine's journal.

use std::time::Duration;

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::clock::Moment;
use crate::machine::Machine;

/// One decision. What a program had no use for is empty.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Record {
    pub(super) program: String,
    /// The process that called it.
    pub(super) caller: String,
    pub(super) decision: String,
    /// Seconds of `CLOCK_BOOTTIME`.
    begun: f64,
    ended: f64,
    #[serde(default)]
    pub(super) steps: Vec<Step>,
    #[serde(default)]
    pub(super) rows: Vec<Row>,
    #[serde(default)]
    pub(super) votes: Vec<String>,
    pub(super) term: Option<String>,
    #[serde(default)]
    pub(super) verdict: Value,
    pub(super) seen: Option<String>,
    pub(super) killed: Option<String>,
    pub(super) fence: Option<Fence>,
    pub(super) way: Option<String>,
    pub(super) error: Option<String>,
    #[serde(default)]
    evidence: Evidence,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Step {
    pub(super) step: String,
    pub(super) ms: f64,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Row {
    pub(super) number: u8,
    pub(super) question: String,
    pub(super) answer: Result<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Fence {
    pub(super) reason: String,
    pub(super) term: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Evidence {
    #[serde(default)]
    voters: Map<String, Value>,
}

impl Record {
    pub(super) fn begun(&self) -> Moment {
        moment(self.begun)
    }

    pub(super) fn ended(&self) -> Moment {
        moment(self.ended)
    }

    /// When each step was done.
    pub(super) fn done(&self) -> impl Iterator<Item = (Moment, &Step)> {
        self.steps.iter().scan(self.begun, |at, step| {
            *at += step.ms / 1000.0;
            Some((moment(*at), step))
        })
    }

    /// The call that made its node the primary; not one that found it done.
    pub(super) fn promoted(&self) -> bool {
        self.program == "pg-promote" && self.decision == "primary" && self.steps.iter().any(|step| step.step == "order")
    }

    /// Each voter, and whether it answered.
    pub(super) fn voters(&self) -> String {
        self.evidence.voters.keys().map(|voter| self.voter(voter)).collect::<Vec<_>>().join(", ")
    }

    /// One voter, and whether it answered.
    pub(super) fn voter(&self, voter: &str) -> String {
        match self.evidence.voters.get(voter) {
            None => format!("{voter} was not asked"),
            Some(Value::String(word)) => format!("{voter} {word}"),
            Some(Value::Object(fields)) if fields.contains_key("answered") => format!("{voter} answers"),
            Some(Value::Object(fields)) => {
                let said = fields.iter().map(|(word, why)| format!("{word} ({})", why.as_str().unwrap_or_default()));
                format!("{voter} {}", said.collect::<Vec<_>>().join(" "))
            }
            Some(sight) => format!("{voter} {sight}"),
        }
    }

    /// When a step was done.
    pub(super) fn when(&self, step: &str) -> Option<Moment> {
        self.done().find(|(_, done)| done.step == step).map(|(at, _)| at)
    }
}

/// All records of a machine that began after a moment, in their order.
pub(super) fn read(machine: &Machine, since: Moment) -> Result<Vec<Record>> {
    let text = machine.must(&["cat", "/var/lib/pg-ha/journal.jsonl"])?;
    // A power cut may have left half a line.
    let mut records: Vec<Record> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    records.retain(|record| record.begun() >= since);
    records.sort_by(|one, other| one.begun.total_cmp(&other.begun));
    Ok(records)
}

/// What pg-promote waited for, as it said to the system's journal.
pub(super) fn waits(machine: &Machine, since: Moment) -> Vec<(Moment, String)> {
    // Called by pg-watch, it speaks through pg-watch's stream.
    let programs = ["--identifier=pg-promote", "--identifier=pg-watch"];
    let words = [&["journalctl", "--quiet", "--no-pager", "--boot", "--output=json"][..], &programs].concat();
    let text = machine.must(&words).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let said = lines.filter_map(|line| {
        let microseconds: u64 = line.get("__MONOTONIC_TIMESTAMP")?.as_str()?.parse().ok()?;
        let wait = line.get("MESSAGE")?.as_str()?.split_once("waiting: ")?.1.to_owned();
        Some((Moment(microseconds * 1000), wait))
    });
    said.filter(|(at, _)| *at >= since).collect()
}

/// The journal counts in the clock that goes on while a machine sleeps, everything else here in the other one.
fn moment(boottime: f64) -> Moment {
    let clock = |id| clock_gettime(id).map_or(Duration::ZERO, Duration::from);
    let asleep = clock(ClockId::CLOCK_BOOTTIME).saturating_sub(clock(ClockId::CLOCK_MONOTONIC));
    // The two were not read at once.
    let asleep = if asleep < Duration::from_millis(1) { Duration::ZERO } else { asleep };
    let at = Duration::from_secs_f64(boottime.max(0.0)).saturating_sub(asleep);
    Moment(u64::try_from(at.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_with_its_rows_and_its_voters() {
        let line = r#"{"program":"pg-promote","caller":"keepalived","decision":"primary","begun":10.0,"ended":10.5,
            "steps":[{"step":"look","ms":100.0},{"step":"order","ms":50.0}],"term":"3/pg2/async","votes":["pg2: Given"],
            "rows":[{"number":1,"question":"fit?","answer":{"Ok":"a standby"}},
                    {"number":5,"question":"loss?","answer":{"Err":"too far behind"}}],
            "evidence":{"at":{"secs":1,"nanos":2},
                "voters":{"pg1":"refused","pg2":{"answered":{"backlog":0}},"w":{"silent":"no answer"}}}}"#;
        let record: Record = serde_json::from_str(line).unwrap();
        assert!(record.promoted());
        assert_eq!(record.voters(), "pg1 refused, pg2 answers, w silent (no answer)");
        assert_eq!(record.rows[1].answer, Err("too far behind".to_owned()));
        let done: Vec<_> = record.done().map(|(at, _)| at.since(record.begun()).as_millis()).collect();
        assert_eq!(done, [100, 150]);
    }
}
