//! Sessions against real servers, and against listeners that only look like one.

#![allow(missing_docs, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use pg_ha_system::clock::Deadline;
use pg_ha_system::conninfo::ConnInfo;
use pg_ha_system::session::{Session, SessionError, quote_identifier, quote_literal};
use support::{Directory, Server, free_port, wait_until};

/// Time enough for a server that means to answer.
const AMPLE: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(400);
/// What a busy machine may add to a deadline.
const SLACK: Duration = Duration::from_millis(1500);

fn open(conninfo: &str) -> Result<Session, SessionError> {
    open_within(conninfo, AMPLE)
}

fn open_within(conninfo: &str, wait: Duration) -> Result<Session, SessionError> {
    let conninfo = ConnInfo::parse(conninfo).expect("a connection string");
    Session::open(&conninfo, Deadline::after(wait))
}

fn opened(conninfo: &str) -> Session {
    open(conninfo).unwrap_or_else(|error| panic!("{conninfo}: {error}"))
}

fn refused(conninfo: &str) -> SessionError {
    open(conninfo).expect_err(conninfo)
}

fn ask(session: &mut Session, sql: &str) -> String {
    let value = session.value(sql, Deadline::after(AMPLE));
    value.unwrap_or_else(|error| panic!("{sql}: {error}")).unwrap_or_else(|| "NULL".to_owned())
}

/// Runs it, and holds it to its deadline.
fn silent<T: std::fmt::Debug>(wait: Duration, work: impl FnOnce() -> Result<T, SessionError>) {
    let start = Instant::now();
    let error = work().expect_err("silence");
    let took = start.elapsed();
    assert!(matches!(error, SessionError::Silent { .. }), "{error:?}");
    assert!(took < wait + SLACK, "{took:?}");
}

#[test]
fn a_session_answers_in_text_and_knows_null() {
    let server = Server::start();
    for conninfo in [server.conninfo(), server.socket_conninfo()] {
        let mut session = opened(&conninfo);
        let sql = "SET application_name = 'pg-watch'; SELECT 1 AS one, NULL AS nothing, 'ä'; SELECT 'last'";
        let rows = session.rows(sql, Deadline::after(AMPLE)).expect("rows");
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].get(0), Some("1"));
        assert_eq!(rows[0].named("one"), Some("1"));
        assert_eq!(rows[0].named("nothing"), None);
        assert_eq!(rows[0].get(2), Some("ä"));
        assert_eq!(rows[1].get(0), Some("last"));
        assert_eq!(ask(&mut session, "SHOW application_name"), "pg-watch");
        // Which a transaction would not let through.
        session.rows("ALTER SYSTEM SET work_mem = '5MB'", Deadline::after(AMPLE)).expect("altered");
    }
    let conninfo = format!("{} application_name=first options='-c statement_timeout=1234'", server.conninfo());
    let mut session = opened(&conninfo);
    assert_eq!(ask(&mut session, "SHOW application_name"), "first");
    assert_eq!(ask(&mut session, "SHOW statement_timeout"), "1234ms");
}

#[test]
fn quoted_text_comes_back_as_it_was() {
    let server = Server::start();
    let mut session = opened(&server.conninfo());
    for setting in ["on", "off"] {
        let set = format!("SET standard_conforming_strings = {setting}");
        session.rows(&set, Deadline::after(AMPLE)).expect("set");
        for text in ["plain", "it's", r"\", r"\'; DROP TABLE x; --", "ä\n$$"] {
            assert_eq!(ask(&mut session, &format!("SELECT {}", quote_literal(text))), text);
            let sql = format!("SELECT 1 AS {}", quote_identifier(text));
            let rows = session.rows(&sql, Deadline::after(AMPLE)).expect("a row");
            assert_eq!(rows[0].columns(), [text]);
        }
    }
}

