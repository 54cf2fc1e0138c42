//! The rules, row by row and as properties.
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside test functions")]

use std::collections::BTreeMap;
use std::time::Duration;

use pg_ha_rules::boot::{self, Boot};
use pg_ha_rules::evidence::{Answer, Beat, Evidence, Moment, Role, Sight};
use pg_ha_rules::exit::Refusal;
use pg_ha_rules::fence::{Fence, Reason};
use pg_ha_rules::gate::{Situation, Verdict, gate};
use pg_ha_rules::heartbeat::{Heartbeat, State};
use pg_ha_rules::memory::{CaughtUp, Memory};
use pg_ha_rules::names::{Lsn, NodeName, Position, Term, Timeline};
use pg_ha_rules::standing::{Ack, Holding, Promoting, Server, Turn, View, turn};
use pg_ha_rules::term::{Truth, rank, truth_of};
use proptest::prelude::*;

const HOLD: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_secs(2);
const MAX_LAG: u64 = 1000;

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn term(number: u32, holder: &str) -> Term {
    Term { number, holder: name(holder) }
}

fn at(milliseconds: u64) -> Moment {
    Moment(Duration::from_millis(milliseconds))
}

fn position(timeline: u32, lsn: u64) -> Position {
    Position { timeline: Timeline(timeline), lsn: Lsn(lsn) }
}

fn says(node: &str, number: u32, state: State, lsn: u64, renewal: &str) -> Beat {
    let said = Heartbeat { node: name(node), term: number, state, standing: 0, position: Some(position(1, lsn)) };
    Beat { said, renewal: format!("{node}{renewal}") }
}

fn answer(term: Option<Term>, heartbeats: Vec<Beat>) -> Answer {
    Answer {
        system: "1".to_owned(),
        role: Role::Standby,
        term,
        position: Some(position(1, 5000)),
        backlog: 0,
        hindrance: None,
        streams_from: Some("10.99.0.11".to_owned()),
        started: "1".to_owned(),
        heartbeats,
    }
}

/// pg2, a standby of pg1 with a witness w, that has watched pg1 die: its heartbeats stopped at 10 s.
struct Story {
    evidence: Evidence,
    memory: Memory,
    now: Moment,
    fence: Option<Fence>,
}

impl Story {
    fn new() -> Self {
        let mut memory = Memory::default();
        for tick in 0..40_u64 {
            let renewal = tick.to_string();
            let answer = answer(Some(term(7, "pg1")), vec![says("pg1", 7, State::Primary, 5000, &renewal)]);
            for voter in ["pg2", "w"] {
                memory.saw(&name(voter), &answer, &name("pg2"), at(250 * (tick + 1)), LIMIT);
            }
            memory.follows(&answer, &Truth::Held(term(7, "pg1")), &name("pg2"), MAX_LAG);
        }
        assert_eq!(memory.caught_up.map(|last| last.term), Some(7));
        let mut story = Self { evidence: Evidence::default(), memory, now: at(10_000), fence: None };
        let last = answer(Some(term(7, "pg1")), vec![says("pg1", 7, State::Primary, 5000, "39")]);
        story.look(at(10_250), &last);
        story
    }

    /// The same answer of pg2 and w, again and again up to `until`.
    fn look(&mut self, until: Moment, answer: &Answer) {
        while self.now < until {
            self.now = self.now.plus(Duration::from_millis(250));
            let answered = Sight::Answered(answer.clone());
            self.evidence.at = self.now;
            self.evidence.voters = BTreeMap::from([
                (name("pg1"), Sight::Silent("no answer".to_owned())),
                (name("pg2"), answered.clone()),
                (name("w"), answered),
            ]);
            self.memory.saw_all(&self.evidence, &name("pg2"), LIMIT);
        }
    }

    fn situation<T>(&self, ask: impl FnOnce(&Situation) -> T) -> T {
        ask(&Situation {
            me: &name("pg2"),
            now: self.now,
            majority: 2,
            hold: HOLD,
            fresh: LIMIT,
            max_lag: MAX_LAG,
            priorities: &BTreeMap::from([(name("pg1"), 100), (name("pg2"), 100), (name("pg3"), 100)]),
            evidence: &self.evidence,
            memory: &self.memory,
            fence: self.fence.as_ref(),
        })
    }

