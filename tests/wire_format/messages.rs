//! One of each message, with contents in all its fields.

use quorate::{
    causality::{
        context::{Context, ContextKey},
        dot::Actor,
        seen::Seen,
        siblings::{NewValue, Object},
    },
    clock::WallTime,
    digest::Digest,
    ident::{Key, Name, NodeId, OpId, Value},
    membership::{
        change::{Change, ChangeKind, Parameters, Profile, Removal, Replacement, Signature, Signer, Statement},
        history::History,
        life::{self, Life},
        view::View,
    },
    ring::{
        partition_set::PartitionSet,
        token::{Partition, PartitionCount},
    },
    wire::{
        administration::{
            Alert, AlertKind, CheckStatus, Delivery, ExchangeReport, Force, HintOrder, HintStatus, LastExchange,
            MembershipOrder, Order, PairStatus, RepairScope, RepairStatus, RootStatus, Visited,
        },
        client::{
            ClientRequest, ClientResponse, Consistency, Cursor, Delete, Failure, Found, FoundSibling, Get,
            InspectedReplica, InspectedState, Inspection, Keys, LocalRecord, MemberStatus, Put, Reach, ReadFrom, Scan,
            Scope, Status, Stored,
        },
        exchange::{
            Answer, EXCHANGE_VERSION, ExchangeRefusal, Item, Opening, Packed, Question, Root, Step, StepAnswer,
        },
        quorum::{Reconcile, Refusal, Request, Response},
    },
};

use crate::{Case, Frame, case};

pub(crate) fn requests() -> Vec<Case> {
    let (key, partition) = (key(), digest());
    vec![
        case("request-forward", Request::Forward(ClientRequest::Status)),
        case("request-read", Request::Read { key: key.clone(), partition, whole_bytes_max: 4_096 }),
        case("request-merge", Request::Merge { key: key.clone(), object: object(), partition }),
        case("request-keep-hint", Request::KeepHint { target: node(9), key, object: object(), partition }),
        case("request-mark", Request::Mark { partitions: vec![Partition(3), Partition(700)] }),
        case("request-reconcile", Request::Reconcile(reconcile())),
        case(
            "request-reconcile-digest",
            Request::Reconcile(Reconcile { summary: None, changes: Vec::new(), ..reconcile() }),
        ),
        case(
            "request-reconcile-words",
            Request::Reconcile(Reconcile {
                word: Some(word((3, u64::MAX))),
                your_word: Some(word((0, 7))),
                summary: None,
                changes: Vec::new(),
                ..reconcile()
            }),
        ),
    ]
}

pub(crate) fn responses() -> Vec<Case> {
    let partition = digest();
    vec![
        case("response-forwarded", Response::Forwarded(ClientResponse::History(Vec::new()))),
        case("response-object", Response::Object { object: object(), partition }),
        case("response-digest", Response::Digest { digest: digest(), partition }),
        case("response-unknown", Response::Unknown { partition }),
        case("response-merged", Response::Merged { partition }),
        case("response-marked", Response::Marked),
        case("response-reconciled", Response::Reconciled(reconcile())),
        case("response-refused-overloaded", Response::Refused(Refusal::Overloaded)),
        case("response-refused-store-failed", Response::Refused(Refusal::StoreFailed)),
        case("response-refused-not-a-member", Response::Refused(Refusal::NotAMember)),
        case("response-refused-hints-full", Response::Refused(Refusal::HintsFull)),
        case("response-refused-unknown-target", Response::Refused(Refusal::UnknownTarget)),
    ]
}