#[test]
fn a_failed_statement_leaves_the_session_good() {
    let server = Server::start();
    let mut session = opened(&server.conninfo());
    let error = session.rows("SELECT 1/0", Deadline::after(AMPLE)).expect_err("division by zero");
    assert!(matches!(&error, SessionError::Sql { sqlstate, .. } if sqlstate == "22012"), "{error:?}");
    assert!(error.server_lives() && !session.is_lost());
    assert_eq!(ask(&mut session, "SELECT 1"), "1");
}

#[test]
fn a_dropped_session_closes() {
    let server = Server::start();
    let session = opened(&format!("{} application_name=dropped", server.conninfo()));
    let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dropped'";
    assert_eq!(server.psql(count), "1");
    drop(session);
    wait_until("session closed", || server.psql(count) == "0");
    assert!(!server.log().contains("unexpected EOF"));
}

#[test]
fn a_server_that_accepts_and_says_nothing_does_not_hang_us() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a listener");
    let port = listener.local_addr().expect("its port").port();
    for sslmode in ["disable", "prefer", "require"] {
        let conninfo = format!("host=127.0.0.1 port={port} user=x sslmode={sslmode} sslrootcert=/nonexistent");
        silent(SHORT, || open_within(&conninfo, SHORT));
    }
    // Nothing of ours is left behind: each connection comes to its end.
    for _ in 0..3 {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.set_read_timeout(Some(AMPLE)).expect("a timeout set");
        stream.read_to_end(&mut Vec::new()).expect("the end of the connection");
    }
}

#[test]
fn a_server_that_stops_in_the_middle_of_a_handshake_is_silent() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a listener");
    let port = listener.local_addr().expect("its port").port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut request = [0; 8];
        stream.read_exact(&mut request).expect("an SSLRequest");
        stream.write_all(b"S").expect("yes to TLS");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    });
    silent(SHORT, || open_within(&format!("host=127.0.0.1 port={port} user=x"), SHORT));
    // It sees the end of the connection: nothing of ours is left behind.
    server.join().expect("the connection closed");
}

#[test]
fn a_stopped_server_is_silent_not_refused() {
    let server = Server::start();
    let mut session = opened(&server.conninfo());
    server.freeze();
    silent(SHORT, || open_within(&server.conninfo(), SHORT));
    silent(SHORT, || open_within(&server.socket_conninfo(), SHORT));
    silent(SHORT, || session.rows("SELECT 1", Deadline::after(SHORT)));
    server.thaw();
    // Whatever it says now is the answer to an old question.
    assert!(session.is_lost());
    let error = session.rows("SELECT 1", Deadline::after(AMPLE)).expect_err("lost");
    assert!(matches!(error, SessionError::Lost { .. }), "{error:?}");
    opened(&server.conninfo());
}

#[test]
fn a_statement_that_outlives_its_deadline_loses_the_session() {
    let server = Server::start();
    let mut session = opened(&server.conninfo());
    silent(SHORT, || session.rows("SELECT pg_sleep(3)", Deadline::after(SHORT)));
    assert!(session.is_lost());
}

#[test]
fn nobody_at_the_port_is_refused() {
    let error = refused(&format!("host=127.0.0.1 port={} user=x", free_port()));
    assert!(matches!(error, SessionError::Refused { .. }), "{error:?}");
    let directory = Directory::new();
    let error = refused(&format!("host={} user=x", directory.path().display()));
    assert!(matches!(error, SessionError::Refused { .. }), "{error:?}");
    assert!(!error.server_lives());
}

#[test]
fn a_name_without_an_address_is_unreachable() {
    let error = refused("host=no-such-host.invalid user=x");
    assert!(matches!(error, SessionError::Unreachable { .. }), "{error:?}");
}

#[test]
fn a_starting_server_is_alive() {
    let mut server = Server::create();
    // A standby that never finds the end of its backup stays "starting up" for as long as one looks.
    server.configure("hot_standby = off\nprimary_conninfo = 'host=127.0.0.1 port=1'");
    std::fs::write(server.data().join("standby.signal"), "").expect("standby.signal");
    support::give_to_server(&server.data().join("standby.signal"));
    server.launch();
    let mut error = None;
    wait_until("server that is starting", || {
        error = open(&server.conninfo()).err();
        !matches!(error, Some(SessionError::Refused { .. }))
    });
    let error = error.expect("no session");
    assert!(matches!(error, SessionError::Starting { .. }), "{error:?}");
    assert!(error.server_lives());
    assert_eq!(error.sqlstate(), Some("57P03"));
}

