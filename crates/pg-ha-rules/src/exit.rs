//! Every exit code of every program, and every reason to refuse. One place; docs/runbook.md is made from it.

use serde::{Deserialize, Serialize};

/// What a program's exit says. All lie in 0–125: above that PostgreSQL, shells and keepalived read other things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, or nothing to do.
    Ok,
    /// The health check's "no": the only other code keepalived reads rightly.
    No,
    /// The command line is wrong.
    Usage,
    /// cluster.yaml is wrong, or this machine is not in it. Nothing was done.
    Config,
    /// Something the program needs is missing: a right, a tool, a file, a running server.
    Environment,
    /// The hook's own deadline ended it. What it had begun, the next run puts right.
    Deadline,
    /// A step failed in the middle; the message says which.
    Failed,
    /// The rule refused; the reason has its own code.
    Refused(Refusal),
}

impl Exit {
    /// The code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::No => 1,
            Self::Usage => 2,
            Self::Config => 3,
            Self::Environment => 4,
            Self::Deadline => 5,
            Self::Failed => 6,
            Self::Refused(refusal) => refusal.code(),
        }
    }
}

macro_rules! refusals {
    ($($(#[doc = $what:literal])+ $name:ident = $code:literal, $hint:literal;)+) => {
        /// Why a rule refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Refusal { $($(#[doc = $what])+ $name,)+ }

        impl Refusal {
            /// All of them, by code.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The exit code.
            #[must_use]
            pub fn code(self) -> u8 { match self { $(Self::$name => $code,)+ } }

            /// What it means.
            #[must_use]
            pub fn meaning(self) -> &'static str { match self { $(Self::$name => concat!($($what),+).trim_ascii(),)+ } }

            /// What an operator can do.
            #[must_use]
            pub fn hint(self) -> &'static str { match self { $(Self::$name => $hint,)+ } }
        }
    };
}

refusals! {
    /// This node is fenced: it lost its primacy and has not rejoined.
    Fenced = 10, "run pg-follow to make it a standby of the primary again";
    /// The own server does not answer, so nothing is known of it.
    NoServer = 11, "look at the server's log; start it with systemctl start";
    /// The own server is held back: replay is paused, or it is delayed on purpose.
    Hindered = 12, "SELECT pg_wal_replay_resume(), or reset recovery_min_apply_delay, if this node is to be promoted";
    /// This node has not caught up with the holder of the present term since that term began.
    NotCaughtUp = 13, "let it follow the primary (pg-follow); if the primary is gone for good, choose the node with the most WAL";
    /// Fewer than a majority of the voters answered.
    NoMajority = 14, "bring back a voter, or the network to it; pg-cluster status shows which are silent";
    /// The cluster has no term yet.
    NoTerm = 15, "run pg-cluster init on the node that is to be the first primary";
    /// Another holder may still be alive: its heartbeat, or its term, is younger than the hold.
    HolderAlive = 16, "if it is not the primary any more, stop it; the hold then passes by itself";
    /// Another candidate is further on the same history, or as far and preferred.
    BetterCandidate = 17, "nothing: that candidate promotes itself; if it cannot, stop its pg-watch";
    /// The last position of the old primary is not known here, so neither is the loss.
    LossUnknown = 18, "bring the old primary back, or compare the nodes' LSNs by hand";
    /// More than `max_lag` would be lost, or is still to be replayed.
    TooFarBehind = 19, "wait for replay; bring the old primary back; or accept the loss by raising failover.max_lag";
    /// The own history is not the old primary's.
    Diverged = 20, "run pg-follow: this node needs a rewind or a new clone";
    /// Another bid won.
    Outbid = 21, "nothing: the other node promotes";
    /// The own server is a primary without holding the term.
    WithoutTerm = 22, "stop it: its writes are on no one else's history; then run pg-follow";
    /// pg-watch does not run here: without it nothing could stop this node when it must.
    NoWatch = 23, "systemctl start pg-watch";
    /// The data directory is being rebuilt.
    Rebuilding = 24, "let pg-follow finish, or run it again";
    /// The promotion was ordered, but the server did not become writable in time.
    PromotionFailed = 25, "look at the server's log: an unreachable archive in restore_command is the usual cause";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_one_a_caller_reads_rightly_and_means_one_thing() {
        let mut codes: Vec<u8> = Refusal::ALL.iter().map(|refusal| refusal.code()).collect();
        codes.extend(
            [Exit::Ok, Exit::No, Exit::Usage, Exit::Config, Exit::Environment, Exit::Deadline, Exit::Failed]
                .map(Exit::code),
        );
        let count = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), count);
        assert!(codes.iter().all(|code| *code <= 125));
    }
}
