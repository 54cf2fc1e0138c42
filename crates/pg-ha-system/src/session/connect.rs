//! From a plan to an open session.

use std::error::Error as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config};

use super::SessionError;
use super::plan::{Plan, Tcp, WantedServer};
use super::tls::{Attempt, TlsPlan};
use super::worker::{Progress, by, query};
use crate::clock::Deadline;
use crate::conninfo::{Endpoint, Place};

/// SQLSTATE of `sqlclient_unable_to_establish_sqlconnection`: we would not go on.
const OUR_REFUSAL: &str = "08001";

/// What drives the protocol; ends when the connection does.
pub(super) type Driver = JoinHandle<Result<(), tokio_postgres::Error>>;

pub(super) type Connected = (Client, Driver, String);

/// Where one attempt goes.
enum Target<'a> {
    Tcp(SocketAddr),
    Socket(&'a Endpoint),
}

/// Tries the servers in order.
pub(super) async fn connect(plan: &Plan, deadline: Deadline, progress: &Progress) -> Result<Connected, SessionError> {
    // `prefer-standby` is two rounds: a standby, and if there is none, any.
    let rounds: &[WantedServer] = match plan.wanted {
        WantedServer::PreferStandby => &[WantedServer::Standby, WantedServer::Any],
        _ => std::slice::from_ref(&plan.wanted),
    };
    let mut left = rounds.len() * plan.endpoints.len();
    for &wanted in rounds {
        for endpoint in &plan.endpoints {
            let share = share(deadline.remaining(), left, plan.connect_timeout);
            left -= 1;
            match try_server(plan, endpoint, wanted, Deadline::after(share), progress).await {
                Ok(connected) => return Ok(connected),
                Err(error) => progress.failed(error),
            }
        }
    }
    Err(progress.worst().unwrap_or_else(|| SessionError::Config { message: "no server given".to_owned() }))
}

/// A fair part of what is left, so that a silent server does not use up the time of those after it.
fn share(remaining: Duration, left: usize, limit: Option<Duration>) -> Duration {
    let left = u32::try_from(left.max(1)).unwrap_or(u32::MAX);
    match limit {
        Some(limit) => limit.min(remaining),
        None => remaining / left,
    }
}

async fn try_server(
    plan: &Plan,
    endpoint: &Endpoint,
    wanted: WantedServer,
    deadline: Deadline,
    progress: &Progress,
) -> Result<Connected, SessionError> {
    let server = endpoint.to_string();
    let targets = match &endpoint.place {
        Place::Socket(_) | Place::AbstractSocket(_) => vec![Target::Socket(endpoint)],
        Place::Address(address) => vec![Target::Tcp(SocketAddr::new(*address, endpoint.port))],
        Place::Name(name) => {
            progress.resolving(&server);
            resolve(name, endpoint.port, &server, deadline.remaining()).await?.into_iter().map(Target::Tcp).collect()
        }
    };
    let mut worst: Option<SessionError> = None;
    let count = targets.len();
    for (index, target) in targets.iter().enumerate() {
        progress.connecting(&server);
        let given = share(deadline.remaining(), count - index, None);
        match by(given, &server, open(plan, endpoint, target, wanted, &server)).await {
            Ok(connected) => return Ok(connected),
            Err(error) => {
                worst = Some(match worst {
                    Some(worst) => worst.or_more_alive(error),
                    None => error,
                });
            }
        }
    }
    Err(worst.unwrap_or_else(|| SessionError::Unreachable { server, message: "its name has no address".to_owned() }))
}

async fn resolve(name: &str, port: u16, server: &str, given: Duration) -> Result<Vec<SocketAddr>, SessionError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let unreachable = |message: String| SessionError::Unreachable { server: server.to_owned(), message };
    match tokio::time::timeout(given, tokio::net::lookup_host((name, port))).await {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(error)) => Err(unreachable(error.to_string())),
        Err(_) => Err(unreachable("its name was not resolved in time".to_owned())),
    }
}

/// One server at one address: with TLS and without it, in the order that sslmode has.
async fn open(
    plan: &Plan,
    endpoint: &Endpoint,
    target: &Target<'_>,
    wanted: WantedServer,
    server: &str,
) -> Result<Connected, SessionError> {
    let (config, passfile_ignored) = plan.startup(endpoint);
    let mut attempts = plan.tls.attempts(endpoint).iter().peekable();
    let mut first: Option<Failure> = None;
    loop {
        let Some(&attempt) = attempts.next() else {
            return Err(SessionError::Config { message: "sslmode leaves no way to connect".to_owned() });
        };
        let result = start(plan, endpoint, target, attempt, config.clone(), server).await;
        match result {
            Ok((client, driver)) => {
                check_role(&client, wanted, server).await?;
                return Ok((client, driver, server.to_owned()));
            }
            Err(failure) if failure.other_tls_may_help && attempts.peek().is_some() => {
                first = Some(failure);
            }
            Err(failure) => {
                let error = first.map_or(failure.error.clone(), |first| both(first, failure));
                return Err(with_hint(error, passfile_ignored.as_deref()));
            }
        }
    }
}

