//! The log: to stderr for a person, and to the journal's socket, since keepalived gives its scripts no stderr.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;

use log::{Level, LevelFilter, Log, Metadata, Record};

struct Both {
    stderr: env_logger::Logger,
    journal: Option<UnixDatagram>,
    program: &'static str,
}

impl Log for Both {
    fn enabled(&self, metadata: &Metadata) -> bool {
        self.stderr.enabled(metadata)
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        self.stderr.log(record);
        if let Some(journal) = &self.journal {
            let priority = match record.level() {
                Level::Error => 3,
                Level::Warn => 4,
                Level::Info => 6,
                Level::Debug | Level::Trace => 7,
            };
            let message = record.args().to_string().replace('\n', " ");
            let _ = journal.send(
                format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER={}\nMESSAGE={message}\n", self.program).as_bytes(),
            );
        }
    }

    fn flush(&self) {}
}

/// Starts the log of `program`; `RUST_LOG` sets its level, `info` otherwise.
pub fn start(program: &'static str) {
    let stderr = env_logger::Builder::new()
        .filter_level(LevelFilter::Info)
        // Servers' notices to our sessions.
        .filter_module("tokio_postgres", LevelFilter::Warn)
        .parse_default_env()
        .format(move |out, record| {
            writeln!(out, "{program}: {}: {}", record.level().as_str().to_lowercase(), record.args())
        })
        .build();
    // Under systemd stderr is the journal already: saying it twice helps nobody.
    let journal = (!stderr_is_journal()).then(journal_socket).flatten();
    let most = stderr.filter();
    if log::set_boxed_logger(Box::new(Both { stderr, journal, program })).is_ok() {
        log::set_max_level(most);
    }
}

/// keepalived hands its variables on to its scripts, but not its stderr: so it is the stream itself that is compared.
fn stderr_is_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|stderr| named == format!("{}:{}", stderr.dev(), stderr.ino()))
}

fn journal_socket() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    // A journal that does not read must not hold up a failover.
    socket.set_nonblocking(true).ok()?;
    socket.connect("/run/systemd/journal/socket").ok()?;
    Some(socket)
}
