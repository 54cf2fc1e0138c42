//! repmgr's metadata, kept right over SQL: `repmgr cluster show` reads it on every node.

use pg_ha_rules::names::NodeName;

use crate::clock::Deadline;
use crate::node::Node;
use crate::session::{Session, SessionError};

/// On the new primary: it is the primary now, and the others follow it as soon as they do.
pub fn promoted(node: &Node, deadline: Deadline) -> Result<(), SessionError> {
    let Some(id) = node.cluster.node(&node.me).map(|own| own.id) else { return Ok(()) };
    write(
        node,
        &node.me,
        &format!(
            "UPDATE repmgr.nodes SET active = false WHERE type = 'primary' AND node_id <> {id};
             UPDATE repmgr.nodes SET upstream_node_id = {id} WHERE type = 'standby' AND node_id <> {id};
             WITH changed AS (
                 UPDATE repmgr.nodes SET type = 'primary', upstream_node_id = NULL, active = true
                  WHERE node_id = {id} AND (type <> 'primary' OR NOT active) RETURNING node_id
             )
             INSERT INTO repmgr.events (node_id, event, successful, details)
             SELECT node_id, 'standby_promote', true, 'by pg-promote' FROM changed"
        ),
        deadline,
    )
}

/// On the primary `holder`: this node is a standby of it.
pub fn following(node: &Node, holder: &NodeName, deadline: Deadline) -> Result<(), SessionError> {
    let (Some(own), Some(upstream)) = (node.cluster.node(&node.me), node.cluster.node(holder)) else { return Ok(()) };
    let (id, upstream) = (own.id, upstream.id);
    write(
        node,
        holder,
        &format!(
            "WITH changed AS (
                 UPDATE repmgr.nodes SET type = 'standby', upstream_node_id = {upstream}, active = true
                  WHERE node_id = {id}
                    AND (type <> 'standby' OR NOT active OR upstream_node_id IS DISTINCT FROM {upstream})
              RETURNING node_id
             )
             INSERT INTO repmgr.events (node_id, event, successful, details)
             SELECT node_id, 'standby_follow', true, 'by pg-follow' FROM changed"
        ),
        deadline,
    )
}

fn write(node: &Node, on: &NodeName, statements: &str, deadline: Deadline) -> Result<(), SessionError> {
    let (Some(repmgr), Some(conninfo)) = (&node.cluster.repmgr, node.voters.get(on)) else { return Ok(()) };
    let mut conninfo = conninfo.clone();
    conninfo.set("dbname", &repmgr.database).map_err(|error| SessionError::Config { message: error.to_string() })?;
    Session::open(&conninfo, deadline)?.rows(statements, deadline).map(drop)
}
