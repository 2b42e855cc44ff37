//! Replicas that become equal by comparing alone: hints and read repair are switched off, and nobody reads.

use std::{collections::BTreeMap, time::Duration};

use quorate::{
    causality::siblings::Object,
    config::{AntiEntropy, NodeRules},
    ident::Key,
    merkle::CompareRule,
    node::effect::Event,
    quorum::put::Hinting,
    replica::{
        hints::HintLimits,
        rules::{Rules, TreeRule},
    },
    store::{Table, WriteTxn, memory::Snapshot, record, schema},
    wire::{
        administration::{ExchangeReport, Order, RepairScope},
        client::{ClientRequest, ClientResponse, Consistency},
    },
};

use crate::{
    checker,
    cluster::{Cluster, Setup},
    faults::isolate,
    network::Weather,
    stage::{key_of, values},
};

const INTERVAL_MS: u64 = 10_000;

/// Nothing but comparing brings data from one node to another once a write is over.
fn alone(nodes: usize) -> Setup {
    Setup {
        hinting: Hinting::Off,
        read_repair: false,
        exchange_interval: Some(Duration::from_millis(INTERVAL_MS)),
        ..Setup::sound(nodes, 3)
    }
}

impl Cluster {
    /// Partitions that some node holds and cannot vouch for.
    pub(crate) fn doubted_partitions(&self) -> usize {
        let nodes = (0..self.machines.len()).filter_map(|index| self.node(index));
        nodes.map(|node| node.doubted_partition_count()).sum()
    }

    /// Writes keys called `name`, from all nodes that are up, with as few copies as may be.
    fn write_cold(&mut self, name: &str, count: usize) {
        let up: Vec<usize> = (0..self.machines.len()).filter(|index| self.is_up(*index)).collect();
        let mut stored = 0;
        for number in 0..count {
            let put = self.try_put(up[number % up.len()], &format!("{name}-{number}"), "v");
            stored += usize::from(matches!(put, ClientResponse::Stored(_)));
        }
        // Who is cut off from a key's row cannot store it.
        assert!(stored > count / 2, "{stored} of {count}");
    }

    /// Keys changed by exchanges so far, at all nodes that are up.
    fn repairs(&self) -> u64 {
        let nodes = (0..self.machines.len()).filter_map(|index| self.node(index));
        nodes.map(|node| node.counters().items_taken).sum()
    }

    /// The promise: equal within two intervals, and nothing to do in the three after that.
    #[track_caller]
    fn assert_heals(&mut self) {
        self.assert_heals_within(2 * INTERVAL_MS);
    }

    #[track_caller]
    fn assert_heals_within(&mut self, limit_ms: u64) {
        self.heal();
        let is_equal = |cluster: &Cluster| checker::differing_replicas(cluster).is_none();
        self.run_until(limit_ms, "all replicas are equal", is_equal);
        self.run_for(2_000);
        assert_eq!(self.doubted_partitions(), 0);
        let before = self.repairs();
        self.run_for(3 * INTERVAL_MS);
        assert_eq!(self.repairs(), before, "there was nothing left to repair");
        assert_eq!(checker::differing_replicas(self), None);
        assert_eq!(checker::unsound_tree(self), None);
    }

    /// Changes a stored row behind the back of its node.
    fn tamper(&mut self, node: usize, table: Table, row: &[u8], change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) {
        use quorate::store::{ReadTxn as _, Store as _};
        let mut txn = self.machines[node].store.write().expect("nobody else writes");
        let before = txn.get(table, row).expect("memory can be read").expect("the row is there").to_vec();
        match change(before) {
            Some(bytes) => txn.put(table, row, &bytes).expect("memory can be written"),
            None => drop(txn.delete(table, row).expect("memory can be written")),
        }
        txn.commit().expect("nothing was told to fail");
    }

