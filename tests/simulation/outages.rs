//! Stories of nodes that are away for a while, of who stands in for them, and of how they get what they missed.

use std::{collections::BTreeMap, time::Duration};

use quorate::{
    config::AntiEntropy,
    ident::NodeId,
    node::effect::Event,
    quorum::put::Hinting,
    replica::hints::HintLimits,
    wire::{
        administration::AlertKind,
        client::{ClientRequest, ClientResponse, Consistency, Delete, Failure, Get, Put, ReadFrom, Scope, Stored},
    },
};

use crate::{
    checker,
    cluster::{Cluster, Setup},
    faults::isolate,
    stage::{key_of, sees, values},
};

impl Cluster {
    /// The nodes in the order in which they should serve `key`, by index.
    fn preference_list(&self, key: &str) -> Vec<usize> {
        let ring = self.node_that_is_up().view().ring.clone().expect("there is a cluster");
        ring.ranking(ring.partition_of(&key_of(key))).iter().map(|node| self.indices[node]).collect()
    }

    fn node_that_is_up(&self) -> &quorate::node::Node {
        (0..self.machines.len()).find_map(|index| self.node(index)).expect("somebody is up")
    }

    /// What `node` keeps of `key` for others: for whom.
    fn kept_at(&self, node: usize, key: &str) -> Vec<usize> {
        let hints = self.machines[node].hints();
        hints.iter().filter(|(_, hint)| hint.key == key_of(key)).map(|(target, _)| self.indices[target]).collect()
    }

    fn hint_count(&self) -> usize {
        self.machines.iter().map(|machine| machine.hints().len()).sum()
    }

    /// How many stores hold `key` now, as their own or for others.
    fn stores_of(&self, key: &str) -> usize {
        let holds = |machine: &&crate::machine::Machine| {
            machine.objects(&key_of(key)).iter().any(|object| !object.siblings().is_empty())
        };
        self.machines.iter().filter(holds).count()
    }

    /// Ends a process, and lets the others notice.
    fn lose(&mut self, nodes: &[usize]) {
        nodes.iter().for_each(|node| self.crash(*node, 20));
        self.run_for(100);
    }

    fn put_strictly(&mut self, node: usize, key: &str, w: Consistency) -> ClientResponse {
        let mut put = match put(key) {
            ClientRequest::Put(put) => put,
            other => panic!("{other:?} is no put"),
        };
        (put.w, put.scope) = (w, Scope::Strict);
        self.ask(node, ClientRequest::Put(put))
    }

    fn try_get(&mut self, node: usize, key: &str, r: Consistency, scope: Scope) -> ClientResponse {
        let from = ReadFrom::Row(r);
        self.ask(node, ClientRequest::Get(Get { key: key_of(key), from, scope, budget_ms: 5_000 }))
    }
}

fn put(key: &str) -> ClientRequest {
    ClientRequest::Put(Put {
        key: key_of(key),
        value: quorate::ident::Value::new(b"v").expect("a value"),
        context: None,
        op: quorate::ident::OpId([1; 16]),
        w: Consistency::Quorum,
        scope: Scope::Sloppy,
        ttl_ms: None,
        budget_ms: 5_000,
    })
}

#[test]
fn a_hint_outlives_the_restart_of_its_holder_and_reaches_its_target_without_a_reader() {
    let mut cluster = Cluster::settled(40, 4, 3);
    let [a, b, c, d] = cluster.preference_list("k")[..] else { panic!("four nodes") };
    cluster.lose(&[a]);
    let stored = cluster.put(b, "k", "v", Consistency::All).expect_stored();
    assert_eq!((stored.acks, stored.primaries, stored.hinted), (3, 2, vec![cluster.machines[a].id]));
    assert_eq!((cluster.stored_at(b, "k"), cluster.stored_at(c, "k")), (vec!["v".into()], vec!["v".into()]));
    assert_eq!((cluster.kept_at(d, "k"), cluster.stored_at(d, "k")), (vec![a], vec![]));

    cluster.restart(d);
    assert_eq!(cluster.kept_at(d, "k"), [a]);
    cluster.start(a);
    cluster.run_until(5_000, "A holds the value, and nobody has read it", |cluster| {
        cluster.stored_at(a, "k") == ["v"] && cluster.stores_of("k") >= 3
    });
    cluster.run_until(1_000, "D no longer has it", |cluster| cluster.hint_count() == 0);
    assert_eq!(cluster.stores_of("k"), 3);
}

