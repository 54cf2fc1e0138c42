//! Looks at every node all the time, from inside the machine and over the network: who accepts writes, who holds the
//! address. It is the judge of the scenarios, so it asks nobody of pg-ha.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::ifaddrs::getifaddrs;
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::cgroup;
use crate::clock::Moment;
use crate::network;
use crate::session::{self, Session};
use crate::span::{Span, Spans, both, either, total};
use crate::topology::{CLIENT, Host, Topology, VIP};

/// Between two questions to a server.
const ASK_EVERY: Duration = Duration::from_millis(40);
/// A server that has not answered by then did not accept a write at that look.
const PATIENCE: Duration = Duration::from_millis(150);
/// Between two looks at an interface: cheap, so more often.
const LOOK_EVERY: Duration = Duration::from_millis(5);

const QUESTION: &str = "select pg_is_in_recovery(), current_setting('transaction_read_only')";

/// From where a node is looked at, and at what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum View {
    /// Its server, from inside the machine.
    Inside,
    /// Its server, from the client's machine.
    Network,
    /// The address on its interface.
    Address,
}

/// One thread that looks at one node in one way.
struct Watcher {
    node: &'static str,
    view: View,
    thread: JoinHandle<Result<Vec<Span>>>,
}

/// All of them.
pub(crate) struct Checker {
    begun: Moment,
    stop: Arc<AtomicBool>,
    threads: Vec<Watcher>,
}

impl Checker {
    /// Begins to look.
    pub(crate) fn start(topology: Topology) -> Self {
        let (begun, stop) = (Moment::now(), Arc::new(AtomicBool::new(false)));
        let mut threads = Vec::new();
        for host in topology.nodes() {
            for view in [View::Inside, View::Network, View::Address] {
                let stop = Arc::clone(&stop);
                let thread = spawn(move || match view {
                    View::Address => watch_address(host, &stop),
                    View::Inside | View::Network => watch_server(host, view, &stop),
                });
                threads.push(Watcher { node: host.name, view, thread });
            }
        }
        Self { begun, stop, threads }
    }

    /// Ends it, and gives what was seen.
    pub(crate) fn finish(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let mut seen = Seen { begun: self.begun, ended: Moment::now(), nodes: BTreeMap::new() };
        for Watcher { node, view, thread } in self.threads {
            let spans = thread.join().map_err(|_| anyhow!("a checking thread died"))?;
            let spans = spans.with_context(|| format!("the checker cannot look at {node}"))?;
            let node = seen.nodes.entry(node).or_default();
            match view {
                View::Inside => node.inside = spans,
                View::Network => node.network = spans,
                View::Address => node.address = spans,
            }
        }
        Ok(seen)
    }
}

/// The namespace the calling thread looks from. A machine has a new one after its power was off.
struct Standpoint {
    host: &'static str,
    entered: Option<u64>,
}

impl Standpoint {
    /// True if the host's present namespace is the thread's; `moved` is told of a change.
    fn enter(&mut self, moved: impl FnOnce()) -> bool {
        let identity = network::identity(self.host);
        if identity == self.entered {
            return identity.is_some();
        }
        moved();
        self.entered = identity.filter(|_| network::enter(self.host).is_ok());
        self.entered.is_some()
    }
}

