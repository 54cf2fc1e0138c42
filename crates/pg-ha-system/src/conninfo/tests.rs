use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> ConnInfo {
    ConnInfo::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> ConnInfoError {
    ConnInfo::parse(text).expect_err(text)
}

fn pairs(conninfo: &ConnInfo) -> Vec<(&str, &str)> {
    KEYWORDS.iter().filter_map(|keyword| Some((keyword.name, conninfo.get(keyword.name)?))).collect()
}

fn places(text: &str) -> Vec<(Place, u16)> {
    let endpoints = parsed(text).endpoints().unwrap_or_else(|error| panic!("{text}: {error}"));
    endpoints.into_iter().map(|endpoint| (endpoint.place, endpoint.port)).collect()
}

fn name(name: &str) -> Place {
    Place::Name(name.to_owned())
}

#[test]
fn keyword_values_are_read_as_libpq_reads_them() {
    // Each was put to libpq 15's PQconninfoParse.
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("", &[]),
        ("  ", &[]),
        ("host=a port=1", &[("host", "a"), ("port", "1")]),
        ("host = a\tport\n=\n1", &[("host", "a"), ("port", "1")]),
        ("user='it''s'x=1", &[]),
        (r"user='it\'s \\ it'", &[("user", r"it's \ it")]),
        (r"user=a\ b dbname=c", &[("user", "a b"), ("dbname", "c")]),
        ("user='a'dbname=c", &[("user", "a"), ("dbname", "c")]),
        ("user=a'b", &[("user", "a'b")]),
        ("user= dbname=c", &[("user", "dbname=c")]),
        ("user=''", &[("user", "")]),
        (r"user=a\", &[("user", "a")]),
        ("host=a host=b", &[("host", "b")]),
        ("user=", &[("user", "")]),
        ("user=größe", &[("user", "größe")]),
    ];
    for (text, expected) in cases {
        match ConnInfo::parse(text) {
            Ok(conninfo) => assert_eq!(pairs(&conninfo), *expected, "{text}"),
            Err(error) => assert!(expected.is_empty(), "{text}: {error}"),
        }
    }
}

#[test]
fn uris_are_read_as_libpq_reads_them() {
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("postgresql://", &[]),
        ("postgres://", &[]),
        ("postgresql://h", &[("host", "h")]),
        ("postgresql://h:1/d", &[("host", "h"), ("port", "1"), ("dbname", "d")]),
        ("postgresql://u@h", &[("host", "h"), ("user", "u")]),
        ("postgresql://u:p%40w@h/", &[("host", "h"), ("user", "u"), ("password", "p@w")]),
        ("postgresql://:p@", &[("password", "p")]),
        ("postgresql:///d?host=/tmp&port=5433", &[("host", "/tmp"), ("port", "5433"), ("dbname", "d")]),
        ("postgresql://%2Fvar%2Frun/d", &[("host", "/var/run"), ("dbname", "d")]),
        ("postgresql://a:1,b:2,c/d", &[("host", "a,b,c"), ("port", "1,2,"), ("dbname", "d")]),
        ("postgresql://[::1]:5433,[fe80::2]/d", &[("host", "::1,fe80::2"), ("port", "5433,"), ("dbname", "d")]),
        ("postgresql://h?ssl=true", &[("host", "h"), ("sslmode", "require")]),
        ("postgresql://h/d?application_name=a%20b&", &[("host", "h"), ("dbname", "d"), ("application_name", "a b")]),
        ("postgresql://h?user=", &[("host", "h"), ("user", "")]),
        ("postgresql://u:p/x@h", &[("host", "u"), ("port", "p"), ("dbname", "x@h")]),
    ];
    for (text, expected) in cases {
        let conninfo = parsed(text);
        let mut expected = expected.to_vec();
        let order = |pair: &(&str, &str)| KEYWORDS.iter().position(|keyword| keyword.name == pair.0);
        expected.sort_by_key(order);
        assert_eq!(pairs(&conninfo), expected, "{text}");
    }
}

