//! `pg-cluster init`: the role, its rights, and the first term.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::unistd::User;
use pg_ha_rules::exit::{Exit, Refusal};
use pg_ha_rules::term::{self, Truth};
use pg_ha_system::clock::Deadline;
use pg_ha_system::command;
use pg_ha_system::node::Node;
use pg_ha_system::observe::observe;
use pg_ha_system::passfile::{self, Login};
use pg_ha_system::session::{Session, quote_identifier, quote_literal};
use pg_ha_system::votes::{self, Own};

pub(crate) fn init(node: &Node) -> anyhow::Result<Exit> {
    if !nix::unistd::getuid().is_root() {
        log::error!("pg-cluster init makes a role as PostgreSQL's own user: run it as root");
        return Ok(Exit::Environment);
    }
    if node.has_server() && node.cluster.postgres.data.join("standby.signal").exists() {
        log::error!("this server is a standby: its roles are its primary's; run pg-cluster init there");
        return Ok(Exit::Environment);
    }
    make_role(node)?;
    if !node.has_server() {
        log::info!("{} is a voter now", node.me);
        return Ok(Exit::Ok);
    }
    let evidence = observe(node, Deadline::after(Duration::from_secs(5)));
    let majority = node.cluster.majority();
    match term::truth_of(&evidence, majority) {
        Truth::None => {}
        Truth::Held(term) => {
            log::info!("the cluster has term {term} already; nothing to do");
            return Ok(Exit::Ok);
        }
        Truth::Undecided | Truth::Unknown => {
            for (voter, sight) in &evidence.voters {
                log::error!("{voter}: {sight}");
            }
            let reason = Refusal::NoMajority;
            log::error!("refused: {} Run pg-cluster init on the witnesses first", reason.meaning());
            return Ok(Exit::Refused(reason));
        }
    }
    let first = term::next(&evidence, &node.me);
    let deadline = Deadline::after(Duration::from_secs(5));
    let own = node.voters.get(&node.me).context("this machine is no voter")?;
    let mut session = Session::open(own, deadline)?;
    let votes = votes::bid(node, &evidence, &first, Own::Server(&mut session), deadline);
    if !votes::won(&votes, majority) {
        bail!("term {first} was not stored at a majority: {votes:?}");
    }
    log::info!("the cluster {} has its first term, {first}; start pg-watch", node.cluster.cluster);
    Ok(Exit::Ok)
}

/// Makes the role of this node's own connection string, with the password that its passfile holds.
fn make_role(node: &Node) -> anyhow::Result<()> {
    let own = node.voters.get(&node.me).context("this machine is no voter")?;
    let endpoint = own.endpoints()?.into_iter().next().context("the conninfo names no server")?;
    let role = own.given("user").context("the conninfo names no user")?;
    let database = own.given("dbname").unwrap_or("postgres");
    let login = Login { host: &endpoint.passfile_host(), port: endpoint.port, database, user: role };
    let password = match own.given("passfile") {
        Some(path) => passfile::look_up(Path::new(path), login)?,
        None => None,
    };
    let password = password.map(|password| String::from_utf8_lossy(password.reveal()).into_owned());
    let sql = sql(node, role, password.as_deref());
    let user =
        if node.has_server() { command::owner_of(&node.cluster.postgres.data) } else { User::from_name("postgres")? };
    let user = user.context("cannot tell which user PostgreSQL runs as")?;
    let port = endpoint.port.to_string();
    let arguments = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-p", &port, "-d", database, "-f", "-"];
    let deadline = Deadline::after(Duration::from_secs(30));
    command::run(Path::new("/usr/bin/psql"), &arguments, Some(&user), &sql, deadline)
        .context("cannot make the role")?;
    let Some(repmgr) = node.cluster.repmgr.as_ref().filter(|_| node.has_server()) else { return Ok(()) };
    let grants = format!(
        "GRANT USAGE ON SCHEMA repmgr TO {role};
         GRANT SELECT, INSERT, UPDATE ON repmgr.nodes, repmgr.events TO {role};",
        role = quote_identifier(role)
    );
    let arguments = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-p", &port, "-d", &repmgr.database, "-f", "-"];
    command::run(Path::new("/usr/bin/psql"), &arguments, Some(&user), &grants, deadline)
        .context("cannot grant the rights on repmgr's tables; is its extension there?")?;
    Ok(())
}

/// Every right is one that a step of ours needs, and none is a superuser's.
fn sql(node: &Node, role: &str, password: Option<&str>) -> String {
    let (name, text) = (quote_identifier(role), quote_literal(role));
    let password = password
        .map_or_else(String::new, |password| format!("ALTER ROLE {name} PASSWORD {};\n", quote_literal(password)));
    let rewinder = quote_identifier(&node.cluster.postgres.replication_user);
    let rewind = if node.has_server() {
        format!(
            "GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean),
                 pg_read_binary_file(text), pg_read_binary_file(text, bigint, bigint, boolean) TO {rewinder};\n"
        )
    } else {
        String::new()
    };
    format!(
        "DO $$ BEGIN
           IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {text}) THEN CREATE ROLE {name}; END IF;
         END $$;
         ALTER ROLE {name} LOGIN REPLICATION;
         {password}
         GRANT pg_monitor, pg_read_all_settings, pg_checkpoint TO {name};
         GRANT SET, ALTER SYSTEM ON PARAMETER pgha.term TO {name};
         GRANT ALTER SYSTEM ON PARAMETER primary_conninfo, primary_slot_name TO {name};
         GRANT SELECT ON pg_file_settings TO {name};
         GRANT EXECUTE ON FUNCTION pg_show_all_file_settings(), pg_reload_conf(), pg_promote(boolean, integer) TO {name};
         {rewind}"
    )
}
