//! The thread behind a session.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_postgres::error::Severity;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::connect::{self, Driver};
use super::plan::Plan;
use super::{Row, SessionError};
use crate::clock::Deadline;
use crate::conninfo::ConnInfo;

/// How long the thread takes to say goodbye to the server.
const GOODBYE: Duration = Duration::from_secs(1);

/// Statements for the thread, and where the answer goes.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) sql: String,
    pub(super) deadline: Deadline,
    pub(super) reply: SyncSender<Result<Vec<Row>, SessionError>>,
}

/// How far the opening has come, for whoever stops waiting for it.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<Reached>);

#[derive(Debug, Default)]
struct Reached {
    /// Which server is being tried.
    server: String,
    /// Its name is still being resolved: not the server's silence.
    resolving: bool,
    /// The server before it that showed most life.
    worst: Option<SessionError>,
}

impl Progress {
    fn update(&self, change: impl FnOnce(&mut Reached)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn resolving(&self, server: &str) {
        self.update(|reached| {
            server.clone_into(&mut reached.server);
            reached.resolving = true;
        });
    }

    pub(super) fn connecting(&self, server: &str) {
        self.update(|reached| {
            server.clone_into(&mut reached.server);
            reached.resolving = false;
        });
    }

    pub(super) fn failed(&self, error: SessionError) {
        self.update(|reached| {
            reached.worst = Some(match reached.worst.take() {
                Some(worst) => worst.or_more_alive(error),
                None => error,
            });
        });
    }

    /// What to report when all servers failed.
    pub(super) fn worst(&self) -> Option<SessionError> {
        let mut worst = None;
        self.update(|reached| worst.clone_from(&reached.worst));
        worst
    }

    /// What to report when the deadline came first.
    pub(super) fn at_deadline(&self, given: Duration) -> SessionError {
        self.update(|reached| {
            let server = if reached.server.is_empty() { "the server".to_owned() } else { reached.server.clone() };
            let now = if reached.resolving {
                SessionError::Unreachable { server, message: "its name was not resolved in time".to_owned() }
            } else {
                SessionError::Silent { server, after: given }
            };
            reached.worst = Some(match reached.worst.take() {
                Some(worst) => worst.or_more_alive(now),
                None => now,
            });
        });
        self.worst().unwrap_or(SessionError::NotAsked { message: "nothing was tried".to_owned() })
    }
}

/// Why a session ended that nobody had asked to end.
pub(super) type Ended = Arc<OnceLock<String>>;

/// The caller's ends of what goes between a session and its thread.
pub(super) struct Thread {
    pub(super) requests: UnboundedSender<Request>,
    pub(super) ended: Ended,
}

/// Starts the thread. It opens the session, says so to `opened`, and then serves requests until nobody can send any,
/// or the connection ends.
pub(super) fn spawn(
    conninfo: ConnInfo,
    deadline: Deadline,
    progress: Arc<Progress>,
    opened: SyncSender<Result<String, SessionError>>,
) -> Result<Thread, SessionError> {
    let (sender, requests) = unbounded_channel();
    let ended = Ended::default();
    let thread = Thread { requests: sender, ended: Arc::clone(&ended) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(not_asked)?;
    std::thread::Builder::new()
        .name("pg-session".to_owned())
        .spawn(move || {
            runtime.block_on(run(&conninfo, deadline, &progress, &opened, requests, &ended));
            // A resolver that hangs must not hold the rest up.
            runtime.shutdown_background();
        })
        .map_err(not_asked)?;
    Ok(thread)
}

#[allow(clippy::needless_pass_by_value)] // The shape map_err wants.
fn not_asked(error: std::io::Error) -> SessionError {
    SessionError::NotAsked { message: format!("no thread for the session: {error}") }
}

async fn run(
    conninfo: &ConnInfo,
    deadline: Deadline,
    progress: &Progress,
    opened: &SyncSender<Result<String, SessionError>>,
    mut requests: UnboundedReceiver<Request>,
    ended: &Ended,
) {
    let connected = match Plan::new(conninfo) {
        Ok(plan) => connect::connect(&plan, deadline, progress).await,
        Err(error) => Err(error),
    };
    let (client, mut driver, server) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            // Nobody waits any more if the deadline has passed.
            let _ = opened.send(Err(error));
            return;
        }
    };
    if opened.send(Ok(server.clone())).is_err() {
        return;
    }
    match serve(&client, &server, &mut requests, &mut driver).await {
        End::Asked => {
            drop(client);
            let _ = tokio::time::timeout(GOODBYE, driver).await;
        }
        End::Lost => {}
        End::Broken(reason) => {
            let _ = ended.set(reason);
        }
    }
}