#[test]
fn where_all_members_are_in_the_row_the_coordinator_keeps_what_one_misses() {
    let mut cluster = Cluster::settled(41, 3, 3);
    cluster.lose(&[2]);
    for number in 0..50 {
        cluster.put(0, &format!("k{number}"), "v", Consistency::Quorum).expect_stored();
    }
    cluster.run_for(100);
    assert_eq!(cluster.hint_count(), 50);
    cluster.start(2);
    cluster.run_until(5_000, "it has everything it missed", |cluster| {
        (0..50).all(|number| cluster.stored_at(2, &format!("k{number}")) == ["v"])
    });
    cluster.run_until(2_000, "no hint is left", |cluster| cluster.hint_count() == 0);
}

#[test]
fn when_the_whole_row_is_away_others_take_writes_and_say_what_they_know() {
    let mut cluster = Cluster::settled(42, 6, 3);
    let list = cluster.preference_list("k");
    let (row, others) = list.split_at(3);
    cluster.put(row[0], "old", "o", Consistency::All).expect_stored();
    cluster.lose(row);
    let stored = cluster.put(others[2], "k", "v", Consistency::Quorum).expect_stored();
    assert_eq!((stored.primaries, stored.degraded), (0, true));
    assert!(stored.acks >= 2 && stored.hinted.len() >= 2, "{stored:?}");
    for other in others {
        assert_eq!(values(&cluster.get(*other, "k", Consistency::Quorum)), ["v"]);
    }
    // Of a key that nobody wrote since, nobody who is up knows anything.
    let unheard = (0..).map(|number| format!("n{number}")).find(|key| {
        let mut row = cluster.preference_list(key)[..3].to_vec();
        let mut lost = row.clone();
        lost.retain(|node| list[..3].contains(node));
        row.sort_unstable();
        lost.len() == 3
    });
    let unheard = unheard.expect("some key has the same row");
    let answer = cluster.try_get(others[0], &unheard, Consistency::One, Scope::Sloppy);
    assert!(matches!(answer, ClientResponse::Failed(Failure::Unavailable { .. })), "{answer:?}");
    let answer = cluster.put_strictly(others[0], "k", Consistency::One);
    assert!(matches!(answer, ClientResponse::Failed(_)), "only the row counts: {answer:?}");

    row.iter().for_each(|node| cluster.start(*node));
    cluster.run_until(10_000, "the row has it, and nobody has read it", |cluster| {
        row.iter().all(|node| cluster.stored_at(*node, "k") == ["v"]) && cluster.hint_count() == 0
    });
    assert_eq!(checker::misplaced(&cluster), None);
}

#[test]
fn a_delete_while_one_is_away_reaches_it_as_a_hint() {
    let mut cluster = Cluster::settled(43, 4, 3);
    let [a, b, ..] = cluster.preference_list("k")[..] else { panic!("four nodes") };
    let Stored { context, .. } = cluster.put(b, "k", "v", Consistency::All).expect_stored();
    cluster.lose(&[a]);
    let delete = Delete { key: key_of("k"), context, w: Consistency::All, scope: Scope::Sloppy, budget_ms: 5_000 };
    let answer = cluster.ask(b, ClientRequest::Delete(delete));
    assert!(matches!(answer, ClientResponse::Stored(_)), "{answer:?}");
    assert_eq!(cluster.stored_at(a, "k"), ["v"]);
    cluster.start(a);
    cluster.run_until(5_000, "it is deleted there too", |cluster| {
        cluster.stored_at(a, "k").is_empty() && cluster.hint_count() == 0
    });
}