#[test]
fn a_server_that_shuts_down_is_alive() {
    let server = Server::start();
    let mut session = opened(&server.conninfo());
    // A smart shutdown waits for the session, and takes no new one.
    server.signal("TERM");
    let mut error = None;
    wait_until("server that shuts down", || {
        error = open(&server.conninfo()).err();
        error.is_some()
    });
    let error = error.expect("no session");
    assert!(matches!(error, SessionError::ShuttingDown { .. }), "{error:?}");
    assert!(error.server_lives());
    assert_eq!(ask(&mut session, "SELECT 1"), "1");
}

#[test]
fn too_many_connections_and_a_wrong_name_are_alive() {
    let mut server = Server::create();
    server.configure("max_connections = 3\nsuperuser_reserved_connections = 0\nmax_wal_senders = 0");
    server.run();
    let error = refused(&format!("{} dbname=nowhere", server.conninfo()));
    assert!(matches!(&error, SessionError::Alive { sqlstate, .. } if sqlstate == "3D000"), "{error:?}");
    let mut sessions = Vec::new();
    let error = loop {
        match open(&server.conninfo()) {
            Ok(session) => sessions.push(session),
            Err(error) => break error,
        }
        assert!(sessions.len() <= 3);
    };
    assert!(matches!(&error, SessionError::Alive { sqlstate, .. } if sqlstate == "53300"), "{error:?}");
    assert!(error.server_lives());
}

#[test]
fn what_is_no_postgresql_is_alive_and_gives_no_session() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a listener");
    let port = listener.local_addr().expect("its port").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.expect("a connection").write_all(b"?\0\0\0\x04");
        }
    });
    let error = refused(&format!("host=127.0.0.1 port={port} user=x sslmode=disable"));
    assert!(matches!(&error, SessionError::Alive { sqlstate, .. } if sqlstate == "08P01"), "{error:?}");
}

#[test]
fn a_connection_that_breaks_is_lost() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a listener");
    let port = listener.local_addr().expect("its port").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            drop::<TcpStream>(stream.expect("a connection"));
        }
    });
    for sslmode in ["disable", "prefer"] {
        let error = refused(&format!("host=127.0.0.1 port={port} user=x sslmode={sslmode}"));
        assert!(matches!(error, SessionError::Lost { .. }), "{error:?}");
    }
}

#[test]
fn the_death_of_the_server_is_noticed_without_asking() {
    let mut server = Server::start();
    let mut session = opened(&server.conninfo());
    server.stop();
    wait_until("session lost", || session.is_lost());
    let error = session.rows("SELECT 1", Deadline::after(AMPLE)).expect_err("lost");
    assert!(matches!(error, SessionError::Lost { .. }), "{error:?}");
}

#[test]
fn a_terminated_backend_says_why() {
    let server = Server::start();
    let mut session = opened(&server.conninfo());
    let sql = "SELECT pg_terminate_backend(pg_backend_pid())";
    let error = session.rows(sql, Deadline::after(AMPLE)).expect_err("terminated");
    assert!(matches!(&error, SessionError::Lost { message, .. } if message.contains("57P01")), "{error:?}");
    let again = session.rows("SELECT 1", Deadline::after(AMPLE)).expect_err("lost");
    assert!(again.to_string().contains("57P01"), "{again}");
}

#[test]
fn the_next_host_is_tried_within_the_same_deadline() {
    let server = Server::start();
    let silent_one = TcpListener::bind(("127.0.0.1", 0)).expect("a listener");
    let ports = format!("{},{},{}", free_port(), silent_one.local_addr().expect("a port").port(), server.port());
    let conninfo = format!("host=127.0.0.1,127.0.0.1,127.0.0.1 port={ports} user=postgres dbname=postgres");
    let start = Instant::now();
    let session = open_within(&conninfo, Duration::from_secs(2)).expect("the third");
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(session.server(), format!("127.0.0.1:{}", server.port()));
}