fn watch_server(host: Host, view: View, stop: &AtomicBool) -> Result<Vec<Span>> {
    let (from, to) = match view {
        View::Network => (CLIENT.name, host.address),
        View::Inside | View::Address => (host.name, "127.0.0.1"),
    };
    let (runtime, config) = (session::runtime()?, session::config(to));
    let mut standpoint = Standpoint { host: from, entered: None };
    let (mut spans, mut session) = (Spans::default(), None);
    while !stop.load(Ordering::Relaxed) {
        let next = Instant::now() + ASK_EVERY;
        let asked = Moment::now();
        let here = standpoint.enter(|| session = None);
        let writable = here && accepts_writes(&runtime, &config, &mut session);
        spans.look(writable, asked, Moment::now());
        sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(spans.finish())
}

/// Asks in the session it has: one that outlived its postmaster can still commit. Without one it tries a new one.
fn accepts_writes(runtime: &Runtime, config: &tokio_postgres::Config, session: &mut Option<Session>) -> bool {
    runtime.block_on(async {
        if let Some(open) = session {
            match open.row(QUESTION, PATIENCE).await {
                Ok(answer) => return answer == ["f", "off"],
                Err(_) => *session = None,
            }
        }
        *session = Session::open(config, PATIENCE).await.ok();
        match session {
            Some(open) => open.row(QUESTION, PATIENCE).await.is_ok_and(|answer| answer == ["f", "off"]),
            None => false,
        }
    })
}

fn watch_address(host: Host, stop: &AtomicBool) -> Result<Vec<Span>> {
    let mut standpoint = Standpoint { host: host.name, entered: None };
    let mut spans = Spans::default();
    while !stop.load(Ordering::Relaxed) {
        let asked = Moment::now();
        // A frozen machine's kernel is this machine's and goes on; a real one would not answer for the address.
        let held = standpoint.enter(|| ()) && interface_has_address()? && !cgroup::is_frozen(host.name);
        spans.look(held, asked, asked);
        sleep(LOOK_EVERY);
    }
    Ok(spans.finish())
}

fn interface_has_address() -> Result<bool> {
    let mut interfaces = getifaddrs().context("failed to read the interfaces")?;
    Ok(interfaces.any(|interface| {
        interface
            .address
            .is_some_and(|address| address.as_sockaddr_in().is_some_and(|address| address.ip().to_string() == VIP))
    }))
}

/// What was seen of one node.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Node {
    /// When its server accepted writes, asked from inside.
    pub(crate) inside: Vec<Span>,
    /// The same, asked over the network.
    pub(crate) network: Vec<Span>,
    /// When the address was on its interface.
    pub(crate) address: Vec<Span>,
}

impl Node {
    /// When it accepted writes, by either view.
    pub(crate) fn writable(&self) -> Vec<Span> {
        either(&self.inside, &self.network)
    }
}

/// What was seen of all.
#[derive(Debug, Serialize)]
pub(crate) struct Seen {
    pub(crate) begun: Moment,
    pub(crate) ended: Moment,
    pub(crate) nodes: BTreeMap<&'static str, Node>,
}

/// The sums the promises are about, in seconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Sums {
    /// Two nodes accepted writes, seen from inside, over the network, and by either view.
    pub(crate) two_writable_inside: f64,
    pub(crate) two_writable_network: f64,
    pub(crate) two_writable: f64,
    /// The address was on two machines; on two that both accepted writes; on none.
    pub(crate) address_on_two: f64,
    pub(crate) address_on_two_writable: f64,
    pub(crate) address_on_none: f64,
}

impl Seen {
    pub(crate) fn sums(&self) -> Sums {
        let pairs = |pick: &dyn Fn(&Node) -> Vec<Span>| {
            let all: Vec<_> = self.nodes.values().map(pick).collect();
            let mut seconds = 0.0;
            for (place, one) in all.iter().enumerate() {
                seconds += all[place + 1..].iter().map(|other| total(&both(one, other))).sum::<f64>();
            }
            seconds
        };
        let held = self.nodes.values().fold(Vec::new(), |held, node| either(&held, &node.address));
        Sums {
            two_writable_inside: pairs(&|node| node.inside.clone()),
            two_writable_network: pairs(&|node| node.network.clone()),
            two_writable: pairs(&Node::writable),
            address_on_two: pairs(&|node| node.address.clone()),
            address_on_two_writable: pairs(&|node| both(&node.address, &node.writable())),
            address_on_none: (self.ended.since(self.begun).as_secs_f64() - total(&held)).max(0.0),
        }
    }

    /// What changed, in order, with the seconds since the beginning.
    pub(crate) fn timeline(&self) -> Vec<(f64, String)> {
        let mut changes = Vec::new();
        for (name, node) in &self.nodes {
            let kinds = [
                (&node.writable(), "accepts writes", "accepts no more writes"),
                (&node.address, "has the address", "has no longer the address"),
            ];
            for (spans, begins, ends) in kinds {
                for span in spans {
                    changes.push((span.begin, format!("{name} {begins}")));
                    // What lasts to the end did not end.
                    if self.ended.since(span.end) > PATIENCE + ASK_EVERY {
                        changes.push((span.end, format!("{name} {ends}")));
                    }
                }
            }
        }
        changes.sort();
        changes.into_iter().map(|(at, what)| (at.since(self.begun).as_secs_f64(), what)).collect()
    }
}