/// What to tell of an attempt with TLS and one without, in either order, that both failed.
fn both(first: Failure, second: Failure) -> SessionError {
    // That the server has no TLS says less than what it said to the other attempt.
    if first.no_tls {
        return second.error;
    }
    if second.no_tls {
        return first.error;
    }
    match (first.error, second.error) {
        (SessionError::Alive { message: first, .. }, SessionError::Alive { server, sqlstate, message }) => {
            SessionError::Alive { server, sqlstate, message: format!("{first}; on the second try: {message}") }
        }
        (_, second @ (SessionError::Starting { .. } | SessionError::ShuttingDown { .. })) => second,
        (first, second) => first.or_more_alive(second),
    }
}

/// A missing password is easier to understand with the reason that it is missing.
fn with_hint(error: SessionError, passfile_ignored: Option<&str>) -> SessionError {
    match (error, passfile_ignored) {
        (SessionError::Alive { server, sqlstate, message }, Some(reason)) if sqlstate.starts_with("28") => {
            SessionError::Alive { server, sqlstate, message: format!("{message}; {reason}") }
        }
        (error, _) => error,
    }
}

/// One attempt that failed.
struct Failure {
    error: SessionError,
    /// As for libpq: the TLS handshake failed, or `pg_hba.conf` has no line for this kind of connection.
    other_tls_may_help: bool,
    no_tls: bool,
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        Self { error, other_tls_may_help: false, no_tls: false }
    }
}

async fn start(
    plan: &Plan,
    endpoint: &Endpoint,
    target: &Target<'_>,
    attempt: Attempt,
    config: Config,
    server: &str,
) -> Result<(Client, Driver), Failure> {
    match target {
        Target::Tcp(address) => {
            let stream = TcpStream::connect(address).await.map_err(|error| connect_error(endpoint, &error))?;
            set_options(&stream, &plan.tcp).map_err(|error| connect_error(endpoint, &error))?;
            speak(&plan.tls, endpoint, stream, attempt, config, server).await
        }
        Target::Socket(endpoint) => {
            let stream = connect_socket(endpoint).await.map_err(|error| connect_error(endpoint, &error))?;
            if let Some(user) = &plan.requirepeer {
                check_peer(&stream, user, endpoint)?;
            }
            speak(&plan.tls, endpoint, stream, attempt, config, server).await
        }
    }
}

async fn connect_socket(endpoint: &Endpoint) -> io::Result<UnixStream> {
    let file = format!(".s.PGSQL.{}", endpoint.port);
    match &endpoint.place {
        // What libpq writes as `@` is a zero byte to the kernel.
        Place::AbstractSocket(name) => UnixStream::connect(format!("\0{name}/{file}")).await,
        Place::Socket(directory) => UnixStream::connect(directory.join(file)).await,
        Place::Name(_) | Place::Address(_) => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn check_peer(stream: &UnixStream, user: &str, endpoint: &Endpoint) -> Result<(), SessionError> {
    let peer = stream.peer_cred().map_err(|error| connect_error(endpoint, &error))?;
    let name = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(peer.uid()))
        .ok()
        .flatten()
        .map_or_else(|| peer.uid().to_string(), |peer| peer.name);
    if name == user {
        return Ok(());
    }
    Err(our_refusal(&endpoint.to_string(), format!("requirepeer is {user}, but the server runs as {name}")))
}

fn set_options(stream: &TcpStream, tcp: &Tcp) -> io::Result<()> {
    let socket = stream.as_fd();
    sockopt::set_tcp_nodelay(socket, true)?;
    if tcp.keepalives {
        sockopt::set_socket_keepalive(socket, true)?;
        if let Some(idle) = tcp.idle {
            sockopt::set_tcp_keepidle(socket, idle)?;
        }
        if let Some(interval) = tcp.interval {
            sockopt::set_tcp_keepintvl(socket, interval)?;
        }
        if let Some(count) = tcp.count {
            sockopt::set_tcp_keepcnt(socket, count)?;
        }
    }
    if let Some(timeout) = tcp.user_timeout {
        let milliseconds = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(socket, milliseconds)?;
    }
    Ok(())
}

/// Startup, authentication, and the first "ready for query".
async fn speak<S>(
    tls: &TlsPlan,
    endpoint: &Endpoint,
    stream: S,
    attempt: Attempt,
    mut config: Config,
    server: &str,
) -> Result<(Client, Driver), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tls.configure(&mut config, attempt);
    let spoken = match attempt {
        Attempt::Plain => config
            .connect_raw(stream, tokio_postgres::NoTls)
            .await
            .map(|(client, connection)| (client, tokio::spawn(connection))),
        Attempt::Tls => config
            .connect_raw(stream, tls.connector(endpoint)?)
            .await
            .map(|(client, connection)| (client, tokio::spawn(connection))),
    };
    spoken.map_err(|error| startup_error(server, &error))
}