#[test]
fn a_primary_that_is_silent_is_stood_in_for_though_the_client_has_its_answer_and_is_gone() {
    let mut cluster = Cluster::settled(56, 4, 3);
    let [a, b, _, d] = cluster.preference_list("k")[..] else { panic!("four nodes") };
    cluster.machines[a].paused_until_ms = cluster.now_ms + 20_000;
    let mut impatient = match put("k") {
        ClientRequest::Put(put) => put,
        other => panic!("{other:?} is no put"),
    };
    impatient.budget_ms = 300;
    let answer = cluster.ask(b, ClientRequest::Put(impatient));
    assert!(matches!(answer, ClientResponse::Stored(_)), "two of three have it: {answer:?}");
    cluster.run_until(5_000, "the fallback keeps it", |cluster| cluster.kept_at(d, "k") == [a]);
}

#[test]
fn a_strict_quorum_counts_the_row_only() {
    let mut cluster = Cluster::settled(44, 4, 3);
    let [a, b, c, _] = cluster.preference_list("k")[..] else { panic!("four nodes") };
    cluster.lose(&[a]);
    assert!(matches!(cluster.put_strictly(b, "k", Consistency::Quorum), ClientResponse::Stored(_)));
    let unmet = Failure::QuorumNotMet { acks: 2, needed: 3, maybe_stored: true };
    assert_eq!(cluster.put_strictly(b, "k", Consistency::All), ClientResponse::Failed(unmet));
    cluster.lose(&[c]);
    let answer = cluster.try_get(b, "k", Consistency::Quorum, Scope::Strict);
    assert!(matches!(answer, ClientResponse::Failed(Failure::QuorumNotMet { acks: 1, needed: 2, .. })), "{answer:?}");
    assert_eq!(
        values(&cluster.get(b, "k", Consistency::Quorum)),
        ["v"],
        "what one knows is told where two were reached"
    );
}

#[test]
fn without_hints_nobody_stands_in_for_a_write() {
    let mut cluster = Cluster::settled_with(45, &Setup { hinting: Hinting::Off, ..Setup::sound(4, 3) });
    let [a, b, ..] = cluster.preference_list("k")[..] else { panic!("four nodes") };
    cluster.lose(&[a]);
    let failure = cluster.put(b, "k", "v", Consistency::All).expect_failed();
    assert!(matches!(failure, Failure::QuorumNotMet { acks: 2, needed: 3, .. }), "{failure:?}");
    cluster.put(b, "k", "w", Consistency::Quorum).expect_stored();
    assert_eq!(cluster.hint_count(), 0);
}

#[test]
fn two_nodes_that_cannot_reach_each_other_are_no_matter_to_a_third() {
    let mut cluster = Cluster::settled(46, 4, 3);
    let [a, b, c, d] = cluster.preference_list("k")[..] else { panic!("four nodes") };
    cluster.run_for(3_000);
    // One way only: A is not heard by B, but both are heard by C.
    cluster.cut(a, b);
    cluster.run_until(8_000, "both have noticed", |cluster| !sees(cluster, a, b) && !sees(cluster, b, a));
    assert!(sees(&cluster, c, a) && sees(&cluster, c, b));
    let stored = cluster.put(a, "k", "v", Consistency::All).expect_stored();
    assert_eq!(stored.hinted, [cluster.machines[b].id], "A routes around B");
    assert_eq!(cluster.kept_at(d, "k"), [b]);
    cluster.run_until(2_000, "D reaches B, and hands it over", |cluster| {
        cluster.stored_at(b, "k") == ["v"] && cluster.hint_count() == 0
    });
    let stored = cluster.put(c, "k", "w", Consistency::All).expect_stored();
    assert_eq!((stored.primaries, stored.hinted.len()), (3, 0), "C does not");
    cluster.heal();
    cluster.run_until(5_000, "all hold both", |cluster| {
        [a, b, c].iter().all(|node| cluster.stored_at(*node, "k") == ["v", "w"]) && cluster.hint_count() == 0
    });
}

