//! A connection string turned into what a session needs, with everything checked that can be without a server.

use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::ChannelBinding;

use super::SessionError;
use super::tls::TlsPlan;
use crate::conninfo::{ConnInfo, ConnInfoError, Endpoint};
use crate::passfile::{self, Login, Password};

/// What TCP does about a peer that is gone, where the connection string does not say.
///
/// The kernel's own defaults let a dead connection look alive for two hours.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_COUNT: u32 = 3;
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a connection string asks for.
pub(super) struct Plan {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) tls: TlsPlan,
    pub(super) tcp: Tcp,
    /// For each server.
    pub(super) connect_timeout: Option<Duration>,
    pub(super) wanted: WantedServer,
    /// The operating system user that must be behind a Unix socket.
    pub(super) requirepeer: Option<String>,
    user: String,
    dbname: String,
    password: Option<Password>,
    passfile: Option<PathBuf>,
    config: Config,
}

/// `target_session_attrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WantedServer {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    /// A standby, or else any.
    PreferStandby,
}

/// Socket options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tcp {
    pub(super) keepalives: bool,
    /// `None`, here and below, leaves it to the system.
    pub(super) idle: Option<Duration>,
    pub(super) interval: Option<Duration>,
    pub(super) count: Option<u32>,
    pub(super) user_timeout: Option<Duration>,
}

pub(super) fn unusable(message: impl Into<String>) -> SessionError {
    SessionError::Config { message: message.into() }
}

impl From<ConnInfoError> for SessionError {
    fn from(error: ConnInfoError) -> Self {
        unusable(error.to_string())
    }
}

impl Plan {
    pub(super) fn new(conninfo: &ConnInfo) -> Result<Self, SessionError> {
        refuse_what_is_not_done(conninfo)?;
        let endpoints = conninfo.endpoints()?;
        let home = home();
        let user = match conninfo.given("user") {
            Some(user) => user.to_owned(),
            None => process_user()?,
        };
        let dbname = conninfo.given("dbname").unwrap_or(&user).to_owned();
        let passfile = match conninfo.given("passfile") {
            Some(path) => Some(PathBuf::from(path)),
            None => home.as_ref().map(|home| home.join(".pgpass")),
        };
        Ok(Self {
            tls: TlsPlan::new(conninfo, home.as_deref(), &endpoints)?,
            endpoints,
            tcp: Tcp::new(conninfo)?,
            connect_timeout: connect_timeout(conninfo)?,
            wanted: wanted_server(conninfo)?,
            requirepeer: conninfo.given("requirepeer").map(str::to_owned),
            password: conninfo.given("password").map(Password::new),
            passfile,
            config: startup(conninfo, &user, &dbname)?,
            user,
            dbname,
        })
    }

    /// What to send this server, and why a password file was not used, if so.
    pub(super) fn startup(&self, endpoint: &Endpoint) -> (Config, Option<String>) {
        let mut config = self.config.clone();
        let mut ignored = None;
        let password = match (&self.password, &self.passfile) {
            (Some(password), _) => Some(password.clone()),
            (None, Some(passfile)) => {
                let login = Login {
                    host: &endpoint.passfile_host(),
                    port: endpoint.port,
                    database: &self.dbname,
                    user: &self.user,
                };
                passfile::look_up(passfile, login).unwrap_or_else(|reason| {
                    log::warn!("{reason}");
                    ignored = Some(reason.to_string());
                    None
                })
            }
            (None, None) => None,
        };
        if let Some(password) = password {
            config.password(password.reveal());
        }
        (config, ignored)
    }
}

fn startup(conninfo: &ConnInfo, user: &str, dbname: &str) -> Result<Config, SessionError> {
    let mut config = Config::new();
    config.user(user).dbname(dbname);
    if let Some(options) = conninfo.given("options") {
        config.options(options);
    }
    let name = conninfo.given("application_name").or_else(|| conninfo.given("fallback_application_name"));
    if let Some(name) = name {
        config.application_name(name);
    }
    config.channel_binding(match conninfo.given("channel_binding") {
        None | Some("prefer") => ChannelBinding::Prefer,
        Some("disable") => ChannelBinding::Disable,
        Some("require") => ChannelBinding::Require,
        Some(other) => return Err(not_one_of("channel_binding", other, "disable, prefer, require")),
    });
    Ok(config)
}

pub(super) fn not_one_of(keyword: &str, given: &str, known: &str) -> SessionError {
    unusable(format!("{keyword}: \"{given}\" is none of {known}"))
}

fn refuse_what_is_not_done(conninfo: &ConnInfo) -> Result<(), SessionError> {
    let refused =
        |keyword: &str| Err(unusable(format!("{keyword} asks for what a session here cannot do; leave it out")));
    if conninfo.given("require_auth").is_some() {
        return refused("require_auth");
    }
    match conninfo.given("gssencmode") {
        None | Some("disable" | "prefer") => {}
        Some("require") => return refused("gssencmode=require"),
        Some(other) => return Err(not_one_of("gssencmode", other, "disable, prefer, require")),
    }
    match conninfo.given("replication") {
        None | Some("false" | "off" | "no" | "0") => {}
        Some(_) => return refused("replication"),
    }
    match conninfo.given("load_balance_hosts") {
        None | Some("disable" | "random") => Ok(()),
        Some(other) => Err(not_one_of("load_balance_hosts", other, "disable, random")),
    }
}