pub(crate) fn client_requests() -> Vec<Case> {
    let put = Put {
        key: key(),
        value: value(),
        context: Some(context()),
        op: OpId([7; 16]),
        w: Consistency::Count(2),
        scope: Scope::Strict,
        ttl_ms: Some(60_000),
        budget_ms: 5_000,
    };
    let bare = Put { context: None, w: Consistency::Quorum, scope: Scope::Sloppy, ttl_ms: None, ..put.clone() };
    let get = |from| ClientRequest::Get(Get { key: key(), from, scope: Scope::Sloppy, budget_ms: 5_000 });
    let scan = Scan { prefix: b"{42}".to_vec(), after: Some(Cursor(vec![0, 1, 2, 255])), limit: 100 };
    let repair = |scope, is_traced| ClientRequest::Administer(Order::Repair { scope, is_traced });
    let membership = |order| ClientRequest::Administer(Order::Membership(order));
    let first = Scan { prefix: Vec::new(), after: None, limit: 1 };
    vec![
        case("client-put", ClientRequest::Put(put)),
        case("client-put-bare", ClientRequest::Put(bare)),
        case(
            "client-delete",
            ClientRequest::Delete(Delete {
                key: key(),
                context: context(),
                w: Consistency::All,
                scope: Scope::Sloppy,
                budget_ms: 5_000,
            }),
        ),
        case("client-get", get(ReadFrom::Row(Consistency::One))),
        case("client-get-local", get(ReadFrom::Local)),
        case("client-scan", ClientRequest::Scan(scan)),
        case("client-scan-first", ClientRequest::Scan(first)),
        case("client-history", ClientRequest::History(history().summary())),
        case("client-status", ClientRequest::Status),
        case("client-inspect", ClientRequest::Inspect { key: key(), budget_ms: 5_000 }),
        case("client-hints", ClientRequest::Hints),
        case("client-alerts", ClientRequest::Alerts),
        case(
            "client-deliver-hints",
            ClientRequest::Administer(Order::Hints(HintOrder::Deliver { target: Some(node(9)) })),
        ),
        case("client-deliver-all-hints", ClientRequest::Administer(Order::Hints(HintOrder::Deliver { target: None }))),
        case("client-pause-hints", ClientRequest::Administer(Order::Hints(HintOrder::Pause))),
        case("client-resume-hints", ClientRequest::Administer(Order::Hints(HintOrder::Resume))),
        case("client-exchanges", ClientRequest::Exchanges),
        case("client-roots", ClientRequest::Roots),
        case("client-repair", repair(RepairScope::Everything, true)),
        case("client-repair-partition", repair(RepairScope::Partition(Partition(700)), false)),
        case("client-repair-key", repair(RepairScope::Key(key()), false)),
        case("client-leave", membership(MembershipOrder::Leave)),
        case("client-stay", membership(MembershipOrder::Stay)),
        case("client-remove", membership(MembershipOrder::Remove { node: node(9), force: Force::No })),
        case("client-replace", membership(MembershipOrder::Replace { old: node(9), new: node(8), force: Force::Yes })),
        case("client-get-local-quorum", get(ReadFrom::Row(Consistency::LocalQuorum))),
        case("client-get-each-quorum", get(ReadFrom::Row(Consistency::EachQuorum))),
        case("client-check", ClientRequest::Administer(Order::Check)),
        case("client-drop-hints", ClientRequest::Administer(Order::Hints(HintOrder::Drop { target: node(9) }))),
    ]
}

pub(crate) fn client_responses() -> Vec<Case> {
    let stored = Stored { acks: 3, primaries: 2, hinted: vec![node(4)], context: context(), degraded: true };
    let sibling = FoundSibling { value: value(), written_at: WallTime(1_700_000_000_000) };
    let local = LocalRecord { replica: true, filled: false, clock: object().clock().clone() };
    let found = Found { siblings: vec![sibling], context: context(), degraded: false, local: Some(local) };
    let keys = Keys { keys: vec![key()], next: Some(Cursor(vec![9; 9])) };
    let state = InspectedState { hash: digest(), clock: object().clock().clone(), sibling_count: 2 };
    let row =
        vec![InspectedReplica { node: node(1), state: Some(state) }, InspectedReplica { node: node(2), state: None }];
    let mut cases = vec![
        case("answer-stored", ClientResponse::Stored(stored)),
        case("answer-found", ClientResponse::Found(found)),
        case("answer-keys", ClientResponse::Keys(keys)),
        case("answer-history", ClientResponse::History(history().iter().cloned().collect())),
        case("answer-status", ClientResponse::Status(Box::new(status()))),
        case("answer-inspection", ClientResponse::Inspection(Inspection { partition: 700, row })),
        case("answer-hints", ClientResponse::Hints(hints())),
        case("answer-alerts", ClientResponse::Alerts(alerts())),
        case("answer-exchanges", ClientResponse::Exchanges(exchanges())),
        case("answer-roots", ClientResponse::Roots(vec![root_status()])),
        case("answer-administered", ClientResponse::Administered),
    ];
    let detail = || "why".to_owned();
    let failures = [
        ("failed-quorum-not-met", Failure::QuorumNotMet { acks: 1, needed: 2, maybe_stored: true }),
        ("failed-timed-out", Failure::TimedOut { acks: 0, needed: 2, maybe_stored: false }),
        ("failed-invalid-context", Failure::InvalidContext { detail: detail() }),
        ("failed-too-large", Failure::TooLarge { detail: detail() }),
        ("failed-overloaded", Failure::Overloaded { detail: detail() }),
        ("failed-unavailable", Failure::Unavailable { detail: detail() }),
        ("failed-not-permitted", Failure::NotPermitted { detail: detail() }),
        ("failed-refused", Failure::Refused { detail: detail() }),
        ("failed-store-failed", Failure::StoreFailed { detail: detail(), maybe_stored: true }),
    ];
    cases.extend(failures.map(|(name, failure)| case(name, ClientResponse::Failed(failure))));
    cases
}