#[test]
fn a_node_that_comes_and_goes_every_two_seconds_makes_no_storm() {
    let mut cluster = Cluster::settled(47, 5, 3);
    cluster.run_for(3_000);
    let before = cluster.counted();
    for round in 0..30 {
        if round % 2 == 0 {
            isolate(&mut cluster, 4);
        } else {
            cluster.network.mend_all();
        }
        for number in 0..10 {
            let key = format!("k{number}");
            let node = (round + number) % 4;
            cluster.put(node, &key, "v", Consistency::Quorum).expect_stored();
            cluster.run_for(200);
        }
    }
    cluster.heal();
    cluster.run_until(10_000, "no hint is left", |cluster| cluster.hint_count() == 0);
    let after = cluster.counted();
    let since = |name: &str| after[name] - before[name];
    println!(
        "a minute of flapping: {} opinions changed, {} dials, {} hints kept, {} delivered",
        since("opinions_changed"),
        since("dials"),
        since("hints_kept"),
        since("hints_delivered"),
    );
    // 15 cuts, each seen from 4 nodes and from the one that is cut off: up, suspect, down and up again at most.
    assert!(since("opinions_changed") <= 15 * 8 * 4, "{}", since("opinions_changed"));
    // Each of 8 directions dials at once and then with pauses from 0.2 s on: 4 times in 2 s.
    assert!(since("dials") <= 15 * 8 * 6, "{}", since("dials"));
    // A write leaves one hint for one node that is away.
    assert!(since("hints_kept") <= 300, "{}", since("hints_kept"));
    assert!(since("hints_delivered") <= since("hints_kept"), "each once");
}

impl Cluster {
    /// All counters of all nodes together.
    fn counted(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for index in 0..self.machines.len() {
            for (name, count) in self.node(index).map(|node| node.counters().to_list()).unwrap_or_default() {
                *sums.entry(name).or_insert(0) += count;
            }
        }
        sums
    }
}

#[test]
fn a_node_that_stood_still_for_a_minute_costs_the_others_nothing_and_blames_nobody() {
    let mut cluster = Cluster::settled(48, 5, 3);
    cluster.run_for(3_000);
    cluster.machines[4].paused_until_ms = cluster.now_ms + 60_000;
    for number in 0..200 {
        let begun = cluster.now_ms;
        let key = format!("k{number}");
        cluster.put(number % 4, &key, "v", Consistency::Quorum).expect_stored();
        assert!(cluster.now_ms - begun < 5_000);
        cluster.run_for(250);
    }
    cluster.run_for(12_000);
    assert!(cluster.now_ms >= cluster.machines[4].paused_until_ms);
    let told = cluster.told.len();
    cluster.run_until(10_000, "all see all again", |cluster| {
        (0..4).all(|other| sees(cluster, 4, other) && sees(cluster, other, 4))
    });
    cluster.run_until(10_000, "it has what it missed", |cluster| cluster.hint_count() == 0);
    assert!(cluster.told[told..].iter().all(|(_, event)| !matches!(event, Event::AlertRaised(_))), "nobody is alarmed");
}

#[test]
fn hints_are_bounded_refused_beyond_and_the_next_fallback_is_asked() {
    let limits = HintLimits { target_bytes: 2_000, total_bytes: 3_000 };
    let mut cluster = Cluster::settled_with(49, &Setup { hint_limits: Some(limits), ..Setup::sound(5, 3) });
    cluster.lose(&[4]);
    let (mut hinted, mut refused) = (0, 0);
    for number in 0..200 {
        let key = format!("k{number}");
        let stored = cluster.put(number % 4, &key, "v", Consistency::Quorum).expect_stored();
        assert!(stored.acks >= 2);
        hinted += stored.hinted.len();
        cluster.run_for(20);
    }
    let of_bytes = |cluster: &Cluster, node: usize| cluster.machines[node].hint_bytes();
    for node in 0..4 {
        assert!(of_bytes(&cluster, node) <= 2_000, "node {node}: {} bytes", of_bytes(&cluster, node));
        refused += usize::from(cluster.machines[node].marked_count() > 0);
    }
    println!("{hinted} hints told, {refused} nodes have marked partitions");
    assert!(refused > 0, "what was given up is remembered");
    cluster.start(4);
    cluster.run_until(20_000, "the hints that there were are delivered", |cluster| cluster.hint_count() == 0);
}

