//! What it means that a server did not do what it was asked.

use std::time::Duration;

/// Why there is no session, or no result.
///
/// The kinds are kept apart because safety hangs on them: a server that is `Silent` may still be acknowledging
/// writes, one that `Refused` has nobody at its port, and one that is `Alive` must never be counted as dead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// No answer by the deadline: stopped, overloaded, or cut off without a word. It may still be working.
    #[error("{server} gave no answer within {} ms", after.as_millis())]
    Silent {
        /// Host and port, or the socket.
        server: String,
        /// How long it was given.
        after: Duration,
    },
    /// Nobody listens there, or there is no such socket. The machine is up; its backends may still be.
    #[error("{server} refused the connection: {message}")]
    Refused {
        /// Host and port, or the socket.
        server: String,
        /// The operating system's words.
        message: String,
    },
    /// No way to get there: no route, or no address for the name.
    #[error("{server} cannot be reached: {message}")]
    Unreachable {
        /// Host and port.
        server: String,
        /// The operating system's or the resolver's words.
        message: String,
    },
    /// It lives, and takes no sessions yet: starting, recovering from a crash, or not yet consistent.
    #[error("{server} is starting: {message}")]
    Starting {
        /// Host and port, or the socket.
        server: String,
        /// The server's words.
        message: String,
    },
    /// It lives, and takes no sessions any more.
    #[error("{server} is shutting down: {message}")]
    ShuttingDown {
        /// Host and port, or the socket.
        server: String,
        /// The server's words.
        message: String,
    },
    /// It lives, and would not give us a session: authentication, too many connections, no such database,
    /// a certificate that is not to be trusted, the wrong role for `target_session_attrs`.
    #[error("{server} gave no session: {message} (SQLSTATE {sqlstate})")]
    Alive {
        /// Host and port, or the socket.
        server: String,
        /// The server's, or `08001` where it is we who would not go on, `08P01` where what it said is no
        /// `PostgreSQL` protocol.
        sqlstate: String,
        /// The server's words, or ours.
        message: String,
    },
    /// A statement failed; the session is still good.
    #[error("{message} (SQLSTATE {sqlstate})")]
    Sql {
        /// The server's.
        sqlstate: String,
        /// The server's words.
        message: String,
    },
    /// The connection broke in the middle, or the session was lost earlier. What was asked may have been done.
    #[error("the connection with {server} was lost: {message}")]
    Lost {
        /// Host and port, or the socket.
        server: String,
        /// How.
        message: String,
    },
    /// The connection string, or a file that it names, is not usable. No server was asked.
    #[error("the connection string is not usable: {message}")]
    Config {
        /// What is wrong, and with which keyword or file.
        message: String,
    },
    /// No server was asked, through no fault of any: the deadline had passed before, or no thread was to be had.
    #[error("the server was not asked: {message}")]
    NotAsked {
        /// Why not.
        message: String,
    },
}

impl SessionError {
    /// Whether the server showed that it lives. False means only that it did not show it.
    #[must_use]
    pub fn server_lives(&self) -> bool {
        matches!(self, Self::Starting { .. } | Self::ShuttingDown { .. } | Self::Alive { .. } | Self::Sql { .. })
    }

    /// The SQLSTATE, where there is one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Alive { sqlstate, .. } | Self::Sql { sqlstate, .. } => Some(sqlstate),
            Self::Starting { .. } | Self::ShuttingDown { .. } => Some("57P03"),
            _ => None,
        }
    }

    /// Of the errors of several servers, or addresses, the one to report: the sign of life before the silence, the
    /// silence before the refusal.
    pub(super) fn or_more_alive(self, other: Self) -> Self {
        if other.rank() > self.rank() { other } else { self }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::NotAsked { .. } => 0,
            Self::Refused { .. } => 1,
            Self::Unreachable { .. } => 2,
            Self::Silent { .. } => 3,
            Self::Config { .. } => 4,
            Self::Lost { .. } => 5,
            Self::ShuttingDown { .. } => 6,
            Self::Starting { .. } => 7,
            Self::Alive { .. } | Self::Sql { .. } => 8,
        }
    }
}
