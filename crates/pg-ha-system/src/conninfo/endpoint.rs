//! Which servers a connection string names.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::{ConnInfo, ConnInfoError};

/// libpq's compiled-in port.
pub const DEFAULT_PORT: u16 = 5432;

/// Debian's compiled-in socket directory. The password file calls it `localhost`.
pub const DEFAULT_SOCKET_DIRECTORY: &str = "/var/run/postgresql";

/// One server of a connection string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The socket directory, name or address to connect to.
    pub place: Place,
    /// The port; for a socket the number in its file name.
    pub port: u16,
    /// `host` as given, if it was: what a certificate and the password file are held against.
    pub host: Option<String>,
}

/// How a server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The directory of a Unix socket.
    Socket(PathBuf),
    /// The name of a Unix socket that has no file, without its `@`.
    AbstractSocket(String),
    /// A name to resolve, or an address in text.
    Name(String),
    /// `hostaddr`: an address that needs no resolving.
    Address(IpAddr),
}

impl Endpoint {
    /// What the password file calls this server.
    #[must_use]
    pub fn passfile_host(&self) -> String {
        match (&self.host, &self.place) {
            (_, Place::Socket(directory)) if directory == Path::new(DEFAULT_SOCKET_DIRECTORY) => "localhost".to_owned(),
            (Some(host), _) => host.clone(),
            (None, Place::Address(address)) => address.to_string(),
            (None, _) => "localhost".to_owned(),
        }
    }

    /// Whether it is reached by a Unix socket.
    #[must_use]
    pub fn is_socket(&self) -> bool {
        matches!(self.place, Place::Socket(_) | Place::AbstractSocket(_))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port;
        match &self.place {
            Place::Socket(directory) => write!(f, "{}/.s.PGSQL.{port}", directory.display()),
            Place::AbstractSocket(name) => write!(f, "@{name}/.s.PGSQL.{port}"),
            Place::Name(name) if name.contains(':') => write!(f, "[{name}]:{port}"),
            Place::Name(name) => write!(f, "{name}:{port}"),
            Place::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{port}"),
            Place::Address(address) => match &self.host {
                Some(host) => write!(f, "{host} ({address}):{port}"),
                None => write!(f, "{address}:{port}"),
            },
        }
    }
}

pub(super) fn endpoints(conninfo: &ConnInfo) -> Result<Vec<Endpoint>, ConnInfoError> {
    let hosts = list(conninfo, "host");
    let addresses = list(conninfo, "hostaddr");
    let ports = list(conninfo, "port");
    let count = match (&addresses, &hosts) {
        (Some(addresses), _) => addresses.len(),
        (None, Some(hosts)) => hosts.len(),
        (None, None) => 1,
    };
    if let (Some(hosts), Some(_)) = (&hosts, &addresses)
        && hosts.len() != count
    {
        return Err(wrong("hostaddr", format!("{count} given for {} in host", hosts.len())));
    }
    if let Some(ports) = &ports
        && ports.len() != 1
        && ports.len() != count
    {
        return Err(wrong("port", format!("{} given for {count} hosts; give one, or one for each", ports.len())));
    }
    (0..count)
        .map(|index| {
            let port = ports.as_ref().map_or("", |ports| ports[if ports.len() == 1 { 0 } else { index }]);
            let host = hosts.as_ref().map_or("", |hosts| hosts[index]);
            let address = addresses.as_ref().map_or("", |addresses| addresses[index]);
            Ok(Endpoint {
                place: place(host, address, index)?,
                port: port_number(port, index)?,
                host: (!host.is_empty()).then(|| host.to_owned()),
            })
        })
        .collect()
}

fn list<'a>(conninfo: &'a ConnInfo, keyword: &str) -> Option<Vec<&'a str>> {
    Some(conninfo.given(keyword)?.split(',').collect())
}

fn wrong(keyword: &'static str, what: String) -> ConnInfoError {
    ConnInfoError::Value { keyword, what }
}

fn place(host: &str, address: &str, index: usize) -> Result<Place, ConnInfoError> {
    if !address.is_empty() {
        return match address.parse() {
            Ok(address) => Ok(Place::Address(address)),
            Err(_) => Err(wrong("hostaddr", format!("the entry {} is no IP address", index + 1))),
        };
    }
    if host.is_empty() {
        let directory = Path::new(DEFAULT_SOCKET_DIRECTORY);
        return Ok(if directory.is_dir() {
            Place::Socket(directory.to_owned())
        } else {
            Place::Name("localhost".to_owned())
        });
    }
    if host.starts_with('/') {
        return Ok(Place::Socket(PathBuf::from(host)));
    }
    if let Some(name) = host.strip_prefix('@') {
        return Ok(Place::AbstractSocket(name.to_owned()));
    }
    Ok(Place::Name(host.to_owned()))
}

/// The value is not shown: in a URI with a `/` in its password the port is the password's beginning.
fn port_number(text: &str, index: usize) -> Result<u16, ConnInfoError> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(DEFAULT_PORT);
    }
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(wrong("port", format!("the entry {} is no number from 1 to 65535", index + 1))),
    }
}