#[test]
fn hints_that_grow_too_old_are_given_up_and_told_of_before() {
    let anti_entropy = AntiEntropy::Off;
    let setup = Setup { hint_ttl: Some(Duration::from_secs(20)), anti_entropy, ..Setup::sound(4, 3) };
    let mut cluster = Cluster::settled_with(50, &setup);
    let [a, b, _, d] = cluster.preference_list("k")[..] else { panic!("four nodes") };
    cluster.lose(&[a]);
    cluster.put(b, "k", "v", Consistency::All).expect_stored();
    let is_old =
        |event: &Event, id: NodeId| matches!(event, Event::AlertRaised(alert) if alert.kind == AlertKind::HintsOld(id));
    let id = cluster.machines[a].id;
    cluster.run_for(8_000);
    assert!(!cluster.was_told(d, |event| is_old(event, id)));
    cluster.run_for(5_000);
    assert!(cluster.was_told(d, |event| is_old(event, id)), "at half their age");
    assert_eq!(cluster.hint_count(), 1);
    cluster.run_for(10_000);
    assert_eq!((cluster.hint_count(), cluster.machines[d].marked_count()), (0, 1));
    assert!(
        cluster
            .was_told(d, |event| matches!(event, Event::AlertCleared(alert) if alert.kind == AlertKind::HintsOld(id)))
    );
}

#[test]
fn people_are_told_once_of_a_member_that_stays_away_and_once_that_it_is_back() {
    let setup = Setup { dead_after: Some(Duration::from_secs(10)), ..Setup::sound(3, 3) };
    let mut cluster = Cluster::settled_with(51, &setup);
    cluster.lose(&[2]);
    let away = AlertKind::MemberAway(cluster.machines[2].id);
    let raised = |cluster: &Cluster| {
        cluster
            .told
            .iter()
            .filter(|(node, event)| *node == 0 && matches!(event, Event::AlertRaised(alert) if alert.kind == away))
            .count()
    };
    cluster.run_for(8_000);
    assert_eq!(raised(&cluster), 0);
    cluster.run_for(30_000);
    assert_eq!(raised(&cluster), 1);
    assert_eq!(cluster.node(0).unwrap().view().members.len(), 3, "nothing is removed by itself");
    cluster.heal();
    cluster.run_for(2_000);
    assert!(cluster.was_told(0, |event| matches!(event, Event::AlertCleared(alert) if alert.kind == away)));

    cluster.isolate(0);
    cluster.run_for(15_000);
    let is_isolated = |event: &Event| matches!(event, Event::AlertRaised(alert) if alert.kind == AlertKind::Isolated);
    assert!(cluster.was_told(0, is_isolated) && !cluster.was_told(1, is_isolated));
}

#[test]
fn a_store_that_takes_no_writes_is_told_of_and_recovers_by_itself() {
    let mut cluster = Cluster::settled(52, 3, 3);
    cluster.machines[0].store.fail_next_commit(quorate::store::StoreError::Full { detail: "disk full".to_owned() });
    cluster.put(0, "k", "v", Consistency::One).expect_failed();
    cluster.run_for(600);
    let is_unwritable = |alert: &quorate::wire::administration::Alert| alert.kind == AlertKind::StoreUnwritable;
    assert!(cluster.was_told(0, |event| matches!(event, Event::AlertRaised(alert) if is_unwritable(alert))));
    cluster.run_for(4_000);
    assert!(cluster.was_told(0, |event| matches!(event, Event::AlertCleared(alert) if is_unwritable(alert))));
}