    fn verdict(&self) -> Verdict {
        self.situation(|s| gate(s).1)
    }

    fn refusal(&self) -> Option<Refusal> {
        match self.verdict() {
            Verdict::Refuse { reason, .. } | Verdict::Wait { reason, .. } => Some(reason),
            Verdict::Bid(_) | Verdict::Primary(_) => None,
        }
    }
}

fn silent_holder() -> Answer {
    answer(Some(term(7, "pg1")), vec![])
}

#[test]
fn a_holder_that_fell_silent_is_waited_for_through_the_whole_hold() {
    let mut story = Story::new();
    story.look(at(13_000), &silent_holder());
    assert_eq!(story.refusal(), Some(Refusal::HolderAlive));
    story.look(at(13_750), &silent_holder());
    assert_eq!(story.verdict(), Verdict::Bid(term(8, "pg2")));
}

#[test]
fn down_under_the_very_term_ends_the_hold_and_no_other_does() {
    let mut story = Story::new();
    story.look(at(10_500), &answer(Some(term(7, "pg1")), vec![says("pg1", 6, State::Down, 5000, "x")]));
    assert_eq!(story.refusal(), Some(Refusal::HolderAlive));
    story.look(at(10_750), &answer(Some(term(7, "pg1")), vec![says("pg1", 7, State::Down, 5000, "y")]));
    assert_eq!(story.verdict(), Verdict::Bid(term(8, "pg2")));
}

#[test]
fn a_new_term_of_another_is_as_good_as_a_heartbeat() {
    let mut story = Story::new();
    story.look(at(14_000), &silent_holder());
    assert_eq!(story.refusal(), None);
    story.look(at(14_250), &answer(Some(term(8, "pg1")), vec![]));
    assert_eq!(story.refusal(), Some(Refusal::HolderAlive));
}

#[test]
fn a_voter_that_restarted_is_watched_anew() {
    let mut story = Story::new();
    story.look(at(14_000), &silent_holder());
    assert_eq!(story.refusal(), None);
    let restarted = Answer { started: "2".to_owned(), ..silent_holder() };
    story.look(at(14_250), &restarted);
    assert_eq!(story.refusal(), Some(Refusal::HolderAlive));
    story.look(at(17_500), &restarted);
    assert_eq!(story.refusal(), None);
}

#[test]
fn a_gap_in_the_watch_begins_it_anew() {
    let mut story = Story::new();
    story.look(at(14_000), &silent_holder());
    story.now = at(30_000);
    story.look(at(30_250), &silent_holder());
    assert_eq!(story.refusal(), Some(Refusal::HolderAlive));
}

#[test]
fn without_a_majority_nothing_is_done() {
    let mut story = Story::new();
    story.look(at(14_000), &silent_holder());
    story.evidence.voters.insert(name("w"), Sight::Refused);
    assert_eq!(story.refusal(), Some(Refusal::NoMajority));
}

#[test]
fn a_better_candidate_is_let_first_and_an_equal_one_by_name() {
    let mut story = Story::new();
    story.look(at(14_000), &silent_holder());
    for (lsn, node, refusal) in [
        (5001, "pg3", Some(Refusal::BetterCandidate)),
        (5000, "pg3", None),
        (4999, "pg3", None),
        (5000, "pg1", Some(Refusal::BetterCandidate)),
    ] {
        let mut story =
            Story { evidence: story.evidence.clone(), memory: story.memory.clone(), now: story.now, fence: None };
        let beat = says(node, 7, State::Standby, lsn, "candidate");
        story.look(at(14_250), &answer(Some(term(7, "pg1")), vec![beat]));
        assert_eq!(story.refusal(), refusal, "{node} at {lsn}");
    }
}

#[test]
fn a_loss_that_is_unknown_or_too_large_is_refused() {
    let mut story = Story::new();
    story.look(at(14_000), &silent_holder());
    let with = |change: &dyn Fn(&mut Memory)| {
        let mut story =
            Story { evidence: story.evidence.clone(), memory: story.memory.clone(), now: story.now, fence: None };
        change(&mut story.memory);
        story.refusal()
    };
    assert_eq!(with(&|memory| memory.holder = None), Some(Refusal::LossUnknown));
    assert_eq!(with(&|memory| memory.holder = Some((6, position(1, 5000)))), Some(Refusal::LossUnknown));
    assert_eq!(with(&|memory| memory.holder = Some((7, position(1, 6001)))), Some(Refusal::TooFarBehind));
    assert_eq!(with(&|memory| memory.holder = Some((7, position(1, 6000)))), None);
    assert_eq!(with(&|memory| memory.holder = Some((7, position(2, 5000)))), Some(Refusal::Diverged));
    assert_eq!(
        with(&|memory| memory.caught_up = memory.caught_up.map(|last| CaughtUp { term: 6, ..last })),
        Some(Refusal::NotCaughtUp)
    );
}

