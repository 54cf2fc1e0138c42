//! Sessions with `PostgreSQL` under one real deadline.
//!
//! A server can accept a connection and never speak: it is stopped, its disk hangs, its machine is frozen. No timeout
//! of the socket covers all of that, so each session lives in a thread of its own, and whoever asks waits
//! with a deadline of `CLOCK_BOOTTIME`. What has not been answered by then counts as not answered, even when
//! the answer was on its way: the session is lost, its thread closes the connection and ends by itself.
//!
//! A statement that outlives its deadline may go on in the server, and may take effect. `options='-c
//! statement_timeout=2s'` in the connection string bounds that.
//!
//! # What is made of libpq's keywords
//!
//! - Used as in libpq: host, hostaddr, port, user, password, passfile, dbname, `application_name`,
//!   `fallback_application_name`, options, `target_session_attrs`, keepalives and its three, `tcp_user_timeout`,
//!   sslmode, sslnegotiation, sslcert, sslkey, sslpassword, sslrootcert, sslcrl, sslcrldir, sslsni, the two protocol
//!   versions, `channel_binding`, requirepeer.
//! - `connect_timeout`: seconds for one server, as in libpq, within the deadline. Without it the servers (and
//!   addresses) still to be tried share what is left of the deadline.
//! - Refused when they ask for what is not done here, because to ignore them would be less safe: `require_auth`,
//!   `gssencmode=require`, `sslcertmode=require`, replication.
//! - Without effect: `client_encoding` (always UTF8), sslcompression, `load_balance_hosts` (the order given is the order
//!   tried), krbsrvname, gsslib, gssdelegation.

mod connect;
mod error;
mod plan;
mod tls;
mod worker;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use crate::clock::{Deadline, now_boottime};
use crate::conninfo::ConnInfo;
pub use error::SessionError;
use worker::{Ended, Progress, Request};

/// The longest sleep between two looks at the clock: what wakes us runs on `CLOCK_MONOTONIC`, which stands still
/// while the machine sleeps.
const LOOK_AT_CLOCK: Duration = Duration::from_millis(100);

/// A session with one server.
///
/// Dropping it closes it. After a timeout or a broken connection it is lost, and every further use says so.
#[derive(Debug)]
pub struct Session {
    requests: UnboundedSender<Request>,
    ended: Ended,
    server: String,
    lost: Option<String>,
}

/// One row: each column's text, or `None` for NULL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    columns: Arc<[String]>,
    values: Vec<Option<String>>,
}

impl Row {
    /// A column by its place, from 0. `None` when it is NULL, or not there.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&str> {
        self.values.get(index)?.as_deref()
    }

    /// A column by its name. `None` when it is NULL, or not there.
    #[must_use]
    pub fn named(&self, column: &str) -> Option<&str> {
        let index = self.columns.iter().position(|name| name == column)?;
        self.get(index)
    }

    /// The names of the columns.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }
}

impl Session {
    /// Connects. The servers of a connection string with several are tried in order, within the one deadline.
    ///
    /// When none gives a session, the error is that of the server that showed most life.
    pub fn open(conninfo: &ConnInfo, deadline: Deadline) -> Result<Self, SessionError> {
        let asked = Asked::now(deadline)?;
        let progress = Arc::new(Progress::default());
        let (opened, answer) = std::sync::mpsc::sync_channel(1);
        let thread = worker::spawn(conninfo.clone(), deadline, Arc::clone(&progress), opened)?;
        match asked.wait(&answer) {
            Answer::InTime(Ok(server)) => {
                Ok(Self { requests: thread.requests, ended: thread.ended, server, lost: None })
            }
            Answer::InTime(Err(error)) => Err(error),
            Answer::Late => Err(progress.at_deadline(asked.given)),
            Answer::Never => {
                Err(SessionError::NotAsked { message: "the thread of the session ended unexpectedly".to_owned() })
            }
        }
    }