    fn report_of(&mut self, node: usize) -> ExchangeReport {
        match self.ask(node, ClientRequest::Exchanges) {
            ClientResponse::Exchanges(report) => report,
            other => panic!("no report: {other:?}"),
        }
    }

    fn order(&mut self, node: usize, order: Order) -> ClientResponse {
        self.ask(node, ClientRequest::Administer(order))
    }
}

#[test]
fn what_was_written_on_either_side_of_a_cut_is_everywhere_afterwards() {
    let mut cluster = Cluster::settled_with(60, &alone(4));
    isolate(&mut cluster, 1);
    cluster.run_for(4_000);
    cluster.write_cold("cut", 40);
    cluster.assert_heals();
}

#[test]
fn a_node_that_was_dead_gets_what_it_missed() {
    let mut cluster = Cluster::settled_with(61, &alone(5));
    cluster.crash(2, 20);
    cluster.run_for(2_000);
    cluster.write_cold("dead", 60);
    cluster.start(2);
    cluster.assert_heals();
}

#[test]
fn a_wiped_disk_is_whole_again_and_answers_for_nothing_before() {
    let mut cluster = Cluster::settled_with(62, &alone(3));
    cluster.write_cold("wiped", 40);
    cluster.run_for(1_000);
    let before: BTreeMap<Key, Object> =
        checker::all_keys(&cluster).into_iter().map(|key| (key.clone(), cluster.machines[0].object(&key))).collect();
    cluster.crash(0, 20);
    cluster.machines[0].store.restore(&Snapshot::default());
    cluster.start(0);
    cluster.run_until(10_000, "it knows that its disk is new", |cluster| cluster.doubted_partitions() == 16);
    let found = cluster.get(0, "wiped-1", Consistency::Quorum);
    assert_eq!(values(&found), ["v"], "the other two know");
    let held = |cluster: &Cluster| cluster.machines[0].keys().len();
    cluster.assert_heals();
    assert_eq!(held(&cluster), before.len());
    assert!(cluster.was_told(0, |event| matches!(event, Event::StoreIsOld { .. })));
}

#[test]
fn doubts_outlive_a_crash_in_the_middle_of_filling() {
    let mut cluster = Cluster::settled_with(63, &alone(3));
    cluster.write_cold("k", 20);
    cluster.crash(0, 20);
    cluster.machines[0].store.restore(&Snapshot::default());
    cluster.start(0);
    cluster.run_until(10_000, "it knows that its disk is new", |cluster| cluster.doubted_partitions() == 16);
    cluster.run_for(5);
    isolate(&mut cluster, 0);
    cluster.restart(0);
    assert_eq!(cluster.doubted_partitions(), 16);
    cluster.assert_heals();
}

#[test]
fn an_old_copy_of_a_disk_catches_up() {
    let mut cluster = Cluster::settled_with(64, &alone(5));
    cluster.write_cold("before", 30);
    cluster.restart(1);
    cluster.run_for(500);
    let old = cluster.machines[0].store.snapshot();
    cluster.restart(0);
    cluster.heal();
    cluster.write_cold("after", 30);
    cluster.crash(0, 20);
    cluster.machines[0].store.restore(&old);
    cluster.start(0);
    cluster.assert_heals();
}

#[test]
fn a_disk_that_takes_no_writes_for_a_while_catches_up() {
    let mut cluster = Cluster::settled_with(65, &alone(4));
    for round in 0..12 {
        cluster.fail_next_commit(1);
        cluster.put(0, &format!("full-{round}"), "v", Consistency::Quorum).expect_stored();
    }
    cluster.assert_heals();
}

