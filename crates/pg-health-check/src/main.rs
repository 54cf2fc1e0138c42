//! pg-health-check: keepalived's one `vrrp_script`, and a role check for HAProxy and for people.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use pg_ha_rules::evidence::{Moment, Role, Sight};
use pg_ha_rules::exit::Exit;
use pg_ha_system::clock::{Deadline, now_boottime};
use pg_ha_system::files::Files;
use pg_ha_system::node::{CONFIG, Node};
use pg_ha_system::session::Session;
use pg_ha_system::{hook, observe};

/// Is pg-watch awake, so that this node's standing is true? No SQL, so no server can hold it up.
///
/// Whether the standing is 0 is not asked here: keepalived tracks that file itself, and sees it at once.
///
/// Exit 0: yes. Exit 1: no; the reason stands on stdout.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// cluster.yaml
    #[arg(long, default_value = CONFIG)]
    config: PathBuf,
    /// The name of this node; the short host name otherwise
    #[arg(long, env = "PG_HA_NODE")]
    node: Option<String>,
    /// Ask the server as well: is it the primary that holds the term, or a standby that streams?
    #[arg(long)]
    role: Option<Wanted>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Say no by then
    #[arg(long, value_parser = humantime::parse_duration, default_value = "800ms")]
    deadline: Duration,
}

#[derive(Clone, Copy, ValueEnum)]
enum Wanted {
    Primary,
    Standby,
}

fn main() {
    let arguments = Arguments::parse();
    let deadline = Deadline::after(arguments.deadline);
    // Whatever hangs (a disk, a mount): keepalived gets its answer. It reads nothing rightly but 0 and 1.
    std::thread::spawn(move || {
        std::thread::sleep(deadline.remaining());
        println!("no: no answer within the deadline");
        hook::exit(Exit::No)
    });
    let answer = check(&arguments, deadline);
    let (good, reason) = match &answer {
        Ok(reason) => (true, reason),
        Err(reason) => (false, reason),
    };
    if arguments.json {
        println!("{}", serde_json::json!({ "ok": good, "reason": reason }));
    } else {
        println!("{}: {reason}", if good { "yes" } else { "no" });
    }
    hook::exit(if good { Exit::Ok } else { Exit::No })
}

fn check(arguments: &Arguments, deadline: Deadline) -> Result<String, String> {
    let node = Node::load(&arguments.config, arguments.node.as_deref()).map_err(|error| error.to_string())?;
    let awake = awake(&node);
    match arguments.role {
        None => awake,
        Some(Wanted::Primary) => {
            let standing = Files::read_number(&node.files.standing());
            let awake = awake?;
            if standing == 0 {
                return Err(awake);
            }
            role(&node, Role::Primary, deadline).map(|server| format!("{awake}; {server}"))
        }
        Some(Wanted::Standby) => role(&node, Role::Standby, deadline),
    }
}

/// pg-watch's last turn: a standing file alone would go on saying yes when pg-watch is gone.
fn awake(node: &Node) -> Result<String, String> {
    let watch = node.files.watch().map_err(|error| error.to_string())?.ok_or("pg-watch has not run since the boot")?;
    let age = Moment(now_boottime()).since(watch.at);
    if age > node.timings.isolation_limit {
        return Err(format!("pg-watch's last turn was {:.1} s ago", age.as_secs_f64()));
    }
    Ok(format!("{}, standing {}: {}", watch.state, watch.standing, watch.why))
}

fn role(node: &Node, wanted: Role, deadline: Deadline) -> Result<String, String> {
    let conninfo = node.voters.get(&node.me).ok_or("this node is no voter")?;
    let deadline = deadline.or_earlier(Deadline::after(deadline.remaining().mul_f64(0.9)));
    let answer = Session::open(conninfo, deadline).and_then(|mut session| observe::ask(&mut session, None, deadline));
    let answer = answer.map_err(|error| format!("the server {}", observe::sight(&error)))?;
    if answer.role != wanted {
        return Err(format!("the server is a {}", if wanted == Role::Primary { "standby" } else { "primary" }));
    }
    if wanted == Role::Standby && answer.streams_from.is_none() {
        return Err("a standby that streams from nobody".to_owned());
    }
    Ok(format!("the server {}", Sight::Answered(answer)))
}