#[test]
fn what_libpq_refuses_is_refused_and_told_where() {
    assert_eq!(refused("host=a prot=1"), ConnInfoError::UnknownKeyword { keyword: "prot".to_owned(), position: 7 });
    assert_eq!(refused("host"), ConnInfoError::MissingEquals { position: 0 });
    assert_eq!(refused("host=a b c=1"), ConnInfoError::MissingEquals { position: 7 });
    assert_eq!(refused("user='a"), ConnInfoError::UnterminatedQuote { position: 5 });
    assert_eq!(refused(r"user='a\'"), ConnInfoError::UnterminatedQuote { position: 5 });
    assert_eq!(refused("host=a\0"), ConnInfoError::ZeroByte);
    assert_eq!(refused("service=main"), ConnInfoError::Service);
    assert_eq!(refused("postgresql://h?service=main"), ConnInfoError::Service);
    for text in [
        "postgresql://h?ssl=false",
        "postgresql://h?user",
        "postgresql://h?user=a=b",
        "postgresql://h?=a",
        "postgresql://[::1",
        "postgresql://[]",
        "postgresql://[::1]x",
        "postgresql://h/%zz",
        "postgresql://h/%1",
        "postgresql://h/%é",
        "postgresql://h/%00",
        "postgresql://h/%ff",
        "postgresql://u@x@h",
    ] {
        refused(text);
    }
}

#[test]
fn every_keyword_of_libpq_15_to_17_is_known() {
    for keyword in "user password passfile channel_binding connect_timeout dbname host hostaddr port client_encoding \
                    options application_name fallback_application_name keepalives keepalives_idle \
                    keepalives_interval keepalives_count tcp_user_timeout sslmode sslnegotiation sslcompression \
                    sslcert sslkey sslcertmode sslpassword sslrootcert sslcrl sslcrldir sslsni requirepeer \
                    require_auth ssl_min_protocol_version ssl_max_protocol_version gssencmode krbsrvname gsslib \
                    gssdelegation replication target_session_attrs load_balance_hosts"
        .split_whitespace()
    {
        parsed(&format!("{keyword}=x"));
    }
    assert_eq!(KEYWORDS.len(), 40);
}

#[test]
fn several_hosts_take_one_port_or_one_each() {
    assert_eq!(places("host=a,b,c port=5432,5432,5433"), [(name("a"), 5432), (name("b"), 5432), (name("c"), 5433)]);
    assert_eq!(places("host=a,b port=5433"), [(name("a"), 5433), (name("b"), 5433)]);
    assert_eq!(places("host=a,b port=,5433"), [(name("a"), 5432), (name("b"), 5433)]);
    assert_eq!(places("postgresql://a,b:5433"), [(name("a"), 5432), (name("b"), 5433)]);
    for text in ["host=a,b,c port=1,2", "host=a,b hostaddr=10.0.0.1", "host=a port=0", "host=a port=65536", "port=x"] {
        parsed(text).endpoints().expect_err(text);
    }
}

#[test]
fn a_directory_is_a_socket_and_hostaddr_needs_no_resolving() {
    assert_eq!(places("host=/run/pg"), [(Place::Socket(PathBuf::from("/run/pg")), 5432)]);
    assert_eq!(places("host=@pg"), [(Place::AbstractSocket("pg".to_owned()), 5432)]);
    let address = Place::Address("10.0.0.1".parse().expect("an address"));
    assert_eq!(places("host=a hostaddr=10.0.0.1"), [(address, 5432)]);
    parsed("hostaddr=pg1").endpoints().expect_err("a name");
}

#[test]
fn the_password_file_knows_hosts_by_libpqs_names() {
    let host = |text: &str| parsed(text).endpoints().expect("endpoints")[0].passfile_host();
    assert_eq!(host("host=/var/run/postgresql"), "localhost");
    assert_eq!(host(""), "localhost");
    assert_eq!(host("host=/tmp"), "/tmp");
    assert_eq!(host("host=a hostaddr=10.0.0.1"), "a");
    assert_eq!(host("hostaddr=10.0.0.1"), "10.0.0.1");
}

