//! What cluster.yaml's checks need of a connection string: where it leads, and whether it holds a password.
//!
//! A tolerant look, no parser: whether libpq would take the string is for pg-ha-system to say.

use std::net::IpAddr;

/// What a connection string says.
#[derive(Debug, Default)]
pub(super) struct Endpoint {
    /// The hosts, each with its port: an address in its shortest form, or a name in lower case.
    pub(super) hosts: Vec<(String, String)>,
    /// Does it leave the host to a service file?
    pub(super) service: bool,
    /// Does it hold a password?
    pub(super) password: bool,
}

impl Endpoint {
    /// The hosts that are addresses.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.hosts.iter().filter_map(|(host, _)| host.parse().ok())
    }
}

/// Looks at `conninfo`, in either of libpq's forms.
pub(super) fn of(conninfo: &str) -> Endpoint {
    let uri = ["postgresql://", "postgres://"].iter().find_map(|scheme| conninfo.trim_start().strip_prefix(scheme));
    let (pairs, password) = uri.map_or_else(|| (keywords(conninfo), false), uri_pairs);
    let get = |key| pairs.iter().rev().find(|(k, _)| k == key).map(|(_, value)| value.as_str());
    let hosts = get("hostaddr").or_else(|| get("host")).filter(|hosts| !hosts.is_empty());
    let ports: Vec<_> = get("port").unwrap_or_default().split(',').map(str::trim).collect();
    let port = |n: usize| match *ports.get(n).or(ports.first()).unwrap_or(&"") {
        "" => "5432".to_owned(),
        port => port.to_owned(),
    };
    Endpoint {
        hosts: hosts.map_or_else(Vec::new, |hosts| {
            hosts.split(',').enumerate().map(|(n, host)| (normal(host.trim()), port(n))).collect()
        }),
        service: get("service").is_some(),
        password: password || ["password", "sslpassword"].iter().any(|key| get(key).is_some()),
    }
}

fn normal(host: &str) -> String {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().map_or_else(|_| host.to_lowercase(), |ip| ip.to_canonical().to_string())
}

type Pairs = Vec<(String, String)>;

/// `key = 'value'` pairs, with spaces, quotes and backslashes as libpq reads them.
fn keywords(text: &str) -> Pairs {
    let mut pairs = Vec::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let (value, left) = value(after.trim_start());
        // Words before the key are an error of libpq's; the key counts all the same.
        pairs.push((key.split_whitespace().last().unwrap_or_default().to_owned(), value));
        rest = left;
    }
    pairs
}

fn value(text: &str) -> (String, &str) {
    let (quoted, body) = text.strip_prefix('\'').map_or((false, text), |body| (true, body));
    let mut value = String::new();
    let mut chars = body.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => value.extend(chars.next()),
            '\'' if quoted => break,
            c if !quoted && c.is_ascii_whitespace() => break,
            c => value.push(c),
        }
    }
    (value, chars.as_str())
}

/// The pairs of `[user[:password]@][host[:port][,…]][/database][?key=value&…]`, and whether a password stands before
/// the `@`.
fn uri_pairs(text: &str) -> (Pairs, bool) {
    // As libpq: an @ before the first / ends the login, whatever else stands in it.
    let login = text.split('/').next().and_then(|start| start.split_once('@')).map_or("", |(login, _)| login);
    let rest = text.strip_prefix(login).unwrap_or(text).trim_start_matches('@');
    let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
    let hosts = before.split('/').next().unwrap_or_default();
    let split = hosts.split(',').map(|host| match host.rsplit_once(':') {
        // The colons inside [::1] are no port's.
        Some((name, port)) if !port.ends_with(']') => (decoded(name), port),
        _ => (decoded(host), ""),
    });
    let (names, ports): (Vec<_>, Vec<_>) = split.unzip();
    let mut pairs = vec![("host".to_owned(), names.join(",")), ("port".to_owned(), ports.join(","))];
    let parameters = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.extend(parameters.map(|(key, value)| (decoded(key), decoded(value))));
    (pairs, login.split_once(':').is_some_and(|(_, password)| !password.is_empty()))
}

/// `text` with its `%20` and the like read; what is no such escape stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let escape = after.get(..2).filter(|_| *first == b'%').and_then(|hex| str::from_utf8(hex).ok());
        let byte = escape.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