#[test]
fn of_several_failures_the_one_with_most_life_is_told() {
    let server = Server::start();
    let conninfo =
        format!("host=127.0.0.1,127.0.0.1 port={},{} user=postgres dbname=nowhere", server.port(), free_port());
    let error = refused(&conninfo);
    assert!(matches!(&error, SessionError::Alive { sqlstate, .. } if sqlstate == "3D000"), "{error:?}");
}

#[test]
fn target_session_attrs_finds_the_primary_and_the_standby() {
    let primary = Server::start();
    let standby = primary.standby();
    let hosts = |first: &Server, second: &Server| {
        format!("host=127.0.0.1,127.0.0.1 port={},{} user=postgres dbname=postgres", first.port(), second.port())
    };
    let both = hosts(&standby, &primary);
    for (attrs, port) in [
        ("any", standby.port()),
        ("read-write", primary.port()),
        ("primary", primary.port()),
        ("standby", standby.port()),
        ("read-only", standby.port()),
        ("prefer-standby", standby.port()),
    ] {
        let session = opened(&format!("{both} target_session_attrs={attrs}"));
        assert_eq!(session.server(), format!("127.0.0.1:{port}"), "{attrs}");
    }
    let session = opened(&format!("{} target_session_attrs=prefer-standby", primary.conninfo()));
    assert_eq!(session.server(), format!("127.0.0.1:{}", primary.port()));
    let error = refused(&format!("{} target_session_attrs=standby", primary.conninfo()));
    assert!(error.server_lives(), "{error:?}");
}

/// A server that asks `pgha` for a password.
fn server_with_password(password: &str) -> Server {
    let server = Server::start();
    server.psql(&format!("CREATE ROLE pgha LOGIN PASSWORD '{password}'"));
    server.hba("host all all 127.0.0.1/32 scram-sha-256");
    server
}

fn pgha(server: &Server) -> String {
    format!("host=127.0.0.1 port={} user=pgha dbname=postgres", server.port())
}

#[test]
fn a_scram_password_comes_from_the_passfile() {
    let server = server_with_password("s3cr:et");
    let line = format!("127.0.0.1:{}:postgres:pgha:s3cr\\:et\n", server.port());
    let passfile = server.directory().write("passfile", line.as_bytes(), 0o600);
    let conninfo = format!("{} passfile={}", pgha(&server), passfile.display());
    assert_eq!(ask(&mut opened(&conninfo), "SELECT current_user"), "pgha");
    opened(&format!("{} password=s3cr:et", pgha(&server)));
}

#[test]
fn a_world_readable_passfile_is_ignored() {
    let server = server_with_password("s3cret");
    let passfile = server.directory().write("passfile", b"*:*:*:*:s3cret\n", 0o644);
    let error = refused(&format!("{} passfile={}", pgha(&server), passfile.display()));
    assert!(matches!(&error, SessionError::Alive { sqlstate, .. } if sqlstate == "28P01"), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("0644") && text.contains(&passfile.display().to_string()), "{text}");
}

#[test]
fn a_wrong_password_is_alive_and_not_shown() {
    let server = server_with_password("right");
    let error = refused(&format!("{} password=s3cret", pgha(&server)));
    assert!(matches!(&error, SessionError::Alive { sqlstate, .. } if sqlstate == "28P01"), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("s3cret"));
}

#[test]
fn requirepeer_refuses_a_server_of_someone_else() {
    let server = Server::start();
    let owner = std::fs::metadata(server.data()).map(|data| std::os::unix::fs::MetadataExt::uid(&data));
    let owner = nix::unistd::User::from_uid(owner.expect("its owner").into()).expect("asked").expect("a name").name;
    opened(&format!("{} requirepeer={owner}", server.socket_conninfo()));
    let error = refused(&format!("{} requirepeer=daemon", server.socket_conninfo()));
    assert!(error.server_lives() && error.to_string().contains("requirepeer"), "{error:?}");
}