#[test]
fn one_partition_wiped_one_record_flipped_one_row_of_the_tree_falsified_are_all_healed_and_do_not_travel() {
    let mut cluster = Cluster::settled_with(66, &alone(3));
    cluster.write_cold("k", 60);
    cluster.run_for(1_000);
    let keys: Vec<Key> = checker::all_keys(&cluster).into_iter().collect();
    let wanted: Vec<Object> = keys.iter().map(|key| cluster.machines[2].object(key)).collect();
    let ring = cluster.node(0).unwrap().view().ring.clone().unwrap();

    let lost = ring.partition_of(&keys[0]);
    for key in keys.iter().filter(|key| ring.partition_of(key) == lost) {
        let row = schema::object_row(quorate::ring::token::Token::of(key).0, key);
        cluster.tamper(0, Table::Objects, row.as_bytes(), |_| None);
    }
    let flipped = keys.iter().find(|key| ring.partition_of(key) != lost).unwrap();
    let row = schema::object_row(quorate::ring::token::Token::of(flipped).0, flipped);
    cluster.tamper(1, Table::Objects, row.as_bytes(), |mut bytes| {
        *bytes.last_mut().unwrap() ^= 0x10;
        Some(bytes)
    });
    let token = quorate::ring::token::Token::of(keys.last().unwrap());
    let row = schema::bucket_row(quorate::replica::tree::bucket_of(token));
    cluster.tamper(2, Table::Trees, row.as_bytes(), |bytes| {
        let mut body = record::open(Table::Trees, row.as_bytes(), &bytes).unwrap().to_vec();
        body[20] ^= 1;
        Some(record::seal(Table::Trees, row.as_bytes(), &body))
    });
    for node in 0..3 {
        assert!(matches!(cluster.order(node, Order::Check), ClientResponse::Administered));
    }
    cluster.assert_heals();
    for node in 0..3 {
        let held: Vec<Object> = keys.iter().map(|key| cluster.machines[node].object(key)).collect();
        assert_eq!(held, wanted, "node {node}");
        let check = cluster.report_of(node).check.expect("it was ordered");
        assert_eq!(check.buckets_done, check.buckets_total);
    }
    let checks: Vec<_> = (0..3).map(|node| cluster.report_of(node).check.unwrap()).collect();
    assert_eq!((checks[1].damaged, checks[0].wrong_sums > 0), (1, true), "{checks:?}");
    // Whichever came first, the check or an exchange that led to nothing.
    assert!(cluster.node(2).unwrap().counters().buckets_mended > 0);
}

#[test]
fn a_falsified_row_of_the_tree_is_found_by_comparing_alone() {
    let mut cluster = Cluster::settled_with(67, &alone(3));
    cluster.write_cold("k", 30);
    cluster.run_for(1_000);
    let key = checker::all_keys(&cluster).into_iter().next().unwrap();
    let row = schema::bucket_row(quorate::replica::tree::bucket_of(quorate::ring::token::Token::of(&key)));
    cluster.tamper(0, Table::Trees, row.as_bytes(), |bytes| {
        let mut body = record::open(Table::Trees, row.as_bytes(), &bytes).unwrap().to_vec();
        body[20] ^= 1;
        Some(record::seal(Table::Trees, row.as_bytes(), &body))
    });
    cluster.run_until(3 * INTERVAL_MS, "the row is put right", |cluster| {
        cluster.node(0).is_some_and(|node| node.counters().buckets_mended == 1)
    });
    cluster.assert_heals();
}

#[test]
fn a_partition_whose_hints_were_refused_is_compared_early_though_its_keeper_does_not_hold_it() {
    let hour = Some(Duration::from_secs(3_600));
    let limits = Some(HintLimits { target_bytes: 300, total_bytes: 300 });
    let setup = Setup {
        read_repair: false,
        exchange_interval: hour,
        hint_ttl: Some(Duration::from_secs(20)),
        hint_limits: limits,
        ..Setup::sound(5, 3)
    };
    let mut cluster = Cluster::settled_with(68, &setup);
    // All are in step, and would be left alone for an hour.
    cluster.run_for(20_000);
    isolate(&mut cluster, 0);
    cluster.run_for(4_000);
    for number in 0..60 {
        cluster.put(1 + number % 4, &format!("k-{number}"), "v", Consistency::Quorum).expect_stored();
    }
    let marked: usize = cluster.machines.iter().map(|machine| machine.marked_count()).sum();
    assert!(marked > 0, "hints were refused");
    cluster.heal();
    cluster.run_until(60_000, "no mark is left", |cluster| {
        cluster.machines.iter().all(|machine| machine.marked_count() == 0)
    });
    assert_eq!(checker::differing_replicas(&cluster), None);
}

