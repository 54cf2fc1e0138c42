//! TLS with libpq's meaning of sslmode and the files around it.

use std::error::Error;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::ssl::SslFiletype;
use openssl::ssl::{SslConnector, SslConnectorBuilder, SslMethod, SslVerifyMode, SslVersion};
use openssl::x509::store::{X509Lookup, X509Store, X509StoreBuilder};
use openssl::x509::verify::X509VerifyFlags;
use postgres_openssl::TlsConnector;
use tokio_postgres::Config;
use tokio_postgres::config::{SslMode as TokioSslMode, SslNegotiation};

use super::SessionError;
use super::plan::{not_one_of, unusable};
use crate::conninfo::{ConnInfo, Endpoint};

/// One way to speak to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    Plain,
    Tls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// What sslmode and its files ask for.
pub(super) struct TlsPlan {
    attempts: &'static [Attempt],
    connector: Option<SslConnector>,
    verify_name: bool,
    sni: bool,
    direct: bool,
}

/// Where TLS files are looked for.
struct Files<'a> {
    conninfo: &'a ConnInfo,
    home: Option<&'a Path>,
}

impl Files<'_> {
    /// The file that a keyword names, or libpq's default for it; and whether it was named.
    fn path(&self, keyword: &str, default: &str) -> Option<(PathBuf, bool)> {
        match self.conninfo.given(keyword) {
            Some(path) => Some((PathBuf::from(path), true)),
            None => Some((self.home?.join(".postgresql").join(default), false)),
        }
    }

    /// The same if it is there. A file that is named must be.
    fn existing(&self, keyword: &str, default: &str) -> Result<Option<PathBuf>, SessionError> {
        match self.path(keyword, default) {
            Some((path, _)) if path.exists() => Ok(Some(path)),
            Some((path, true)) => Err(unusable(format!("{keyword}: {} does not exist", path.display()))),
            _ => Ok(None),
        }
    }
}

impl TlsPlan {
    pub(super) fn new(conninfo: &ConnInfo, home: Option<&Path>, endpoints: &[Endpoint]) -> Result<Self, SessionError> {
        let system_roots = conninfo.given("sslrootcert") == Some("system");
        let mode = ssl_mode(conninfo, system_roots)?;
        let direct = match conninfo.given("sslnegotiation") {
            None | Some("postgres") => false,
            Some("direct") if mode < SslMode::Require => {
                return Err(unusable("sslnegotiation=direct needs sslmode=require or stronger"));
            }
            Some("direct") => true,
            Some(other) => return Err(not_one_of("sslnegotiation", other, "postgres, direct")),
        };
        let attempts: &'static [Attempt] = match mode {
            SslMode::Disable => &[Attempt::Plain],
            SslMode::Allow => &[Attempt::Plain, Attempt::Tls],
            SslMode::Prefer => &[Attempt::Tls, Attempt::Plain],
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Attempt::Tls],
        };
        let over_tcp = endpoints.iter().any(|endpoint| !endpoint.is_socket());
        if mode == SslMode::VerifyFull
            && endpoints.iter().any(|endpoint| !endpoint.is_socket() && endpoint.host.is_none())
        {
            return Err(unusable(
                "sslmode=verify-full needs host, to hold the certificate against; hostaddr is not enough",
            ));
        }
        let connector = if mode > SslMode::Disable && over_tcp {
            let files = Files { conninfo, home };
            Some(connector(&files, mode, system_roots)?)
        } else {
            None
        };
        Ok(Self {
            attempts,
            connector,
            verify_name: mode == SslMode::VerifyFull,
            sni: conninfo.given("sslsni") != Some("0"),
            direct,
        })
    }

    /// Over a Unix socket libpq never speaks TLS, whatever sslmode says.
    pub(super) fn attempts(&self, endpoint: &Endpoint) -> &'static [Attempt] {
        if endpoint.is_socket() { &[Attempt::Plain] } else { self.attempts }
    }

    /// Makes one attempt what it is: never a silent step down from TLS.
    pub(super) fn configure(&self, config: &mut Config, attempt: Attempt) {
        match attempt {
            Attempt::Plain => config.ssl_mode(TokioSslMode::Disable),
            Attempt::Tls => config.ssl_mode(TokioSslMode::Require),
        };
        if self.direct && attempt == Attempt::Tls {
            config.ssl_negotiation(SslNegotiation::Direct);
        }
    }

    pub(super) fn connector(&self, endpoint: &Endpoint) -> Result<TlsConnector, SessionError> {
        let connector = self.connector.as_ref().ok_or_else(|| unusable("TLS over a Unix socket"))?;
        let mut connection = connector.configure().map_err(|error| wrong("TLS", &error))?;
        connection.set_verify_hostname(self.verify_name);
        // An empty name would be sent as such; there is one whenever it is to be verified.
        connection.set_use_server_name_indication(self.sni && endpoint.host.is_some());
        Ok(TlsConnector::new(connection, endpoint.host.as_deref().unwrap_or_default()))
    }
}