/// How a session ends.
enum End {
    /// By being dropped.
    Asked,
    /// Whoever asked has been told, or waits no more.
    Lost,
    /// By the other side, between two requests.
    Broken(String),
}

async fn serve(client: &Client, server: &str, requests: &mut UnboundedReceiver<Request>, driver: &mut Driver) -> End {
    loop {
        let request = match request_or_end(requests, driver).await {
            Ok(Some(request)) => request,
            Ok(None) => return End::Asked,
            Err(reason) => return End::Broken(reason),
        };
        let given = request.deadline.remaining();
        let result = by(given, server, query(client, server, &request.sql)).await;
        let lost = matches!(result, Err(SessionError::Lost { .. } | SessionError::Silent { .. }));
        let unheard = request.reply.send(result).is_err();
        if lost || unheard {
            return End::Lost;
        }
    }
}

/// The next request, `None` when there will be none, or why the connection is no more.
async fn request_or_end(
    requests: &mut UnboundedReceiver<Request>,
    driver: &mut Driver,
) -> Result<Option<Request>, String> {
    poll_fn(|context| {
        // First, so that a request that comes after the end is answered with the reason of the end.
        if let Poll::Ready(end) = Pin::new(&mut *driver).poll(context) {
            return Poll::Ready(Err(match end {
                Ok(Err(error)) => connect::in_words(&error),
                Ok(Ok(())) | Err(_) => "the server closed it".to_owned(),
            }));
        }
        requests.poll_recv(context).map(Ok)
    })
    .await
}

/// The result, or `Silent`.
pub(super) async fn by<T>(
    given: Duration,
    server: &str,
    work: impl Future<Output = Result<T, SessionError>>,
) -> Result<T, SessionError> {
    tokio::time::timeout(given, work)
        .await
        .unwrap_or_else(|_| Err(SessionError::Silent { server: server.to_owned(), after: given }))
}

pub(super) async fn query(client: &Client, server: &str, sql: &str) -> Result<Vec<Row>, SessionError> {
    let messages = client.simple_query(sql).await.map_err(|error| statement_error(server, &error))?;
    let mut columns: Arc<[String]> = Arc::new([]);
    let mut rows = Vec::new();
    for message in messages {
        match message {
            SimpleQueryMessage::RowDescription(description) => {
                columns = description.iter().map(|column| column.name().to_owned()).collect();
            }
            SimpleQueryMessage::Row(row) => {
                let values = (0..row.len())
                    .map(|index| row.try_get(index).map(|value| value.map(str::to_owned)))
                    .collect::<Result<_, _>>()
                    .map_err(|_| not_text())?;
                rows.push(Row { columns: Arc::clone(&columns), values });
            }
            _ => {}
        }
    }
    Ok(rows)
}

/// A database whose encoding is `SQL_ASCII` hands out whatever bytes were put in.
fn not_text() -> SessionError {
    SessionError::Sql { sqlstate: "22021".to_owned(), message: "a value in the result is not UTF-8".to_owned() }
}

fn statement_error(server: &str, error: &tokio_postgres::Error) -> SessionError {
    let Some(said) = error.as_db_error() else {
        return SessionError::Lost { server: server.to_owned(), message: connect::in_words(error) };
    };
    let sqlstate = said.code().code().to_owned();
    match said.parsed_severity() {
        Some(Severity::Fatal | Severity::Panic) => SessionError::Lost {
            server: server.to_owned(),
            message: format!("{} (SQLSTATE {sqlstate})", said.message()),
        },
        _ => SessionError::Sql { sqlstate, message: said.message().to_owned() },
    }
}
