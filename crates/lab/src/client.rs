//! A client that writes through the address: one row after the other, each acknowledged one noted.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_postgres::{Config, Statement};

use crate::clock::{Moment, wait_until};
use crate::lab::Lab;
use crate::network;
use crate::process::Process;
use crate::session::{self, Session};
use crate::topology::{CLIENT, VIP};

/// How long it waits for an answer before it takes the session for lost.
const PATIENCE: Duration = Duration::from_millis(250);
/// While it has no session it tries a new one this often, without waiting for the ones before.
const RETRY: Duration = Duration::from_millis(20);
/// Between the beginnings of two transactions.
const PACE: Duration = Duration::from_millis(5);
/// A silence longer than this is called a gap.
const GAP: Duration = Duration::from_millis(100);

fn log_file(lab: &Lab) -> PathBuf {
    lab.runtime().join("client.log")
}

fn process_file(lab: &Lab) -> PathBuf {
    lab.runtime().join("client.json")
}

/// The running client.
fn running(lab: &Lab) -> Option<Process> {
    let process: Process = serde_json::from_slice(&fs::read(process_file(lab)).ok()?).ok()?;
    process.lives().then_some(process)
}

/// Starts the client in the background.
pub(crate) fn start(lab: &Lab, to: Option<&str>) -> Result<()> {
    lab.must_be_up()?;
    if running(lab).is_some() {
        bail!("the client is running already; scripts/lab client stop");
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["client", "run"]).args(to.map(|to| format!("--to={to}")));
    let log = File::options().create(true).append(true).open(lab.runtime().join("client.err"))?;
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
    let child = command.spawn().context("failed to start the client")?;
    let process = Process::present(i32::try_from(child.id())?).context("the client ended at once")?;
    fs::write(process_file(lab), serde_json::to_vec(&process)?)?;
    Ok(())
}

/// Stops it, if it runs.
pub(crate) fn stop(lab: &Lab) -> Result<()> {
    let Some(process) = running(lab) else { return Ok(()) };
    process.signal(Signal::SIGTERM);
    if !wait_until(Duration::from_secs(5), Duration::from_millis(5), || !process.lives()) {
        bail!("the client (process {}) does not end", process.pid);
    }
    Ok(())
}

/// The client itself: runs until it is ended. One line in its log for each thing that happened:
/// `ok ID SENT ACKNOWLEDGED`, `unknown ID SENT`, `refused SENT`.
pub(crate) fn run(lab: &Lab, to: Option<&str>) -> Result<()> {
    let config = match to {
        Some(to) => to.parse().context("not a connection string")?,
        None => session::config(VIP),
    };
    network::enter(CLIENT.name)?;
    let mut log = Log { file: File::options().create(true).append(true).open(log_file(lab))? };
    let mut next = read(lab)?.last_id + 1;
    session::runtime()?.block_on(async {
        loop {
            let (session, insert) = connect(&config, &mut log).await?;
            write_rows(&session, &insert, &mut next, &mut log).await?;
        }
    })
}

struct Log {
    file: File,
}

impl Log {
    /// One write call a line: whatever ends this process, no half line is left.
    fn line(&mut self, line: &str) -> Result<()> {
        self.file.write_all(format!("{line}\n").as_bytes()).context("failed to write the client's log")
    }
}

/// The first of many attempts that comes through. A silent server must not keep us from trying the next one.
async fn connect(config: &Config, log: &mut Log) -> Result<(Session, Statement)> {
    let mut attempts = JoinSet::new();
    loop {
        let config = config.clone();
        let begun = Moment::now();
        attempts.spawn(async move { open(&config).await.map_err(|_| begun) });
        let again = Instant::now() + RETRY;
        while let Ok(Some(attempt)) = timeout_at(again, attempts.join_next()).await {
            match attempt? {
                Ok(opened) => return Ok(opened),
                Err(begun) => log.line(&format!("refused {}", begun.0))?,
            }
        }
        sleep_until(again).await;
    }
}

async fn open(config: &Config) -> Result<(Session, Statement)> {
    let session = Session::open(config, PATIENCE).await?;
    let insert = "insert into public.orders (id, note) values ($1, 'lab')";
    let insert = timeout(PATIENCE, session.client.prepare(insert)).await??;
    Ok((session, insert))
}