/// Whether a failed handshake was the network's doing and not TLS's.
pub(super) fn broken_connection(source: Option<&(dyn Error + 'static)>) -> bool {
    let mut source = source;
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<openssl::ssl::Error>() {
            return error.io_error().is_some();
        }
        source = error.source();
    }
    false
}

/// Whether an I/O error is TLS saying no: since TLS 1.3 a server objects to our certificate after the handshake.
pub(super) fn is_alert(error: &std::io::Error) -> bool {
    error
        .get_ref()
        .and_then(|error| error.downcast_ref::<openssl::ssl::Error>())
        .is_some_and(|error| error.ssl_error().is_some())
}

fn ssl_mode(conninfo: &ConnInfo, system_roots: bool) -> Result<SslMode, SessionError> {
    let mode = match conninfo.given("sslmode") {
        // Certificates from just anyone's CA are worth nothing without the name.
        None if system_roots => SslMode::VerifyFull,
        None | Some("prefer") => SslMode::Prefer,
        Some("disable") => SslMode::Disable,
        Some("allow") => SslMode::Allow,
        Some("require") => SslMode::Require,
        Some("verify-ca") => SslMode::VerifyCa,
        Some("verify-full") => SslMode::VerifyFull,
        Some(other) => {
            return Err(not_one_of("sslmode", other, "disable, allow, prefer, require, verify-ca, verify-full"));
        }
    };
    if system_roots && mode != SslMode::VerifyFull {
        return Err(unusable("sslrootcert=system needs sslmode=verify-full, or none given"));
    }
    Ok(mode)
}

fn wrong(what: &str, error: &ErrorStack) -> SessionError {
    unusable(format!("{what}: {error}"))
}

fn wrong_file(keyword: &str, path: &Path, error: &ErrorStack) -> SessionError {
    unusable(format!("{keyword}: {}: {error}", path.display()))
}

fn connector(files: &Files<'_>, mode: SslMode, system_roots: bool) -> Result<SslConnector, SessionError> {
    let tls = |error: ErrorStack| wrong("TLS", &error);
    let mut builder = SslConnector::builder(SslMethod::tls()).map_err(tls)?;
    protocol_versions(&mut builder, files.conninfo)?;
    // Asked for since 17, harmless before.
    postgres_openssl::set_postgresql_alpn(&mut builder).map_err(tls)?;
    if !system_roots {
        // The builder came with the system's certificates, which libpq trusts only when told to.
        trust_own_roots(&mut builder, files, mode)?;
    }
    client_certificate(&mut builder, files)?;
    Ok(builder.build())
}

/// As in libpq, a root certificate that is there is used in every mode, and one that is not is missed only by the
/// modes that verify.
fn trust_own_roots(builder: &mut SslConnectorBuilder, files: &Files<'_>, mode: SslMode) -> Result<(), SessionError> {
    let Some(path) = files.existing_root(mode)? else {
        builder.set_verify(SslVerifyMode::NONE);
        return Ok(());
    };
    builder.set_cert_store(root_store(files, &path)?);
    builder.set_verify(SslVerifyMode::PEER);
    Ok(())
}

impl Files<'_> {
    fn existing_root(&self, mode: SslMode) -> Result<Option<PathBuf>, SessionError> {
        match self.path("sslrootcert", "root.crt") {
            Some((path, _)) if path.exists() => Ok(Some(path)),
            _ if mode < SslMode::VerifyCa => Ok(None),
            Some((path, _)) => Err(unusable(format!(
                "sslrootcert: {} does not exist; provide it, or change sslmode to one that does not verify",
                path.display()
            ))),
            None => Err(unusable("sslrootcert: none given, and no home directory")),
        }
    }
}