/// What messages and rows are made of.
pub(crate) fn parts() -> Vec<Case> {
    let mut changes = history().iter().cloned().collect::<Vec<Change>>();
    changes.sort_by_key(|change| change.sequence);
    let [founded, joined, updated] = <[Change; 3]>::try_from(changes).unwrap();
    for change in [&founded, &joined, &updated] {
        change.verify().unwrap();
    }
    let [leaving, left, removed, replaced, filled, retired] = later_changes();
    vec![
        case("change-founded", founded),
        case("change-joined", joined),
        case("change-updated", updated),
        case("change-leaving", leaving),
        case("change-left", left),
        case("change-removed", removed),
        case("change-replaced", replaced),
        case("change-filled", filled),
        case("change-retired", retired),
        case("object", object()),
        case("object-never-written", Object::default()),
        case("summary", history().summary()),
        case("summary-forked", forked().summary()),
        sealed_context(),
    ]
}

/// The context itself, which is opaque in messages.
fn sealed_context() -> Case {
    const FRAME: Frame = Frame { head: &[("version", 1), ("binding to the key", 8)], tail: &[("tag", 16)] };
    let open = |bytes: &[u8]| Context::new(bytes.to_vec()).ok()?.open(&key(), &context_key()).ok();
    Case {
        name: "context",
        encoded: context().as_bytes().to_vec(),
        frame: FRAME,
        reads_back: Box::new(move |bytes| open(bytes) == Some(seen())),
        survive: Box::new(move |bytes| drop(open(bytes))),
    }
}

pub(crate) fn key() -> Key {
    Key::new(b"bike{42}").unwrap()
}

pub(crate) fn value() -> Value {
    Value::new(b"red").unwrap()
}

fn node(number: u8) -> NodeId {
    NodeId([number; 32])
}

fn digest() -> Digest {
    Digest([0xd1; 32])
}

fn context_key() -> ContextKey {
    ContextKey::of(&Name::new("test").unwrap(), Some(b"secret"))
}

fn context() -> Context {
    Context::seal(&seen(), &key(), &context_key()).unwrap()
}

/// A clock, and one write beyond it.
fn seen() -> Seen {
    let (first, second) = (Actor { node: 1, epoch: 0 }, Actor { node: 2, epoch: 3 });
    let mut object = Object::default();
    object.put(&Seen::default(), first, new(1));
    let before = object.context_after_put(&Seen::default(), object.siblings()[0].dot);
    object.put(&Seen::default(), second, new(2));
    object.put(&Seen::default(), second, new(3));
    let dot = object.put(&before, second, new(4));
    object.context_after_put(&before, dot)
}

/// Two siblings, one of which expires, of two actors.
pub(crate) fn object() -> Object {
    let mut object = Object::default();
    object.put(&Seen::default(), Actor { node: u64::MAX, epoch: 3 }, new(1));
    let expiring = NewValue { expires_at: Some(WallTime(1_700_000_060_000)), ..new(2) };
    object.put(&Seen::default(), Actor { node: 1, epoch: 0 }, expiring);
    object
}