#[test]
fn a_node_that_is_held_back_is_not_fit() {
    let mut story = Story::new();
    let paused = Answer { hindrance: Some("replay is paused".to_owned()), ..silent_holder() };
    story.look(at(14_000), &paused);
    assert_eq!(story.refusal(), Some(Refusal::Hindered));
    story.look(at(14_250), &silent_holder());
    let fence = |reason| Some(Fence { reason, term: term(7, "pg2"), seen: String::new() });
    story.fence = fence(Reason::Superseded);
    assert_eq!(story.refusal(), Some(Refusal::Fenced));
    story.fence = fence(Reason::Rebuilding);
    assert_eq!(story.refusal(), Some(Refusal::Rebuilding));
    story.fence = fence(Reason::Down);
    assert_eq!(story.refusal(), None, "winning a new term lifts it");
}

proptest! {
    /// Whatever the voters say: one more fresh claim of another node never turns a refusal into a bid.
    #[test]
    fn more_evidence_of_a_live_holder_never_makes_a_promotion(
        wait in 0..8000_u64, number in 6..9_u32, states in proptest::collection::vec(0..5_usize, 0..3), on_witness: bool,
    ) {
        let all = [State::Primary, State::Promoting, State::Standby, State::Unfit, State::Down];
        let beats: Vec<_> = states.iter().enumerate().map(|(i, s)| says(["pg1", "pg3"][i % 2], 7, all[*s], 5000, &format!("p{i}"))).collect();
        let mut without = Story::new();
        without.look(at(10_250 + wait), &answer(Some(term(number, "pg1")), beats.clone()));
        let mut with = Story { evidence: without.evidence.clone(), memory: without.memory.clone(), now: without.now, fence: None };
        let mut alive = answer(Some(term(number, "pg1")), beats);
        alive.heartbeats.push(says("pg4", 7, State::Primary, 5000, "alive"));
        let voter = if on_witness { "w" } else { "pg2" };
        with.evidence.voters.insert(name(voter), Sight::Answered(alive.clone()));
        with.memory.saw(&name(voter), &alive, &name("pg2"), with.now, LIMIT);
        let bids = matches!(with.verdict(), Verdict::Bid(_));
        prop_assert!(!bids);
    }

    /// A voter that is silent, refuses, or only shows that it is alive counts for nothing.
    #[test]
    fn unknown_is_never_read_as_dead(kinds in proptest::collection::vec(0..3_usize, 3)) {
        let mut story = Story::new();
        story.look(at(20_000), &silent_holder());
        for (voter, kind) in ["pg1", "pg2", "w"].iter().zip(&kinds) {
            let sight = [Sight::Refused, Sight::Silent(String::new()), Sight::Alive(String::new())][*kind].clone();
            story.evidence.voters.insert(name(voter), sight);
        }
        let refused = matches!(story.verdict(), Verdict::Wait { reason: Refusal::NoMajority | Refusal::NoServer, .. });
        prop_assert!(refused);
        prop_assert_eq!(truth_of(&story.evidence, 2), Truth::Unknown);
    }

    /// A bid's number is above every number seen.
    #[test]
    fn a_term_never_goes_back(numbers in proptest::collection::vec(1..1000_u32, 1..4)) {
        let voters = numbers.iter().enumerate().map(|(i, n)| (name(&format!("v{i}")), Sight::Answered(answer(Some(term(*n, "pg1")), vec![]))));
        let evidence = Evidence { at: at(0), voters: voters.collect() };
        let next = pg_ha_rules::term::next(&evidence, &name("pg2"));
        prop_assert!(numbers.iter().all(|number| *number < next.number));
    }
}

// ---- pg-watch's turns