#[test]
fn a_repair_is_carried_out_at_once_and_told_of() {
    let mut setup = alone(4);
    setup.exchange_interval = Some(Duration::from_secs(3_600));
    let mut cluster = Cluster::settled_with(69, &setup);
    cluster.run_for(20_000);
    isolate(&mut cluster, 0);
    cluster.run_for(4_000);
    let write = |cluster: &mut Cluster, name: &str| {
        (1..4)
            .for_each(|node| drop(cluster.put(node, &format!("{name}-{node}"), "v", Consistency::One).expect_stored()));
    };
    write(&mut cluster, "k");
    cluster.network.mend_all();
    cluster.run_for(1_000);
    let key = checker::all_keys(&cluster).into_iter().find(|key| {
        let row = checker::primaries(&cluster, key);
        row.iter().any(|machine| machine.id == cluster.machines[0].id)
    });
    let scope = RepairScope::Key(key.expect("a key of the first node's"));
    assert!(matches!(cluster.order(0, Order::Repair { scope, is_traced: true }), ClientResponse::Administered));
    let is_over = |cluster: &mut Cluster| cluster.report_of(0).repair.is_some_and(|repair| repair.is_over);
    while !is_over(&mut cluster) {
        cluster.run_for(100);
    }
    let repair = cluster.report_of(0).repair.unwrap();
    assert_eq!((repair.peers_done, repair.failed.len(), repair.partitions_done), (repair.peers_total, 0, 1));
    assert!(repair.taken <= 1 && !repair.trace.is_empty(), "{repair:?}");

    let scope = RepairScope::Everything;
    cluster.order(0, Order::Repair { scope, is_traced: false });
    while !is_over(&mut cluster) {
        cluster.run_for(100);
    }
    let repair = cluster.report_of(0).repair.unwrap();
    assert_eq!((repair.peers_done, repair.failed.len()), (3, 0), "{repair:?}");
    let ring = cluster.node(0).unwrap().view().ring.clone().unwrap();
    for key in checker::all_keys(&cluster) {
        let row = ring.row(ring.partition_of(&key)).to_vec();
        if row.contains(&cluster.machines[0].id) {
            let objects: Vec<Object> = checker::primaries(&cluster, &key).iter().map(|it| it.object(&key)).collect();
            assert!(objects.windows(2).all(|pair| pair[0] == pair[1]), "{key:?}");
        }
    }
}

#[test]
fn a_repair_of_what_is_not_held_says_who_holds_it_and_one_that_is_switched_off_says_so() {
    let mut cluster = Cluster::settled_with(70, &alone(5));
    let ring = cluster.node(0).unwrap().view().ring.clone().unwrap();
    let me = cluster.machines[0].id;
    let foreign = ring.partitions().iter().find(|partition| !ring.row(*partition).contains(&me)).unwrap();
    let answer = cluster.order(0, Order::Repair { scope: RepairScope::Partition(foreign), is_traced: false });
    assert!(format!("{answer:?}").contains("ask one of those that do"), "{answer:?}");
    let mut off = Cluster::settled_with(71, &Setup { anti_entropy: AntiEntropy::Off, ..alone(3) });
    let answer = off.order(0, Order::Repair { scope: RepairScope::Everything, is_traced: false });
    assert!(format!("{answer:?}").contains("switched off"), "{answer:?}");
    isolate(&mut off, 0);
    off.run_for(4_000);
    off.write_cold("k", 6);
    off.heal();
    off.run_for(4 * INTERVAL_MS);
    assert!(checker::differing_replicas(&off).is_some(), "nobody compares");
}