pub(crate) fn new(op: u8) -> NewValue {
    NewValue { op: OpId([op; 16]), value: value(), written_at: WallTime(1_700_000_000_000), expires_at: None }
}

fn parameters() -> Parameters {
    Parameters { partitions: PartitionCount::new(1_024).unwrap(), replicas: 3 }
}

fn profile(zone: Option<&str>) -> Profile {
    let addresses = vec!["/ip4/10.0.0.1/tcp/4001".to_owned()];
    Profile { name: Name::new("otter").unwrap(), zone: zone.map(|zone| Name::new(zone).unwrap()), weight: 2, addresses }
}

/// One founder, who joins and then says something new of itself.
pub(crate) fn history() -> History {
    let signer = Signer::from_seed([5; 32]);
    let mut history = History::new(Name::new("test").unwrap());
    let kinds =
        [ChangeKind::Founded(parameters()), ChangeKind::Joined(profile(None)), ChangeKind::Updated(profile(Some("a")))];
    for kind in kinds {
        history.insert(history.next_change(&signer, kind)).unwrap();
    }
    history
}

/// What the founder may say besides.
fn later_changes() -> [Change; 6] {
    let signer = Signer::from_seed([5; 32]);
    let mut history = history();
    let label = View::fold(&history).label;
    let few = PartitionCount::new(1_024).unwrap();
    let statement = Statement { label, partitions: PartitionSet::new(few, [0, 3, 1_023].map(Partition)) };
    let old = Removal { node: node(2), known: 7 };
    let kinds = [
        ChangeKind::Leaving,
        ChangeKind::Left,
        ChangeKind::Removed(old),
        ChangeKind::Replaced(Replacement { old, new: node(3) }),
        ChangeKind::Filled(statement.clone()),
        ChangeKind::Retired(statement),
    ];
    kinds.map(|kind| {
        let change = history.next_change(&signer, kind);
        history.insert(change.clone()).unwrap();
        change
    })
}

/// A history whose author has signed two different changes under one number.
fn forked() -> History {
    let mut history = history();
    let fork = |weight: u16| {
        let profile = Profile { weight, ..profile(None) };
        history.next_change(&Signer::from_seed([1; 32]), ChangeKind::Updated(profile))
    };
    let forks = [1, 2].map(fork);
    for change in forks {
        history.insert(change).unwrap();
    }
    history
}

fn word(life: Life) -> Signature {
    life::word(&Signer::from_seed([1; 32]), &Name::new("test").unwrap(), life)
}

fn reconcile() -> Reconcile {
    let changes = history().iter().take(1).cloned().collect();
    Reconcile {
        boot: 3,
        instance: u64::MAX,
        word: None,
        your_life: (0, 7),
        your_word: None,
        is_in_doubt: true,
        history: history().digest(),
        summary: Some(history().summary()),
        changes,
    }
}

fn status() -> Status {
    let members = [Reach::Up, Reach::Suspect, Reach::Down].into_iter().zip(1..);
    Status {
        node: node(1),
        cluster: Name::new("test").unwrap(),
        parameters: Some(parameters()),
        members: members
            .map(|(state, number)| MemberStatus {
                node: node(number),
                profile: profile(None),
                state,
                is_leaving: number == 3,
            })
            .collect(),
        change_count: 4,
        history: digest(),
        held_partitions: 1_024,
        owned_partitions: 341,
        key_count: 1_000_000,
        key_bytes: 4_096,
        commit_count: 12,
        write_count: 30,
        damaged_count: 0,
        store_failure: Some("the disk is full".to_owned()),
        hint_count: 3,
        hint_bytes: 4_096,
        marked_partitions: 2,
        filling_partitions: 5,
        filled_partitions: 7,
        filling_ms: 1_500,
        filling_keys: 70,
        filling_bytes: 7_000,
        exchange_bytes_per_second: 4_000_000,
        leftover_partitions: 9,
        unsettled_partitions: 11,
        pairs: pairs(),
        alert_count: 1,
        counters: vec![("hints_kept".to_owned(), 9)],
    }
}