fn root_store(files: &Files<'_>, root: &Path) -> Result<X509Store, SessionError> {
    let tls = |error: ErrorStack| wrong("TLS", &error);
    let mut store = X509StoreBuilder::new().map_err(tls)?;
    store
        .add_lookup(X509Lookup::file())
        .and_then(|lookup| lookup.load_cert_file(root, SslFiletype::PEM))
        .map_err(|error| wrong_file("sslrootcert", root, &error))?;
    let mut check_revocation = false;
    if let Some(list) = files.existing("sslcrl", "root.crl")? {
        store
            .add_lookup(X509Lookup::file())
            .and_then(|lookup| lookup.load_crl_file(&list, SslFiletype::PEM))
            .map_err(|error| wrong_file("sslcrl", &list, &error))?;
        check_revocation = true;
    }
    if let Some(directory) = files.conninfo.given("sslcrldir") {
        store
            .add_lookup(X509Lookup::hash_dir())
            .and_then(|lookup| lookup.add_dir(directory, SslFiletype::PEM))
            .map_err(|error| wrong_file("sslcrldir", Path::new(directory), &error))?;
        check_revocation = true;
    }
    if check_revocation {
        store.set_flags(X509VerifyFlags::CRL_CHECK | X509VerifyFlags::CRL_CHECK_ALL).map_err(tls)?;
    }
    Ok(store.build())
}

fn protocol_versions(builder: &mut SslConnectorBuilder, conninfo: &ConnInfo) -> Result<(), SessionError> {
    let version = |keyword: &str| match conninfo.given(keyword) {
        None => Ok(None),
        Some(text) => match text.to_ascii_lowercase().as_str() {
            "tlsv1" => Ok(Some(SslVersion::TLS1)),
            "tlsv1.1" => Ok(Some(SslVersion::TLS1_1)),
            "tlsv1.2" => Ok(Some(SslVersion::TLS1_2)),
            "tlsv1.3" => Ok(Some(SslVersion::TLS1_3)),
            _ => Err(not_one_of(keyword, text, "TLSv1, TLSv1.1, TLSv1.2, TLSv1.3")),
        },
    };
    let lowest = version("ssl_min_protocol_version")?.unwrap_or(SslVersion::TLS1_2);
    let highest = version("ssl_max_protocol_version")?;
    builder.set_min_proto_version(Some(lowest)).map_err(|error| wrong("ssl_min_protocol_version", &error))?;
    builder.set_max_proto_version(highest).map_err(|error| wrong("ssl_max_protocol_version", &error))
}

fn client_certificate(builder: &mut SslConnectorBuilder, files: &Files<'_>) -> Result<(), SessionError> {
    match files.conninfo.given("sslcertmode") {
        None | Some("allow") => {}
        Some("disable") => return Ok(()),
        Some("require") => {
            return Err(unusable("sslcertmode=require asks for what a session here cannot do; leave it out"));
        }
        Some(other) => return Err(not_one_of("sslcertmode", other, "disable, allow, require")),
    }
    let Some(certificate) = files.existing("sslcert", "postgresql.crt")? else {
        return Ok(());
    };
    builder.set_certificate_chain_file(&certificate).map_err(|error| wrong_file("sslcert", &certificate, &error))?;
    let Some((key, _)) = files.path("sslkey", "postgresql.key") else {
        return Err(unusable("sslkey: none given, and no home directory"));
    };
    check_key_mode(&key)?;
    let pem = std::fs::read(&key).map_err(|error| unusable(format!("sslkey: {}: {error}", key.display())))?;
    // Without a password an encrypted key is refused; OpenSSL's own way is to ask at the terminal.
    let password = files.conninfo.given("sslpassword").unwrap_or_default();
    let private = PKey::private_key_from_pem_passphrase(&pem, password.as_bytes())
        .map_err(|error| wrong_file("sslkey", &key, &error))?;
    builder
        .set_private_key(&private)
        .and_then(|()| builder.check_private_key())
        .map_err(|error| wrong_file("sslkey", &key, &error))
}

/// libpq's rule: a key of root's may be readable by a group, anyone else's by nobody.
fn check_key_mode(key: &Path) -> Result<(), SessionError> {
    let metadata = std::fs::metadata(key).map_err(|error| unusable(format!("sslkey: {}: {error}", key.display())))?;
    if !metadata.is_file() {
        return Err(unusable(format!("sslkey: {} is not a regular file", key.display())));
    }
    let mode = metadata.mode() & 0o777;
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if mode & forbidden != 0 {
        return Err(unusable(format!(
            "sslkey: {} has mode {mode:04o}; it must be 0600 or less, or 0640 or less if root owns it",
            key.display()
        )));
    }
    Ok(())
}
