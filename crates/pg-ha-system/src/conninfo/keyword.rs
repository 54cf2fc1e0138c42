//! The keywords that libpq 15, 16 and 17 know (`PQconninfoOptions` in fe-connect.c), in the order we write them.

pub(super) struct Keyword {
    pub(super) name: &'static str,
    /// The variable that stands in for it.
    pub(super) variable: Option<&'static str>,
    /// Never shown.
    pub(super) secret: bool,
}

const fn plain(name: &'static str) -> Keyword {
    Keyword { name, variable: None, secret: false }
}

const fn from(name: &'static str, variable: &'static str) -> Keyword {
    Keyword { name, variable: Some(variable), secret: false }
}

pub(super) const KEYWORDS: &[Keyword] = &[
    from("host", "PGHOST"),
    from("hostaddr", "PGHOSTADDR"),
    from("port", "PGPORT"),
    from("user", "PGUSER"),
    Keyword { name: "password", variable: Some("PGPASSWORD"), secret: true },
    from("passfile", "PGPASSFILE"),
    from("dbname", "PGDATABASE"),
    from("application_name", "PGAPPNAME"),
    plain("fallback_application_name"),
    from("options", "PGOPTIONS"),
    from("client_encoding", "PGCLIENTENCODING"),
    plain("replication"),
    from("target_session_attrs", "PGTARGETSESSIONATTRS"),
    from("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    from("connect_timeout", "PGCONNECT_TIMEOUT"),
    plain("keepalives"),
    plain("keepalives_idle"),
    plain("keepalives_interval"),
    plain("keepalives_count"),
    plain("tcp_user_timeout"),
    from("sslmode", "PGSSLMODE"),
    from("sslnegotiation", "PGSSLNEGOTIATION"),
    from("sslcompression", "PGSSLCOMPRESSION"),
    from("sslcert", "PGSSLCERT"),
    from("sslkey", "PGSSLKEY"),
    Keyword { name: "sslpassword", variable: None, secret: true },
    from("sslcertmode", "PGSSLCERTMODE"),
    from("sslrootcert", "PGSSLROOTCERT"),
    from("sslcrl", "PGSSLCRL"),
    from("sslcrldir", "PGSSLCRLDIR"),
    from("sslsni", "PGSSLSNI"),
    from("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    from("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    from("channel_binding", "PGCHANNELBINDING"),
    from("require_auth", "PGREQUIREAUTH"),
    from("requirepeer", "PGREQUIREPEER"),
    from("gssencmode", "PGGSSENCMODE"),
    from("krbsrvname", "PGKRBSRVNAME"),
    from("gsslib", "PGGSSLIB"),
    from("gssdelegation", "PGGSSDELEGATION"),
];

pub(super) fn is_secret(name: &str) -> bool {
    KEYWORDS.iter().any(|keyword| keyword.secret && keyword.name == name)
}