async fn check_role(client: &Client, wanted: WantedServer, server: &str) -> Result<(), SessionError> {
    if wanted == WantedServer::Any {
        return Ok(());
    }
    let sql = "SELECT pg_catalog.current_setting('transaction_read_only'), pg_catalog.pg_is_in_recovery()";
    let rows = query(client, server, sql).await?;
    let row = rows.first();
    let read_only = row.and_then(|row| row.get(0)) != Some("off");
    let standby = row.and_then(|row| row.get(1)) != Some("f");
    let (fits, is) = match wanted {
        WantedServer::Any => (true, ""),
        WantedServer::ReadWrite => (!read_only, "the session is read-only"),
        WantedServer::ReadOnly => (read_only, "the session is not read-only"),
        WantedServer::Primary => (!standby, "the server is in hot standby mode"),
        WantedServer::Standby | WantedServer::PreferStandby => (standby, "the server is not in hot standby mode"),
    };
    if fits {
        return Ok(());
    }
    Err(our_refusal(server, format!("{is} (target_session_attrs)")))
}

fn our_refusal(server: &str, message: String) -> SessionError {
    SessionError::Alive { server: server.to_owned(), sqlstate: OUR_REFUSAL.to_owned(), message }
}

/// What it means that `socket(2)` or `connect(2)` failed.
fn connect_error(endpoint: &Endpoint, error: &io::Error) -> SessionError {
    let server = endpoint.to_string();
    let message = error.to_string();
    match Errno::from_io_error(error) {
        Some(Errno::CONNREFUSED | Errno::NOENT | Errno::NOTDIR | Errno::NOTSOCK) => {
            SessionError::Refused { server, message }
        }
        Some(Errno::TIMEDOUT) => SessionError::Silent { server, after: Duration::ZERO },
        // The queue of a socket is full when the server no longer accepts.
        Some(Errno::AGAIN) if endpoint.is_socket() => SessionError::Silent { server, after: Duration::ZERO },
        Some(Errno::CONNRESET | Errno::PIPE | Errno::CONNABORTED) => SessionError::Lost { server, message },
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => SessionError::NotAsked { message },
        // The directory is not ours to enter, or the socket not ours to use.
        Some(Errno::ACCESS | Errno::PERM) if endpoint.is_socket() => {
            SessionError::Config { message: format!("{server}: {message}") }
        }
        _ => SessionError::Unreachable { server, message },
    }
}

/// What it means that the server did not get as far as "ready for query".
fn startup_error(server: &str, error: &tokio_postgres::Error) -> Failure {
    if let Some(said) = error.as_db_error() {
        let code = said.code();
        return Failure {
            error: refused_by_server(server, code, said.message()),
            other_tls_may_help: *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            no_tls: false,
        };
    }
    let message = in_words(error);
    let source = error.source();
    let broken = source.and_then(|source| source.downcast_ref::<io::Error>()).is_some_and(|error| !is_garbage(error))
        || super::tls::broken_connection(source);
    if error.is_closed() || broken {
        return SessionError::Lost { server: server.to_owned(), message }.into();
    }
    let said = source.map(ToString::to_string).unwrap_or_default();
    let about_tls = error.to_string().contains("TLS")
        || source.and_then(|source| source.downcast_ref::<io::Error>()).is_some_and(super::tls::is_alert);
    if said == "password missing" {
        return Failure {
            error: SessionError::Alive {
                server: server.to_owned(),
                sqlstate: SqlState::INVALID_PASSWORD.code().to_owned(),
                message: "it asks for a password, and none is given".to_owned(),
            },
            other_tls_may_help: false,
            no_tls: false,
        };
    }
    let sqlstate = if about_tls || error.to_string().contains("authentication") {
        OUR_REFUSAL
    } else {
        SqlState::PROTOCOL_VIOLATION.code()
    };
    Failure {
        error: SessionError::Alive { server: server.to_owned(), sqlstate: sqlstate.to_owned(), message },
        other_tls_may_help: about_tls,
        no_tls: said == "server does not support TLS",
    }
}

/// The protocol's reader reports bytes that are no message in the clothes of an I/O error.
fn is_garbage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)
}

fn refused_by_server(server: &str, code: &SqlState, message: &str) -> SessionError {
    let server = server.to_owned();
    let text = message.to_owned();
    let shutting_down = *code == SqlState::ADMIN_SHUTDOWN
        || *code == SqlState::CRASH_SHUTDOWN
        // The SQLSTATE is that of a starting server; only the words differ, and they may be translated. Both live.
        || (*code == SqlState::CANNOT_CONNECT_NOW && message.contains("shutting down"));
    if shutting_down {
        SessionError::ShuttingDown { server, message: text }
    } else if *code == SqlState::CANNOT_CONNECT_NOW {
        SessionError::Starting { server, message: text }
    } else {
        SessionError::Alive { server, sqlstate: code.code().to_owned(), message: text }
    }
}

/// An error with its causes. `tokio_postgres` keeps passwords out of both.
pub(super) fn in_words(error: &tokio_postgres::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_words = cause.to_string();
        if !words.ends_with(&cause_words) {
            words.push_str(": ");
            words.push_str(&cause_words);
        }
        source = cause.source();
    }
    words
}