#[test]
fn exchanges_that_break_at_any_stage_on_either_side_end_well() {
    for seed in 0..8 {
        let mut cluster = Cluster::settled_with(72 + seed, &alone(4));
        isolate(&mut cluster, 0);
        cluster.run_for(4_000);
        cluster.write_cold("k", 60);
        cluster.network.mend_all();
        let mut broken = 0;
        for _ in 0..2_000 {
            cluster.step();
            broken += u64::from(cluster.dice.permille(60) && cluster.break_any_stream());
        }
        assert!(broken > 3, "seed {seed}: only {broken} streams were broken");
        cluster.restart(usize::try_from(seed % 4).unwrap());
        // A pair that failed again and again waits longer than those that did not.
        cluster.assert_heals_within(4 * INTERVAL_MS);
    }
}

#[test]
fn a_member_that_joins_in_the_middle_of_exchanges_is_given_what_it_now_shares_and_nothing_is_hashed_again() {
    let mut cluster = Cluster::new(81, &alone(4));
    (0..3).for_each(|index| cluster.start(index));
    cluster.run_until(20_000, "three are members, and hold what they are to hold", |cluster| {
        let is_member = |index| cluster.node(index).is_some_and(|node| node.view().members.len() == 3);
        (0..3).all(is_member) && checker::unsettled_partition(cluster).is_none()
    });
    isolate(&mut cluster, 0);
    cluster.run_for(4_000);
    cluster.write_cold("k", 120);
    cluster.network.mend_all();
    let is_under_way = |cluster: &Cluster| cluster.has_streams();
    cluster.run_until(20_000, "replicas are compared", is_under_way);
    cluster.start(3);
    cluster.run_until(20_000, "all are members", checker::is_settled);
    cluster.assert_heals();
    let me = cluster.machines[3].id;
    let ring = cluster.node(3).unwrap().view().ring.clone().unwrap();
    let owed = checker::all_keys(&cluster).into_iter().filter(|key| ring.row(ring.partition_of(key)).contains(&me));
    assert!(owed.count() > 40, "the newcomer holds its share");
    for index in 0..4 {
        let counters = cluster.node(index).unwrap().counters();
        assert_eq!((counters.items_rehashed, counters.buckets_mended), (0, 0), "node {index}");
    }
}

#[test]
fn writes_and_a_restart_in_the_middle_of_exchanges_end_well() {
    let mut cluster = Cluster::settled_with(80, &Setup { weather: Weather::FOUL, ..alone(3) });
    isolate(&mut cluster, 0);
    cluster.run_for(4_000);
    cluster.write_cold("k", 40);
    cluster.network.mend_all();
    for round in 0..30 {
        cluster.put(1, &format!("k-{round}"), "w", Consistency::One).expect_stored();
        cluster.put(2, &format!("n-{round}"), "w", Consistency::One).expect_stored();
        if round == 10 {
            cluster.restart(2);
        }
    }
    cluster.network.weather = Weather::FAIR;
    cluster.assert_heals();
}