#[test]
fn the_environment_fills_only_what_was_not_given() {
    let environment = |name: &str| {
        let value = match name {
            "PGHOST" => "elsewhere",
            "PGPORT" => "5433",
            "PGPASSWORD" => "secret",
            "PGSSLMODE" => "verify-full",
            "PGAPPNAME" => "pg-watch",
            "PGCONNECT_TIMEOUT" => "3",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let conninfo = parsed("host=a").with_environment(environment).expect("filled");
    assert_eq!(
        conninfo.render(),
        "host=a port=5433 password=secret application_name=pg-watch connect_timeout=3 sslmode=verify-full"
    );
    let service = |name: &str| (name == "PGSERVICE").then(|| "main".to_owned());
    assert_eq!(ConnInfo::new().with_environment(service), Err(ConnInfoError::Service));
    let legacy = |name: &str| (name == "PGREQUIRESSL").then(|| "1".to_owned());
    assert_eq!(ConnInfo::new().with_environment(legacy).expect("filled").get("sslmode"), Some("require"));
}

#[test]
fn a_password_is_never_shown() {
    let conninfo = parsed("host=a password='s3cret word' sslpassword=s3cret");
    for shown in [conninfo.to_string(), format!("{conninfo:?}"), format!("{conninfo:#?}")] {
        assert!(!shown.contains("s3cret") && shown.contains("password=***"), "{shown}");
    }
    assert_eq!(conninfo.without_password().render(), "host=a");
    assert!(conninfo.render().contains("password='s3cret word'"));
}

#[test]
fn an_error_does_not_show_what_may_be_a_password() {
    for text in [
        "password=x s3cret",
        "password=x s3cret=1",
        "password='s3cret",
        "postgresql://u:s3cret%@h",
        "postgresql://u:x@s3cret@h",
        "postgresql://h?password=x&s3cret=1",
    ] {
        let error = refused(text);
        assert!(!error.to_string().contains("s3cret") && !format!("{error:?}").contains("s3cret"), "{error}");
    }
    let error = parsed("postgresql://u:s3cret/rest@h").endpoints().expect_err("the password as a port");
    assert!(!error.to_string().contains("s3cret"), "{error}");
}

#[test]
fn a_value_is_quoted_so_that_postgresql_reads_it_back() {
    let mut conninfo = ConnInfo::new();
    conninfo.set("host", "10.0.0.1").expect("known");
    conninfo.set("options", "-c search_path='a\\b'").expect("known");
    conninfo.set("dbname", "").expect("known");
    assert_eq!(conninfo.to_string(), r"host=10.0.0.1 dbname='' options='-c search_path=\'a\\b\''");
    assert_eq!(parsed(&conninfo.render()), conninfo);
    conninfo.set("hots", "a").expect_err("unknown");
    conninfo.set("user", "a\0").expect_err("a zero byte");
}

proptest! {
    #[test]
    fn what_is_rendered_is_read_back(
        values in proptest::collection::btree_map(0..KEYWORDS.len(), "[^\0]{0,12}", 0..8)
    ) {
        let mut conninfo = ConnInfo::new();
        for (keyword, value) in values {
            conninfo.set(KEYWORDS[keyword].name, value).expect("known");
        }
        prop_assert_eq!(ConnInfo::parse(&conninfo.render()).expect("read back"), conninfo);
    }

    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        if let Ok(conninfo) = ConnInfo::parse(&text) {
            let _ = conninfo.endpoints();
        }
    }

    #[test]
    fn no_text_like_a_connection_string_makes_it_panic(
        text in r"(postgresql://)?([a-z/:@?&=%,'\\ \[\]é0-9]|host=|port=|password=){0,24}"
    ) {
        if let Ok(conninfo) = ConnInfo::parse(&text) {
            let _ = conninfo.endpoints();
            prop_assert_eq!(ConnInfo::parse(&conninfo.render()), Ok(conninfo));
        }
    }
}