    /// Sends `sql` by the simple query protocol, and returns the rows of all its statements in order.
    ///
    /// Several statements, separated by `;`, go in one round trip and, unless they say otherwise, in one transaction.
    /// `ALTER SYSTEM` will not run in a transaction and must be sent alone. There are no parameters: put values
    /// in with [`quote_literal`] and names with [`quote_identifier`].
    pub fn rows(&mut self, sql: &str, deadline: Deadline) -> Result<Vec<Row>, SessionError> {
        if let Some(reason) = &self.lost {
            return Err(self.lost_error(reason.clone()));
        }
        let asked = Asked::now(deadline)?;
        let (reply, answer) = std::sync::mpsc::sync_channel(1);
        let request = Request { sql: sql.to_owned(), deadline, reply };
        if self.requests.send(request).is_err() {
            return Err(self.closed());
        }
        match asked.wait(&answer) {
            Answer::InTime(Err(SessionError::Lost { message, .. })) => Err(self.lose(&message)),
            Answer::InTime(Err(error @ SessionError::Silent { .. })) => {
                self.lose("it gave no answer by an earlier deadline");
                Err(error)
            }
            Answer::InTime(result) => result,
            Answer::Late => {
                self.lose("it gave no answer by an earlier deadline");
                Err(SessionError::Silent { server: self.server.clone(), after: asked.given })
            }
            Answer::Never => Err(self.closed()),
        }
    }

    /// As [`rows`](Self::rows), for a question whose answer is a single value: the first column of the first row.
    /// `None` when it is NULL, or there is no row.
    pub fn value(&mut self, sql: &str, deadline: Deadline) -> Result<Option<String>, SessionError> {
        let rows = self.rows(sql, deadline)?;
        Ok(rows.first().and_then(|row| row.get(0)).map(str::to_owned))
    }

    /// Which server this is a session with: host and port, or the socket.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Whether it can no longer be used. A server that closes it is noticed at once, one that falls silent is not.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.is_some() || self.requests.is_closed()
    }

    fn closed(&mut self) -> SessionError {
        let ended = Arc::clone(&self.ended);
        self.lose(ended.get().map_or("it was closed", String::as_str))
    }

    fn lose(&mut self, reason: &str) -> SessionError {
        self.lost = Some(reason.to_owned());
        self.lost_error(reason.to_owned())
    }

    fn lost_error(&self, message: String) -> SessionError {
        SessionError::Lost { server: self.server.clone(), message }
    }
}

/// A question under way.
struct Asked {
    deadline: Deadline,
    given: Duration,
}

enum Answer<T> {
    InTime(T),
    Late,
    /// Whoever was to answer is gone.
    Never,
}

impl Asked {
    /// A server that is asked after the deadline cannot be blamed for its silence.
    fn now(deadline: Deadline) -> Result<Self, SessionError> {
        let given = deadline.boottime().saturating_sub(now_boottime());
        if given.is_zero() {
            return Err(SessionError::NotAsked { message: "the deadline had passed before".to_owned() });
        }
        Ok(Self { deadline, given })
    }

    fn wait<T>(&self, answer: &Receiver<T>) -> Answer<T> {
        loop {
            let wait = self.deadline.remaining().min(LOOK_AT_CLOCK);
            let received = answer.recv_timeout(wait);
            // An answer that a suspended machine reads hours later says nothing about now.
            let late = self.deadline.passed();
            match received {
                _ if late => return Answer::Late,
                Ok(value) => return Answer::InTime(value),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Answer::Never,
            }
        }
    }
}

/// `text` as an SQL string constant, right whatever `standard_conforming_strings` is.
#[must_use]
pub fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') { format!(" E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// `name` as an SQL identifier.
#[must_use]
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_value_cannot_end_early() {
        assert_eq!(quote_literal("7/pg2"), "'7/pg2'");
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"a\'b"), r" E'a\\''b'");
        assert_eq!(quote_identifier(r#"a"b"#), r#""a""b""#);
    }

    #[test]
    fn a_session_can_go_to_another_thread() {
        fn is_send<T: Send>() {}
        is_send::<Session>();
        is_send::<SessionError>();
    }

    #[test]
    fn who_is_asked_after_the_deadline_is_not_called_silent() {
        let conninfo = ConnInfo::parse("host=127.0.0.1").expect("parsed");
        let error = Session::open(&conninfo, Deadline::after(Duration::ZERO)).expect_err("late");
        assert!(matches!(error, SessionError::NotAsked { .. }), "{error}");
    }
}