fn wanted_server(conninfo: &ConnInfo) -> Result<WantedServer, SessionError> {
    Ok(match conninfo.given("target_session_attrs") {
        None | Some("any") => WantedServer::Any,
        Some("read-write") => WantedServer::ReadWrite,
        Some("read-only") => WantedServer::ReadOnly,
        Some("primary") => WantedServer::Primary,
        Some("standby") => WantedServer::Standby,
        Some("prefer-standby") => WantedServer::PreferStandby,
        Some(other) => {
            return Err(not_one_of(
                "target_session_attrs",
                other,
                "any, read-write, read-only, primary, standby, prefer-standby",
            ));
        }
    })
}

/// A number as libpq takes it: with spaces around, and a sign.
fn integer(conninfo: &ConnInfo, keyword: &str) -> Result<Option<i32>, SessionError> {
    let Some(text) = conninfo.given(keyword) else {
        return Ok(None);
    };
    match text.trim().parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(unusable(format!("{keyword}: \"{text}\" is no integer"))),
    }
}

/// Zero and less mean no limit.
fn connect_timeout(conninfo: &ConnInfo) -> Result<Option<Duration>, SessionError> {
    let seconds = integer(conninfo, "connect_timeout")?;
    Ok(seconds.and_then(|seconds| u64::try_from(seconds).ok()).filter(|&seconds| seconds > 0).map(Duration::from_secs))
}

impl Tcp {
    fn new(conninfo: &ConnInfo) -> Result<Self, SessionError> {
        // Given as zero or less, each is the system's default.
        let number = |keyword: &str, ours: u64| -> Result<Option<u64>, SessionError> {
            Ok(match integer(conninfo, keyword)? {
                None => Some(ours),
                Some(given) => u64::try_from(given).ok().filter(|&given| given > 0),
            })
        };
        let idle = number("keepalives_idle", KEEPALIVE_IDLE.as_secs())?;
        let interval = number("keepalives_interval", KEEPALIVE_INTERVAL.as_secs())?;
        let count = number("keepalives_count", u64::from(KEEPALIVE_COUNT))?;
        let user_timeout = number("tcp_user_timeout", u64::try_from(TCP_USER_TIMEOUT.as_millis()).unwrap_or(u64::MAX))?;
        Ok(Self {
            keepalives: integer(conninfo, "keepalives")? != Some(0),
            idle: idle.map(Duration::from_secs),
            interval: interval.map(Duration::from_secs),
            count: count.and_then(|count| u32::try_from(count).ok()),
            user_timeout: user_timeout.map(Duration::from_millis),
        })
    }
}

/// `$HOME`, or what the user database has: keepalived leaves HOME as it is, and systemd may not set it.
fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from).or_else(|| Some(effective_user()?.dir))
}

fn process_user() -> Result<String, SessionError> {
    effective_user().map(|user| user.name).ok_or_else(|| unusable("no user given, and this process's user has no name"))
}

fn effective_user() -> Option<nix::unistd::User> {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Result<Plan, SessionError> {
        Plan::new(&ConnInfo::parse(text).expect("parsed"))
    }

    fn refused(text: &str) -> String {
        match plan(text).err() {
            Some(SessionError::Config { message }) => message,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_dead_peer_is_noticed_unless_the_connection_string_says_otherwise() {
        let tcp = plan("host=a").expect("usable").tcp;
        assert!(tcp.keepalives);
        assert_eq!(tcp.idle, Some(KEEPALIVE_IDLE));
        assert_eq!(tcp.user_timeout, Some(TCP_USER_TIMEOUT));
        let tcp =
            plan("host=a keepalives=0 keepalives_idle=7 tcp_user_timeout=1500 keepalives_count=0").expect("usable").tcp;
        assert!(!tcp.keepalives);
        assert_eq!(tcp.idle, Some(Duration::from_secs(7)));
        assert_eq!(tcp.user_timeout, Some(Duration::from_millis(1500)));
        assert_eq!(tcp.count, None);
    }

    #[test]
    fn connect_timeout_is_in_seconds_and_zero_is_none() {
        let timeout = |text| plan(text).expect("usable").connect_timeout;
        assert_eq!(timeout("connect_timeout=3"), Some(Duration::from_secs(3)));
        assert_eq!(timeout("connect_timeout=0"), None);
        assert_eq!(timeout("connect_timeout=-1"), None);
        assert_eq!(timeout(""), None);
    }

    #[test]
    fn what_cannot_be_done_is_refused_and_not_ignored() {
        for text in [
            "require_auth=scram-sha-256",
            "gssencmode=require",
            "replication=true",
            "target_session_attrs=master",
            "sslmode=strict",
            "channel_binding=yes",
            "connect_timeout=2s",
            "host=a,b port=1,2,3",
        ] {
            let keyword = text.split([' ', '=']).next().expect("a word");
            let message = refused(text);
            assert!(message.contains(keyword) || message.contains("port"), "{message}");
        }
    }
}
