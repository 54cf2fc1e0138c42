//! Starting and stopping the PostgreSQL service, as systemd does it.

use std::path::Path;

use crate::clock::Deadline;
use crate::command::{self, CommandError};

/// `systemctl ACTION UNIT`.
pub fn systemctl(action: &str, unit: &str, deadline: Deadline) -> Result<(), CommandError> {
    command::run(Path::new("/usr/bin/systemctl"), &[action, unit], None, "", deadline).map(drop)
}