#[test]
fn a_node_whose_store_takes_no_writes_lets_others_take_them_and_has_them_kept_for_it() {
    let mut cluster = Cluster::settled(55, 4, 3);
    let [a, b, ..] = cluster.preference_list("k")[..] else { panic!("four nodes") };
    let full = || quorate::store::StoreError::Full { detail: "disk full".to_owned() };
    cluster.machines[a].store.fail_next_commit(full());
    cluster.put(a, "k", "lost", Consistency::One).expect_failed();
    // Still full: what it is sent to keep is refused as well.
    cluster.machines[a].store.fail_next_commit(full());
    let stored = cluster.put(a, "k", "v", Consistency::All).expect_stored();
    assert_eq!((stored.acks, stored.hinted), (3, vec![cluster.machines[a].id]), "another has coordinated it");
    assert_eq!(values(&cluster.get(a, "k", Consistency::Quorum)), ["v"], "reads go on");
    cluster.run_until(10_000, "it has got it once there was room", |cluster| cluster.stored_at(a, "k") == ["v"]);
    assert_eq!(cluster.stored_at(b, "k"), ["v"]);
}

#[test]
fn two_zones_that_are_cut_apart_both_serve_and_end_with_siblings_where_both_wrote() {
    let mut cluster = Cluster::settled_with(53, &Setup { zones: 2, ..Setup::sound(6, 3) });
    cluster.run_for(3_000);
    let zone = |index: usize| index % 2;
    for one in 0..6 {
        for other in (0..6).filter(|other| zone(*other) != zone(one)) {
            cluster.cut_silently(one, other);
        }
    }
    cluster.run_for(5_000);
    for number in 0..60 {
        let (left, right) = ((number * 2) % 6, (number * 2 + 1) % 6);
        let side = ["both", "left", "right"][number % 3];
        let key = format!("{side} {number}");
        if side != "right" {
            cluster.put(left, &key, "l", Consistency::Quorum).expect_stored();
            assert_eq!(values(&cluster.get(left, &key, Consistency::Quorum)), ["l"]);
        }
        if side != "left" {
            cluster.put(right, &key, "r", Consistency::Quorum).expect_stored();
            assert_eq!(values(&cluster.get(right, &key, Consistency::Quorum)), ["r"]);
        }
    }
    cluster.run_for(40_000);
    cluster.heal();
    cluster.run_until(20_000, "no hint is left", |cluster| cluster.hint_count() == 0);
    assert_eq!(checker::differing_replicas(&cluster), None, "nobody has read anything since");
    for number in 0..60 {
        let (side, expected): (_, &[&str]) =
            [("both", &["l", "r"][..]), ("left", &["l"]), ("right", &["r"])][number % 3];
        let key = format!("{side} {number}");
        let head = cluster.preference_list(&key)[0];
        assert_eq!(cluster.stored_at(head, &key), expected, "{key}");
    }
}

#[test]
fn a_read_asks_one_more_when_somebody_is_slow_and_takes_no_ignorance_for_an_answer() {
    let mut cluster = Cluster::settled(54, 4, 3);
    let [a, b, c, _] = cluster.preference_list("k")[..] else { panic!("four nodes") };
    cluster.put(a, "k", "v", Consistency::All).expect_stored();
    (0..20).for_each(|_| drop(cluster.get(a, "k", Consistency::All)));
    // Both others stand still, and nobody has noticed yet.
    for slow in [b, c] {
        cluster.machines[slow].paused_until_ms = cluster.now_ms + 1_500;
    }
    let before = cluster.counted()["reads_hedged"];
    let begun = cluster.now_ms;
    let found = cluster.get(a, "k", Consistency::Quorum);
    assert!(cluster.now_ms - begun >= 1_400, "two know the key, and R is two");
    assert_eq!((values(&found), cluster.counted()["reads_hedged"] - before), (vec!["v".to_owned()], 1));
}

#[test]
fn a_write_waits_for_no_primary_that_stands_still_while_somebody_can_stand_in() {
    let mut cluster = Cluster::settled(55, 4, 3);
    let [a, b, c, _] = cluster.preference_list("k")[..] else { panic!("four nodes") };
    for slow in [b, c] {
        cluster.machines[slow].paused_until_ms = cluster.now_ms + 1_900;
    }
    let before = cluster.counted()["writes_hedged"];
    let begun = cluster.now_ms;
    cluster.put(a, "k", "v", Consistency::Quorum).expect_stored();
    let took = cluster.now_ms - begun;
    assert!(took < 1_000, "the fourth keeps it before the others are given up: {took} ms");
    assert_eq!(cluster.counted()["writes_hedged"] - before, 1);
}