fn pairs() -> Vec<PairStatus> {
    let last = [LastExchange::InStep, LastExchange::Apart, LastExchange::Failed("why".to_owned())];
    let pair = |(last, number)| PairStatus {
        node: node(number),
        shared_partitions: 600,
        agreed_ms: (number == 1).then_some(90_000),
        last: Some(last),
    };
    last.into_iter().zip(1..).map(pair).collect()
}

fn exchanges() -> ExchangeReport {
    let visited = Visited { node: node(1), branch: "/0a".to_owned(), found: "2 of its children differ".to_owned() };
    let repair = RepairStatus {
        number: 7,
        scope: RepairScope::Everything,
        peers_total: 4,
        peers_done: 1,
        partitions_total: 600,
        partitions_done: 40,
        taken: 3,
        given: 5,
        bytes: 70_000,
        lasted_ms: 900,
        is_over: false,
        failed: vec![(node(2), "why".to_owned())],
        trace: vec![visited],
    };
    let check = CheckStatus {
        buckets_total: 4_096,
        buckets_done: 17,
        failed: 1,
        records: 9_000,
        damaged: 2,
        misnamed: 3,
        wrong_sums: 4,
    };
    ExchangeReport { pairs: pairs(), under_way: 1, repair: Some(repair), check: Some(check) }
}

fn root_status() -> RootStatus {
    RootStatus { partition: Partition(700), count: 12, root: Root([7; 16]), filled: true }
}

/// What is said in an exchange.
pub(crate) fn exchange() -> Vec<Case> {
    let opening = Opening {
        version: EXCHANGE_VERSION,
        capabilities: 0,
        salt: u64::MAX,
        label: digest(),
        partitions: Some(PartitionSet::new(PartitionCount::new(16).unwrap(), [0, 3, 15].map(Partition))),
        branch: (0xabc0 << 48, 3),
        root: Root([9; 16]),
    };
    let items = || vec![Item { key: key(), object: object() }];
    let step = Step { questions: Packed(vec![0, 1, 0x10, 0, 1, 7, 7, 7, 7]), items: items() };
    let answer = StepAnswer {
        answered: 1,
        branches: Packed(vec![0, 2, 1, 8, 8, 8, 8]),
        items: items(),
        next: Some(Cursor(vec![9; 9])),
    };
    vec![
        case("exchange-open", Question::Open(opening)),
        case("exchange-step", Question::Step(step)),
        case("exchange-same", Answer::Same),
        case("exchange-differs", Answer::Differs(Packed(vec![0]))),
        case("exchange-answer", Answer::Step(answer)),
        case("exchange-refused-not-an-owner", Answer::Refused(ExchangeRefusal::NotAnOwner)),
        case("exchange-refused-other-history", Answer::Refused(ExchangeRefusal::OtherHistory)),
        case("exchange-refused-busy", Answer::Refused(ExchangeRefusal::Busy)),
        case("exchange-refused-hints-first", Answer::Refused(ExchangeRefusal::HintsFirst)),
        case("exchange-refused-unknown-version", Answer::Refused(ExchangeRefusal::UnknownVersion(1))),
        case("exchange-refused-malformed", Answer::Refused(ExchangeRefusal::Malformed)),
        case("exchange-refused-store-failed", Answer::Refused(ExchangeRefusal::StoreFailed)),
        case("exchange-refused-switched-off", Answer::Refused(ExchangeRefusal::SwitchedOff)),
    ]
}

fn hints() -> Vec<HintStatus> {
    let status = |(number, delivery)| HintStatus {
        target: node(number),
        count: 2,
        bytes: 700,
        oldest_ms: 60_000,
        delivered: (40, 1_500),
        delivery,
    };
    [(1, Delivery::Waiting), (2, Delivery::Delivering), (3, Delivery::Paused)].map(status).to_vec()
}

fn alerts() -> Vec<Alert> {
    let kinds = [
        AlertKind::MemberAway(node(1)),
        AlertKind::Isolated,
        AlertKind::HintsOld(node(2)),
        AlertKind::StoreUnwritable,
        AlertKind::Forked(node(3)),
        AlertKind::Twin,
    ];
    kinds.map(|kind| Alert { kind, since: WallTime(1_700_000_000_000), detail: "why".to_owned() }).to_vec()
}