#[test]
fn keepalives_are_on_without_being_asked_for() {
    let server = Server::start();
    let timers = |conninfo: &str| {
        let _session = opened(conninfo);
        let peer = format!("127.0.0.1:{}", server.port());
        let output = Command::new("ss").args(["-tnoH", "dst", &peer]).output().expect("ss (iproute2) is needed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(timers(&server.conninfo()).contains("keepalive"));
}

/// Certificates made for one test, with OpenSSL's own program.
struct Certificates {
    directory: Directory,
}

impl Certificates {
    fn new() -> Self {
        let certificates = Self { directory: Directory::new() };
        certificates.openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=ca");
        certificates.openssl("req -x509 -newkey rsa:2048 -nodes -keyout other.key -out other.crt -days 2 -subj /CN=o");
        certificates.issue("server", "/CN=pg1", "DNS:localhost,IP:127.0.0.9");
        certificates.issue("pgha", "/CN=pgha", "DNS:pgha");
        certificates
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(self.directory.path())
            .output()
            .expect("these tests need the openssl program");
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn issue(&self, name: &str, subject: &str, alternative: &str) {
        self.openssl(&format!("req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj {subject}"));
        self.directory.write("extensions", format!("subjectAltName={alternative}\n").as_bytes(), 0o644);
        self.openssl(
            &format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out {name}.crt -days 2 \
             -extfile extensions"
            )
            .replace("             ", ""),
        );
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn contents(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).expect(name)
    }

    /// A file with another mode, for those who look at it.
    fn copy(&self, name: &str, mode: u32) -> String {
        let contents = self.contents(name);
        self.directory.write(&format!("{mode:o}-{name}"), &contents, mode).display().to_string()
    }
}

/// A server that speaks TLS; `hba` lines come after the one for the socket.
fn tls_server(certificates: &Certificates, hba: &str) -> Server {
    let mut server = Server::create();
    server.directory().write("server.crt", &certificates.contents("server.crt"), 0o644);
    server.directory().write("server.key", &certificates.contents("server.key"), 0o600);
    server.directory().write("ca.crt", &certificates.contents("ca.crt"), 0o644);
    let directory = server.directory().path().display().to_string();
    server.configure(&format!(
        "ssl = on\nssl_cert_file = '{directory}/server.crt'\nssl_key_file = '{directory}/server.key'\n\
         ssl_ca_file = '{directory}/ca.crt'"
    ));
    server.hba(hba);
    server.run();
    server
}

const IS_TLS: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

#[test]
fn sslmode_means_what_it_means_to_libpq() {
    let certificates = Certificates::new();
    let server = tls_server(&certificates, "host all all 127.0.0.1/32 trust");
    let ca = certificates.path("ca.crt").display().to_string();
    let other = certificates.path("other.crt").display().to_string();
    let conninfo = |host: &str, sslmode: &str, root: &str| {
        format!("{} host={host} sslmode={sslmode} sslrootcert={root}", server.conninfo())
    };
    let none = "/nonexistent/root.crt";
    for (host, sslmode, root, tls) in [
        ("localhost", "disable", &*ca, "f"),
        ("localhost", "allow", &ca, "f"),
        ("localhost", "prefer", &ca, "t"),
        ("localhost", "prefer", none, "t"),
        // As libpq: what cannot be verified is not spoken to with TLS, and `prefer` then does without.
        ("localhost", "prefer", &other, "f"),
        ("127.0.0.1", "require", none, "t"),
        ("127.0.0.1", "require", &ca, "t"),
        ("127.0.0.1", "verify-ca", &ca, "t"),
        ("localhost", "verify-full", &ca, "t"),
    ] {
        let conninfo = conninfo(host, sslmode, root);
        assert_eq!(ask(&mut opened(&conninfo), IS_TLS), tls, "{conninfo}");
    }
    for (host, sslmode, root) in
        [("localhost", "require", &*other), ("localhost", "verify-ca", &other), ("localhost", "verify-full", &other)]
    {
        let conninfo = conninfo(host, sslmode, root);
        let error = refused(&conninfo);
        assert!(matches!(&error, SessionError::Alive { sqlstate, .. } if sqlstate == "08001"), "{conninfo}: {error:?}");
        assert!(error.to_string().contains("certificate verify failed"), "{error}");
    }
    for sslmode in ["verify-ca", "verify-full"] {
        let error = refused(&conninfo("localhost", sslmode, none));
        assert!(matches!(&error, SessionError::Config { message } if message.contains(none)), "{error:?}");
    }
    // The system's roots do not know our CA.
    let error = refused(&format!("{} host=localhost sslrootcert=system", server.conninfo()));
    assert!(matches!(error, SessionError::Alive { .. }), "{error:?}");
    let error = refused(&conninfo("localhost", "require", "system"));
    assert!(matches!(error, SessionError::Config { .. }), "{error:?}");
    // A Unix socket never has TLS, and is not held against for it.
    let socket = format!("{} sslmode=verify-full sslrootcert={none}", server.socket_conninfo());
    assert_eq!(ask(&mut opened(&socket), IS_TLS), "f");
}

#[test]
fn verify_full_refuses_a_wrong_host_name() {
    let certificates = Certificates::new();
    let server = tls_server(&certificates, "host all all 127.0.0.1/32 trust");
    let ca = certificates.path("ca.crt").display().to_string();
    // Connects to the same place each time; only the name it is known by differs.
    let named = |host: &str| {
        format!(
            "host={host} hostaddr=127.0.0.1 port={} user=postgres dbname=postgres sslmode=verify-full sslrootcert={ca}",
            server.port()
        )
    };
    opened(&named("localhost"));
    opened(&named("127.0.0.9"));
    // pg1 is the common name, which does not count beside alternative names.
    for wrong in ["elsewhere", "127.0.0.1", "pg1", "localhost.example"] {
        let error = refused(&named(wrong));
        assert!(matches!(&error, SessionError::Alive { sqlstate, .. } if sqlstate == "08001"), "{wrong}: {error:?}");
    }
    let nameless = named("x").replace("host=x ", "");
    assert!(matches!(refused(&nameless), SessionError::Config { .. }));
}

#[test]
fn a_server_without_tls_is_refused_where_tls_is_required() {
    let server = Server::start();
    let error = refused(&format!("{} sslmode=require", server.conninfo()));
    assert!(matches!(&error, SessionError::Alive { sqlstate, .. } if sqlstate == "08001"), "{error:?}");
    for sslmode in ["prefer", "allow"] {
        opened(&format!("{} sslmode={sslmode}", server.conninfo()));
    }
}

#[test]
fn allow_and_prefer_try_the_other_way_where_pg_hba_wants_it() {
    let certificates = Certificates::new();
    let server = tls_server(&certificates, "hostssl all all 127.0.0.1/32 trust");
    let conninfo = format!("{} sslrootcert=/nonexistent", server.conninfo());
    assert_eq!(ask(&mut opened(&format!("{conninfo} sslmode=allow")), IS_TLS), "t");
    server.hba("hostnossl all all 127.0.0.1/32 trust");
    assert_eq!(ask(&mut opened(&format!("{conninfo} sslmode=prefer")), IS_TLS), "f");
    server.hba("");
    let error = refused(&format!("{conninfo} sslmode=prefer"));
    assert!(matches!(&error, SessionError::Alive { sqlstate, .. } if sqlstate == "28000"), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("SSL encryption") && text.contains("no encryption"), "{text}");
}

#[test]
fn a_client_certificate_is_shown_and_its_key_kept() {
    let certificates = Certificates::new();
    let server = tls_server(&certificates, "hostssl all all 127.0.0.1/32 cert");
    server.psql("CREATE ROLE pgha LOGIN");
    let cert = certificates.path("pgha.crt").display().to_string();
    let with = |cert: &str, key: &str| {
        format!("{} sslmode=require sslrootcert=/nonexistent sslcert={cert} sslkey={key}", pgha(&server))
    };
    let good_key = certificates.copy("pgha.key", 0o600);
    assert_eq!(ask(&mut opened(&with(&cert, &good_key)), "SELECT current_user"), "pgha");

    let open_key = certificates.copy("pgha.key", 0o644);
    let error = refused(&with(&cert, &open_key));
    assert!(matches!(&error, SessionError::Config { message } if message.contains("0644")), "{error:?}");
    let error = refused(&with(&cert, &certificates.copy("other.key", 0o600)));
    assert!(matches!(error, SessionError::Config { .. }), "{error:?}");
    let error = refused(&with("/nonexistent/cert", &good_key));
    assert!(matches!(error, SessionError::Config { .. }), "{error:?}");

    // One that the server's CA has not signed: TLS 1.3 says so only after the handshake.
    for version in ["TLSv1.2", "TLSv1.3"] {
        let other = with(&certificates.copy("other.crt", 0o644), &certificates.copy("other.key", 0o600));
        let error = refused(&format!("{other} ssl_max_protocol_version={version}"));
        // With 1.3 the server may be gone before its objection is read.
        let lost = version == "TLSv1.3" && matches!(error, SessionError::Lost { .. });
        assert!(lost || matches!(error, SessionError::Alive { .. }), "{version}: {error:?}");
    }

    certificates.openssl("rsa -aes128 -passout pass:s3cret -in pgha.key -out locked.key");
    let locked = certificates.copy("locked.key", 0o600);
    opened(&format!("{} sslpassword=s3cret", with(&cert, &locked)));
    for password in ["", "sslpassword=wr0ng"] {
        let error = refused(&format!("{} {password}", with(&cert, &locked)));
        assert!(matches!(error, SessionError::Config { .. }), "{error:?}");
        assert!(!format!("{error:?}").contains("wr0ng"));
    }
}

#[test]
fn a_revoked_certificate_is_refused() {
    let certificates = Certificates::new();
    let server = tls_server(&certificates, "host all all 127.0.0.1/32 trust");
    let ca = certificates.path("ca.crt").display().to_string();
    certificates.directory.write("index.txt", b"", 0o644);
    certificates.directory.write("crlnumber", b"01\n", 0o644);
    let settings = "[ca]\ndefault_ca=own\n[own]\ndatabase=index.txt\ncrlnumber=crlnumber\ndefault_md=sha256\n\
                    default_crl_days=2\ncertificate=ca.crt\nprivate_key=ca.key\n";
    certificates.directory.write("ca.conf", settings.as_bytes(), 0o644);
    let conninfo = format!(
        "{} host=localhost sslmode=verify-full sslrootcert={ca} sslcrl={}",
        server.conninfo(),
        certificates.path("ca.crl").display()
    );
    assert!(matches!(refused(&conninfo), SessionError::Config { .. }));
    certificates.openssl("ca -config ca.conf -gencrl -out ca.crl");
    opened(&conninfo);
    certificates.openssl("ca -config ca.conf -revoke server.crt");
    certificates.openssl("ca -config ca.conf -gencrl -out ca.crl");
    let error = refused(&conninfo);
    assert!(error.to_string().contains("revoked"), "{error:?}");
}

#[test]
fn channel_binding_is_done_over_tls_and_missed_without() {
    let certificates = Certificates::new();
    let server = tls_server(&certificates, "host all all 127.0.0.1/32 scram-sha-256");
    server.psql("CREATE ROLE pgha LOGIN PASSWORD 's3cret'");
    let conninfo = format!("{} password=s3cret sslrootcert=/nonexistent channel_binding=require", pgha(&server));
    opened(&format!("{conninfo} sslmode=require"));
    let error = refused(&format!("{conninfo} sslmode=disable"));
    assert!(error.server_lives(), "{error:?}");
}