/// Writes until something goes wrong. An id is used once: one without an answer may have been stored.
async fn write_rows(session: &Session, insert: &Statement, next: &mut i64, log: &mut Log) -> Result<()> {
    loop {
        let (id, begun, sent) = (*next, Instant::now(), Moment::now());
        *next += 1;
        match timeout(PATIENCE, session.client.execute(insert, &[&id])).await {
            Ok(Ok(_)) => log.line(&format!("ok {id} {} {}", sent.0, Moment::now().0))?,
            _ => return log.line(&format!("unknown {id} {}", sent.0)),
        }
        sleep_until(begun + PACE).await;
    }
}

/// What the client's log says.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// Acknowledged, in order: the id and when its acknowledgement came.
    pub(crate) acknowledged: Vec<(i64, Moment)>,
    /// Sent, without an answer.
    pub(crate) unknown: Vec<i64>,
    /// Connections that did not come about.
    pub(crate) refused: usize,
    last_id: i64,
}

/// Reads the log, also while the client writes it.
pub(crate) fn read(lab: &Lab) -> Result<Record> {
    let text = fs::read_to_string(log_file(lab)).unwrap_or_default();
    let mut record = Record::default();
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["ok", id, _, at] => record.acknowledged.push((id.parse()?, Moment(at.parse()?))),
            ["unknown", id, _] => record.unknown.push(id.parse()?),
            _ => record.refused += 1,
        }
    }
    let ids = record.acknowledged.iter().map(|(id, _)| *id).chain(record.unknown.iter().copied());
    record.last_id = ids.max().unwrap_or(0);
    Ok(record)
}

/// A time in which nothing was acknowledged.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Gap {
    /// The last acknowledgement before it.
    pub(crate) begin: Moment,
    /// The first after it.
    pub(crate) end: Moment,
    pub(crate) seconds: f64,
}

/// What came of it all.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Transactions and connections tried.
    pub(crate) attempts: usize,
    pub(crate) acknowledged: usize,
    /// Sent, never answered: they may be there or not.
    pub(crate) unanswered: usize,
    /// What the times shown are counted from: the first acknowledgement, if nobody says otherwise.
    pub(crate) counted_from: Option<Moment>,
    /// The write outages, the longest first.
    pub(crate) gaps: Vec<Gap>,
    /// Acknowledged and not there; unknown while no primary can be asked.
    pub(crate) missing: Option<Vec<i64>>,
}

/// Reads the log, and asks whoever holds the address for the rows.
pub(crate) fn report(lab: &Lab) -> Result<Report> {
    lab.must_be_up()?;
    let record = read(lab)?;
    let present = std::thread::spawn(present).join().ok().and_then(Result::ok);
    let ids = record.acknowledged.iter().map(|(id, _)| *id);
    Ok(Report {
        attempts: record.acknowledged.len() + record.unknown.len() + record.refused,
        acknowledged: record.acknowledged.len(),
        unanswered: record.unknown.len(),
        counted_from: record.acknowledged.first().map(|(_, at)| *at),
        gaps: record.gaps(),
        missing: present.map(|present| ids.filter(|id| !present.contains(id)).collect()),
    })
}

impl Record {
    /// The gaps, the longest first.
    pub(crate) fn gaps(&self) -> Vec<Gap> {
        let neighbours = self.acknowledged.windows(2);
        let mut gaps: Vec<_> = neighbours
            .map(|pair| Gap { begin: pair[0].1, end: pair[1].1, seconds: pair[1].1.since(pair[0].1).as_secs_f64() })
            .filter(|gap| gap.seconds > GAP.as_secs_f64())
            .collect();
        gaps.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
        gaps
    }
}

/// The ids that the present primary has.
fn present() -> Result<BTreeSet<i64>> {
    network::enter(CLIENT.name)?;
    session::runtime()?.block_on(async {
        let limit = Duration::from_secs(2);
        let session = Session::open(&session::config(VIP), limit).await?;
        let asking = session.client.query("select id from public.orders", &[]);
        let rows = timeout(Duration::from_secs(10), asking).await??;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    })
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "attempts      {}", self.attempts)?;
        writeln!(f, "acknowledged  {} (and {} without an answer)", self.acknowledged, self.unanswered)?;
        for gap in self.gaps.iter().take(5) {
            let from = self.counted_from.map_or(0.0, |origin| gap.begin.since(origin).as_secs_f64());
            writeln!(f, "no writes     {:.3} s, from {from:.3} s to {:.3} s", gap.seconds, from + gap.seconds)?;
        }
        match &self.missing {
            None => write!(f, "missing       unknown: nobody at {VIP} answers"),
            Some(missing) => {
                let first: Vec<_> = missing.iter().take(10).map(i64::to_string).collect();
                write!(f, "missing       {} of the acknowledged {}", missing.len(), first.join(" "))
            }
        }
    }
}