/// Whether a cluster with this setup heals from a wiped disk and from writes and deletes on both sides of a cut.
fn heals(seed: u64, setup: &Setup) -> bool {
    let mut cluster = Cluster::settled_with(seed, setup);
    cluster.write_cold("k", 40);
    for number in 0..10 {
        let _ = cluster.ask_to_delete(1, &format!("k-{number}"));
    }
    cluster.run_for(1_000);
    isolate(&mut cluster, 0);
    cluster.run_for(4_000);
    for number in 10..30 {
        cluster.put(1, &format!("k-{number}"), "w", Consistency::One).expect_stored();
        cluster.put(0, &format!("k-{number}"), "x", Consistency::One).expect_stored();
    }
    for number in 30..40 {
        let _ = cluster.ask_to_delete(1, &format!("k-{number}"));
        // Of this one the first node never hears while it lives.
        cluster.put(1, &format!("short-{number}"), "v", Consistency::One).expect_stored();
        let _ = cluster.ask_to_delete(1, &format!("short-{number}"));
    }
    let written = cluster.written();
    cluster.heal();
    cluster.run_for(2 * INTERVAL_MS);
    let before = cluster.repairs();
    cluster.run_for(3 * INTERVAL_MS);
    let is_whole = written.iter().all(|(key, object)| {
        checker::primaries(&cluster, key).iter().all(|machine| !machine.object(key).merge(object.clone()))
    });
    let mended: u64 = (0..3).filter_map(|index| cluster.node(index)).map(|node| node.counters().buckets_mended).sum();
    let is_sound = mended == 0 && checker::unsound_tree(&cluster).is_none();
    checker::differing_replicas(&cluster).is_none() && cluster.repairs() == before && is_whole && is_sound
}

impl Cluster {
    /// Everything that any store holds, merged.
    fn written(&self) -> BTreeMap<Key, Object> {
        let mut written: BTreeMap<Key, Object> = BTreeMap::new();
        for machine in &self.machines {
            for key in machine.keys() {
                written.entry(key.clone()).or_default().merge(machine.object(&key));
            }
        }
        written
    }

    fn try_put(&mut self, node: usize, key: &str, value: &str) -> ClientResponse {
        use quorate::{
            ident::{OpId, Value},
            wire::client::{Put, Scope},
        };
        let mut op = [0; 16];
        op.copy_from_slice(&self.dice.bytes()[..16]);
        let (key, value) = (key_of(key), Value::new(value.as_bytes()).expect("a value"));
        let (w, scope) = (Consistency::One, Scope::Sloppy);
        let put = Put { key, value, context: None, op: OpId(op), w, scope, ttl_ms: None, budget_ms: 5_000 };
        self.ask(node, ClientRequest::Put(put))
    }

    fn ask_to_delete(&mut self, node: usize, key: &str) -> ClientResponse {
        use quorate::wire::client::{Delete, Get, ReadFrom, Scope};
        let get =
            Get { key: key_of(key), from: ReadFrom::Row(Consistency::One), scope: Scope::Sloppy, budget_ms: 5_000 };
        let ClientResponse::Found(found) = self.ask(node, ClientRequest::Get(get)) else { panic!("not found: {key}") };
        let (w, scope) = (Consistency::One, Scope::Sloppy);
        let delete = Delete { key: key_of(key), context: found.context, w, scope, budget_ms: 5_000 };
        self.ask(node, ClientRequest::Delete(delete))
    }
}

#[test]
fn planted_bugs_of_trees_and_exchanges_are_caught() {
    let sound = alone(3);
    let seeds = 90..94;
    assert!(seeds.clone().all(|seed| heals(seed, &sound)));
    let with_trees = |trees| Setup { rules: Rules { trees, ..Rules::sound() }, ..alone(3) };
    let planted = [
        ("a tombstone left out of the tree", with_trees(TreeRule::WithoutTombstones)),
        ("a leaf not updated by a merge", with_trees(TreeRule::MergesForgotten)),
        ("an exchange that overwrites", with_trees(TreeRule::ExchangesOverwrite)),
        (
            "one child of sixteen never compared",
            Setup { node_rules: NodeRules { compare: CompareRule::AllButOne, ..NodeRules::sound() }, ..alone(3) },
        ),
    ];
    for (what, setup) in planted {
        let caught = seeds.clone().filter(|seed| !heals(*seed, &setup)).count();
        println!("{what}: caught under {caught} of {} seeds", seeds.clone().count());
        assert!(caught > 0, "{what} was not caught");
    }
}
