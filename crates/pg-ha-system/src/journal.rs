//! The record of every decision: JSON lines, one a decision, durable before the program ends.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use pg_ha_rules::names::NodeName;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::clock::now_boottime;

/// One decision in the making: who asked, what was seen, how long each step took.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    begun: Duration,
    last: Duration,
    steps: Vec<Value>,
    fields: Map<String, Value>,
}

impl Record {
    /// Begins a record for the journal at `path`.
    #[must_use]
    pub fn begin(path: PathBuf, node: &NodeName, program: &str) -> Self {
        let now = now_boottime();
        let mut fields = Map::new();
        fields.insert("node".to_owned(), json!(node));
        fields.insert("program".to_owned(), json!(program));
        fields.insert("caller".to_owned(), json!(caller()));
        Self { path, begun: now, last: now, steps: Vec::new(), fields }
    }

    /// A step is done; its duration is the time since the one before.
    pub fn step(&mut self, name: &str) {
        let now = now_boottime();
        self.steps.push(json!({ "step": name, "ms": millis(now.saturating_sub(self.last)) }));
        self.last = now;
    }

    /// Adds what was seen or decided.
    pub fn set(&mut self, field: &str, value: impl Serialize) {
        self.fields.insert(field.to_owned(), serde_json::to_value(value).unwrap_or(Value::Null));
    }

    /// Appends the record to the journal, durably, with what was decided.
    pub fn end(mut self, decision: &str) -> io::Result<()> {
        let now = now_boottime();
        self.set("decision", decision);
        self.set("at", humantime::format_rfc3339_micros(SystemTime::now()).to_string());
        self.set("begun", self.begun.as_secs_f64());
        self.set("ended", now.as_secs_f64());
        self.fields.insert("steps".to_owned(), Value::Array(std::mem::take(&mut self.steps)));
        let mut line = serde_json::to_vec(&self.fields)?;
        line.push(b'\n');
        // One write on a file opened to append: records of programs that run at once do not mix.
        let mut file = OpenOptions::new().append(true).create(true).mode(0o640).open(&self.path)?;
        file.write_all(&line)?;
        file.sync_data()
    }
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// The name of the process that called this one, such as `keepalived`.
fn caller() -> String {
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    std::fs::read_to_string(format!("/proc/{parent}/comm"))
        .map_or_else(|_| "unknown".to_owned(), |comm| comm.trim().to_owned())
}
