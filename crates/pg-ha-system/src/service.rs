//! Starting and stopping PostgreSQL: by its systemd unit, or by `pg_ctl` where there is none.

use std::path::Path;
use std::time::Duration;

use pg_ha_rules::config::Postgres;

use crate::clock::Deadline;
use crate::command::{self, CommandError};

/// How long a start or a stop may take: a recovery, a last checkpoint.
const LIMIT: Duration = Duration::from_secs(90);

/// Starts the server and waits until it is started.
pub fn start(postgres: &Postgres) -> Result<(), CommandError> {
    control(postgres, "start", &[])
}

/// Stops the server and waits until it is stopped.
pub fn stop(postgres: &Postgres) -> Result<(), CommandError> {
    control(postgres, "stop", &["-m", "fast"])
}

fn control(postgres: &Postgres, action: &str, how: &[&str]) -> Result<(), CommandError> {
    let deadline = Deadline::after(LIMIT);
    if let Some(unit) = &postgres.service {
        return command::run(Path::new("/usr/bin/systemctl"), &[action, unit], None, "", deadline).map(drop);
    }
    let (data, seconds) = (postgres.data.display().to_string(), LIMIT.as_secs().to_string());
    let log = format!("{data}/pg_ctl.log");
    let wanted = [&[action, "-D", &data, "-w", "-t", &seconds, "-l", &log], how].concat();
    let (program, owner) = (postgres.bin.join("pg_ctl"), command::owner_of(&postgres.data));
    match command::run(&program, &wanted, owner.as_ref(), "", deadline) {
        // Nothing to stop is what was wanted.
        Err(_) if action == "stop" && !postgres.data.join("postmaster.pid").exists() => Ok(()),
        done => done.map(drop),
    }
}
