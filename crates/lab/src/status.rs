//! What is up, as seen from outside and inside.

use anyhow::Result;
use serde::Serialize;

use crate::cgroup;
use crate::lab::Lab;
use crate::ready;
use crate::topology::Duty;

#[derive(Debug, Serialize)]
struct Line {
    name: &'static str,
    ip: &'static str,
    /// off, frozen or on
    power: &'static str,
    /// What its server says of itself; none of a witness, or when there is no answer.
    role: Option<&'static str>,
    address: bool,
}

/// Prints a line for each machine.
pub(crate) fn print(lab: &Lab, json: bool) -> Result<()> {
    let state = lab.must_be_up()?;
    let mut lines = Vec::new();
    for (host, duty) in state.topology.machines() {
        let machine = lab.machine(*host);
        let frozen = cgroup::is_frozen(machine.name);
        let on = machine.supervisor().is_some();
        let role = (on && !frozen && *duty == Duty::Node).then(|| ready::sql(&machine, "select pg_is_in_recovery()"));
        let role = role.as_deref().and_then(|answer| match answer {
            "t" => Some("standby"),
            "f" => Some("primary"),
            _ => None,
        });
        let power = if !on {
            "off"
        } else if frozen {
            "frozen"
        } else {
            "on"
        };
        let address = on && !frozen && ready::holds_address(&machine);
        lines.push(Line { name: host.name, ip: host.address, power, role, address });
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
        return Ok(());
    }
    for line in lines {
        let address = if line.address { "address" } else { "" };
        println!("{:10} {:12} {:7} {:8} {address}", line.name, line.ip, line.power, line.role.unwrap_or("-"));
    }
    Ok(())
}