struct Watch {
    acks: Vec<(&'static str, u64, Option<Term>)>,
    server: Server,
    fence: Option<Fence>,
    promoting: Option<Promoting>,
    holding: Option<Holding>,
    now: u64,
}

impl Watch {
    fn turn(&self) -> Turn {
        let ack = |(voter, sent, term): &(&str, u64, Option<Term>)| {
            (name(voter), Ack { sent: at(*sent), term: term.clone(), claimed: Some(at(*sent)) })
        };
        turn(&View {
            me: &name("pg1"),
            now: at(self.now),
            began: at(0),
            majority: 2,
            limit: LIMIT,
            promotion_limit: Duration::from_secs(10),
            acks: &self.acks.iter().map(ack).collect(),
            server: self.server,
            fence: self.fence.as_ref(),
            promoting: self.promoting.as_ref(),
            holding: self.holding.as_ref(),
            stood: false,
            eligible: false,
        })
    }
}

fn primary() -> Watch {
    let seven = Some(term(7, "pg1"));
    Watch {
        acks: vec![("pg1", 9_900, seven.clone()), ("pg2", 9_900, seven.clone()), ("w", 9_900, seven)],
        server: Server::Running { role: Role::Primary, answered: Some(at(9_900)) },
        fence: None,
        promoting: None,
        holding: Some(Holding { term: term(7, "pg1"), acked: at(9_000) }),
        now: 10_000,
    }
}

#[test]
fn only_the_holder_of_the_term_has_standing() {
    let turn = primary().turn();
    assert_eq!((turn.state, turn.standing, turn.stop), (State::Primary, rank(7), None));
}

#[test]
fn an_isolated_primary_stops_at_the_limit_and_not_before() {
    let mut watch = primary();
    watch.acks.truncate(1);
    watch.holding = Some(Holding { term: term(7, "pg1"), acked: at(8_000) });
    assert_eq!(watch.turn().stop, None);
    watch.now = 10_001;
    let stop = watch.turn().stop.unwrap();
    assert_eq!((stop.reason, stop.term), (Reason::Isolated, Some(term(7, "pg1"))));
}

#[test]
fn a_superseded_primary_stops_at_once() {
    let mut watch = primary();
    watch.acks[1].2 = Some(term(8, "pg2"));
    assert_eq!(watch.turn().stop, None, "a minority may be a bid that died half way");
    watch.acks[2].2 = Some(term(8, "pg2"));
    assert_eq!(watch.turn().stop.unwrap().reason, Reason::Superseded);
}

#[test]
fn a_server_that_hangs_is_stopped() {
    let mut watch = primary();
    watch.server = Server::Running { role: Role::Primary, answered: Some(at(7_900)) };
    assert_eq!(watch.turn().stop.unwrap().reason, Reason::Down);
}

#[test]
fn orphans_of_a_dead_postmaster_are_stopped_before_down_is_said() {
    let mut watch = primary();
    watch.server = Server::Orphans;
    assert!(watch.turn().stop.is_some());
    watch.server = Server::Gone;
    let turn = watch.turn();
    assert!(turn.stop.is_some(), "the fence comes before the word");
    watch.fence = Some(Fence { reason: Reason::Down, term: term(7, "pg1"), seen: String::new() });
    let turn = watch.turn();
    assert_eq!((turn.state, turn.term, turn.standing, turn.stop), (State::Down, 7, 0, None));
}

#[test]
fn a_node_that_said_down_may_not_act_under_that_number_again() {
    let mut watch = primary();
    watch.fence = Some(Fence { reason: Reason::Down, term: term(7, "pg1"), seen: String::new() });
    assert!(watch.turn().stop.is_some());
    for ack in &mut watch.acks {
        ack.2 = Some(term(8, "pg1"));
    }
    assert_eq!(watch.turn().stop, None, "a new term of its own lifts it");
}

#[test]
fn a_restart_after_a_won_term_is_not_taken_for_a_death() {
    let mut watch = primary();
    watch.server = Server::Gone;
    watch.promoting = Some(Promoting { term: 7, begun: at(9_000), pid: None, ordered: false });
    let turn = watch.turn();
    assert_eq!((turn.state, turn.standing, turn.stop), (State::Promoting, 0, None));
}

#[test]
fn a_promotion_that_loses_the_majority_is_stopped() {
    let mut watch = primary();
    watch.server = Server::Running { role: Role::Standby, answered: Some(at(9_900)) };
    watch.promoting = Some(Promoting { term: 7, begun: at(9_000), pid: Some(1), ordered: false });
    assert_eq!(watch.turn().standing, rank(7));
    watch.acks.clear();
    watch.holding = Some(Holding { term: term(7, "pg1"), acked: at(7_999) });
    assert_eq!(watch.turn().stop.unwrap().reason, Reason::Isolated);
}

#[test]
fn a_primary_nobody_elected_is_stopped() {
    let mut watch = primary();
    watch.holding = None;
    for ack in &mut watch.acks {
        ack.2 = Some(term(8, "pg2"));
    }
    assert_eq!(watch.turn().stop.unwrap().reason, Reason::Superseded);
    watch.acks.clear();
    assert_eq!(watch.turn().stop.unwrap().reason, Reason::Isolated);
}

proptest! {
    /// Standing needs a term of its own at a majority, acknowledged within the limit, and a server that may write.
    #[test]
    fn no_standing_without_a_fresh_majority(
        acks in proptest::collection::vec((0..3_usize, 5_000..10_000_u64, 6..9_u32, any::<bool>()), 0..4),
        which in 0..4_usize, fenced: bool,
    ) {
        let mut watch = primary();
        watch.holding = None;
        watch.acks = acks.iter().map(|(voter, sent, number, mine)| {
            (["pg1", "pg2", "w"][*voter], *sent, Some(term(*number, if *mine { "pg1" } else { "pg2" })))
        }).collect();
        watch.server = [
            Server::Gone, Server::Orphans, Server::Running { role: Role::Standby, answered: None }, primary().server,
        ][which];
        watch.fence = fenced.then(|| Fence { reason: Reason::Down, term: term(9, "pg1"), seen: String::new() });
        let turn = watch.turn();
        let last: BTreeMap<_, _> = watch.acks.iter().map(|(voter, sent, term)| (*voter, (*sent, term.clone()))).collect();
        let best = (6..9_u32).map(|number| {
            last.values().filter(|(sent, t)| *t == Some(term(number, "pg1")) && *sent >= 8_000).count()
        }).max().unwrap();
        if turn.standing > 0 {
            prop_assert!(best >= 2 && which == 3 && !fenced, "{:?}", turn);
        }
    }
}

// ---- starts

fn start(standby: bool, own: Option<Term>, others: Option<Term>, fence: Option<&Fence>) -> Boot {
    let evidence = Evidence {
        at: at(10_000),
        voters: BTreeMap::from([
            (name("pg1"), Sight::Answered(answer(own, vec![]))),
            (name("w"), others.map_or(Sight::Refused, |term| Sight::Answered(answer(Some(term), vec![])))),
        ]),
    };
    let mut memory = Memory::default();
    let mut earlier = evidence.clone();
    for tick in 0..=20 {
        earlier.at = at(tick * 500);
        memory.saw_all(&earlier, &name("pg1"), LIMIT);
    }
    boot::boot(&boot::Situation {
        me: &name("pg1"),
        now: at(10_000),
        majority: 2,
        hold: HOLD,
        standby,
        evidence: &evidence,
        memory: &memory,
        fence,
    })
}

#[test]
fn a_former_primary_starts_only_under_a_new_term_or_as_a_standby() {
    let seven = Some(term(7, "pg1"));
    let down = Fence { reason: Reason::Down, term: term(7, "pg1"), seen: String::new() };
    let down = Some(&down);
    assert_eq!(start(false, seven.clone(), seven.clone(), down), Boot::Bid(term(8, "pg1")));
    assert!(matches!(start(false, seven.clone(), None, down), Boot::Wait { reason: Refusal::NoMajority, .. }));
    assert!(matches!(
        start(false, seven.clone(), Some(term(8, "pg2")), down),
        Boot::Wait { reason: Refusal::LossUnknown, .. }
    ));
    assert_eq!(start(false, Some(term(8, "pg2")), Some(term(8, "pg2")), None), Boot::Standby(term(8, "pg2")));
    assert!(matches!(start(true, seven.clone(), None, None), Boot::Start(_)));
    let rebuilding = Fence { reason: Reason::Rebuilding, term: term(7, "pg2"), seen: String::new() };
    assert!(matches!(start(true, seven, None, Some(&rebuilding)), Boot::Refuse(Refusal::Rebuilding, _)));
}
