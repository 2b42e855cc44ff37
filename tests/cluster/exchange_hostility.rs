//! A member that lies in exchanges, as the one who asks and as the one who is asked: it costs the others little, and
//! nothing of it is kept where it does not belong.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_std::{future::timeout, task::block_on};
use quorate::{
    causality::{
        dot::Actor,
        seen::Seen,
        siblings::{NewValue, Object},
    },
    clock::WallTime,
    digest::Digest,
    ident::{Key, OpId, Value},
    merkle::{
        Short,
        branch::Branch,
        packed::{self, Below, BranchQuestion},
    },
    runtime::handle::Handle,
    wire::{
        administration::{Order, RepairScope, RepairStatus},
        client::{ClientRequest, ClientResponse, Consistency, Cursor, Get, ReadFrom, Scope},
        exchange::{
            Answer, EXCHANGE_VERSION, ExchangeRefusal, Item, Opening, Packed, Question, Root, Step, StepAnswer,
        },
    },
};

use crate::{
    harness::{PATIENCE, TestNode, get, put, settings, start, status, wait_for_members},
    mole::{Mole, Standing},
};

/// Three honest nodes with some keys, which compare only when they are told to, or when somebody comes.
async fn town(dir: &Path) -> Vec<TestNode> {
    let mut nodes: Vec<TestNode> = Vec::new();
    for index in 0..3 {
        let join = nodes.first().map(|node| node.addresses.clone()).unwrap_or_default();
        let mut settings = settings(dir, &format!("node-{index}"), &join);
        settings.node.exchange_interval = Duration::from_secs(3_600);
        nodes.push(start(settings).await);
    }
    for node in &nodes {
        wait_for_members(&node.running.handle(), 3).await;
    }
    for number in 0..400 {
        let stored = put(&nodes[number % 3].running.handle(), &format!("k-{number}"), "v", Consistency::Quorum).await;
        assert!(matches!(stored, ClientResponse::Stored(_)), "{stored:?}");
    }
    nodes
}

/// The same, and a liar among them.
async fn town_with_mole(dir: &Path) -> (Vec<TestNode>, Mole) {
    let nodes = town(dir).await;
    let mole = Mole::meet(&nodes[0], Standing::Member).await;
    until("all know the mole", || async {
        let mut known = true;
        for node in &nodes {
            known &= status(&node.running.handle()).await.members.len() == 4;
        }
        known
    })
    .await;
    // Until a test has something else for it to say: whoever asks it is not kept waiting.
    mole.follow(|_| Some(Answer::Refused(ExchangeRefusal::SwitchedOff))).await;
    (nodes, mole)
}

fn opening(mole: &Mole) -> Opening {
    Opening {
        version: EXCHANGE_VERSION,
        capabilities: 0,
        salt: 7,
        label: mole.view.placement_digest(),
        partitions: None,
        branch: (0, 0),
        root: Root([0; 16]),
    }
}

fn step(questions: Vec<u8>, items: Vec<Item>) -> Question {
    Question::Step(Step { questions: Packed(questions), items })
}

/// A key that the mole shares with nobody, and something under it.
fn foreign_item(mole: &Mole, name: &str) -> Item {
    let ring = mole.view.ring.as_ref().unwrap();
    let mut keys = (0..).map(|number: u32| Key::new(format!("{name}-{number}").as_bytes()).unwrap());
    let key = keys.find(|key| !ring.row(ring.partition_of(key)).contains(&mole.id)).unwrap();
    let mut object = Object::default();
    let value = Value::new(b"lie").unwrap();
    let new = NewValue { op: OpId([1; 16]), value, written_at: WallTime(1), expires_at: None };
    object.put(&Seen::default(), Actor { node: 1, epoch: 1 }, new);
    Item { key, object }
}

async fn counter(handle: &Handle, name: &str) -> u64 {
    status(handle).await.counters.into_iter().find(|(known, _)| known == name).unwrap().1
}

/// No node holds anything under the key.
async fn assert_unknown(nodes: &[TestNode], key: &Key) {
    for node in nodes {
        let get = Get { key: key.clone(), from: ReadFrom::Local, scope: Scope::Sloppy, budget_ms: 5_000 };
        match node.running.handle().request(ClientRequest::Get(get)).await.unwrap() {
            ClientResponse::Found(found) => assert!(found.siblings.is_empty(), "{key:?} is held"),
            other => panic!("not found: {other:?}"),
        }
    }
}

/// Clients are served, and honest members are compared with.
async fn assert_serves(nodes: &[TestNode], mole: &Mole, case: &str) {
    let key = format!("served-{case}");
    let stored = put(&nodes[0].running.handle(), &key, "v", Consistency::Quorum).await;
    assert!(matches!(stored, ClientResponse::Stored(_)), "{case}: {stored:?}");
    assert_eq!(get(&nodes[1].running.handle(), &key, Consistency::Quorum).await, ["v"], "{case}");
    for node in nodes {
        let repair = repair(&node.running.handle(), scope_without(mole), case).await;
        assert_eq!((repair.peers_done, &repair.failed[..]), (2, &[][..]), "{case}");
    }
}

/// A partition of which the mole holds nothing.
fn scope_without(mole: &Mole) -> RepairScope {
    let ring = mole.view.ring.as_ref().unwrap();
    RepairScope::Partition(ring.partition_of(&foreign_item(mole, "any").key))
}

async fn order(handle: &Handle, scope: RepairScope) {
    let order = Order::Repair { scope, is_traced: false };
    assert_eq!(handle.request(ClientRequest::Administer(order)).await.unwrap(), ClientResponse::Administered);
}

/// Has a node compare, and waits until that is over.
async fn repair(handle: &Handle, scope: RepairScope, case: &str) -> RepairStatus {
    order(handle, scope).await;
    let over = async {
        loop {
            let ClientResponse::Exchanges(report) = handle.request(ClientRequest::Exchanges).await.unwrap() else {
                panic!("no report")
            };
            if let Some(repair) = report.repair.filter(|repair| repair.is_over) {
                return repair;
            }
            async_std::task::yield_now().await;
        }
    };
    timeout(PATIENCE, over).await.unwrap_or_else(|_| panic!("{case}: the repair ends in time"))
}

async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        async_std::task::yield_now().await;
    }
}

#[test]
fn who_is_no_member_is_not_compared_with() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let nodes = town(dir.path()).await;
        let stranger = Mole::meet(&nodes[0], Standing::Stranger).await;
        let answers = stranger.ask(vec![Question::Open(opening(&stranger))]).await;
        assert_eq!(answers, [Answer::Refused(ExchangeRefusal::NotAnOwner)]);
    });
}

#[test]
fn openings_that_are_none_of_ours_are_refused_each_with_its_reason() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let (nodes, mole) = town_with_mole(dir.path()).await;
        let other_version = Opening { version: 99, ..opening(&mole) };
        let other_label = Opening { label: Digest([9; 32]), ..opening(&mole) };
        for (wrong, refusal) in [
            (other_version, ExchangeRefusal::UnknownVersion(EXCHANGE_VERSION)),
            (other_label, ExchangeRefusal::OtherHistory),
        ] {
            assert_eq!(mole.ask(vec![Question::Open(wrong)]).await, [Answer::Refused(refusal)]);
        }
        let foreign = foreign_item(&mole, "foreign");
        let give = step(Vec::new(), vec![foreign.clone()]);
        let answers = mole.ask_until_heard(vec![Question::Open(opening(&mole)), give]).await;
        assert_eq!(answers[1..], [Answer::Refused(ExchangeRefusal::Malformed)]);
        assert_unknown(&nodes, &foreign.key).await;
        // That was an offence; for a moment nothing more is heard.
        until("it is heard again", || async {
            mole.ask(vec![Question::Open(opening(&mole))]).await != [Answer::Refused(ExchangeRefusal::Busy)]
        })
        .await;
        let endless = mole.ask_until_heard(vec![Question::Open(opening(&mole)); 200]).await;
        assert_eq!(endless.len(), 200);
        assert_serves(&nodes, &mole, "openings").await;
    });
}

#[test]
fn costly_questions_are_answered_in_part() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let (nodes, mole) = town_with_mole(dir.path()).await;
        let question = BranchQuestion::Compare { branch: Branch::ROOT, children: [None; 16] };
        let questions = packed::write_questions(&vec![question; packed::QUESTION_COUNT_MAX]);
        let question = vec![Question::Open(opening(&mole)), step(questions, Vec::new())];
        let answers = mole.ask_until_heard(question).await;
        let Answer::Step(answer) = &answers[1] else { panic!("{:?}", answers[1]) };
        println!("costly questions: {} answered in {} bytes", answer.answered, answer.branches.0.len());
        assert!(0 < answer.answered && answer.answered < 16_384 && answer.branches.0.len() < 5 << 20);
        assert_serves(&nodes, &mole, "costly").await;
    });
}

#[test]
fn whoever_asks_nonsense_waits_ever_longer() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let (nodes, mole) = town_with_mole(dir.path()).await;
        let handle = nodes[0].running.handle();
        let open = || Question::Open(opening(&mole));
        let question = BranchQuestion::Compare { branch: Branch::ROOT, children: [None; 16] };
        let nonsense = [
            vec![step(Vec::new(), Vec::new())],
            vec![open(), step(vec![9, 9, 9], Vec::new())],
            vec![open(), step(packed::write_questions(&vec![question; packed::QUESTION_COUNT_MAX + 1]), Vec::new())],
        ];
        let mut waits = Vec::new();
        for (index, questions) in nonsense.into_iter().enumerate() {
            // The node may be comparing with somebody else just then.
            let busy = [Answer::Refused(ExchangeRefusal::Busy)];
            let answers = loop {
                let answers = mole.ask(questions.clone()).await;
                if answers != busy {
                    break answers;
                }
            };
            assert!(answers.last() == Some(&Answer::Refused(ExchangeRefusal::Malformed)), "case {index}");
            assert_eq!(counter(&handle, "exchange_offences").await, index as u64 + 1);
            let begun = Instant::now();
            assert_eq!(mole.ask(vec![open()]).await, [Answer::Refused(ExchangeRefusal::Busy)], "case {index}");
            until("it is listened to again", || async {
                mole.ask(vec![open()]).await != [Answer::Refused(ExchangeRefusal::Busy)]
            })
            .await;
            waits.push(begun.elapsed());
        }
        println!("waits: {waits:.1?}");
        assert!(waits.windows(2).all(|pair| pair[1] > pair[0] * 3 / 2), "{waits:?}");
        let outside = Opening { branch: (1, 3), ..opening(&mole) };
        assert_eq!(mole.ask(vec![Question::Open(outside)]).await, [Answer::Refused(ExchangeRefusal::Malformed)]);
        assert_serves(&nodes, &mole, "nonsense").await;
    });
}

fn differs() -> Option<Answer> {
    let children = std::array::from_fn(|index| Some(Short([u8::try_from(index).unwrap(); 4])));
    Some(Answer::Differs(Packed(packed::write_below(&Below::Children(children)))))
}

#[test]
fn answers_that_are_none_end_the_exchange_and_nothing_foreign_is_kept() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let (nodes, mole) = town_with_mole(dir.path()).await;
        let handle = nodes[0].running.handle();
        let foreign = foreign_item(&mole, "smuggled");
        let answer = |answered, branches: &[u8], items: &[Item], next: Option<Cursor>| {
            let branches = Packed(branches.to_vec());
            Answer::Step(StepAnswer { answered, branches, items: items.to_vec(), next })
        };
        let backwards = Some(Cursor(vec![0; 9]));
        let lies = [
            ("the wrong kind", Answer::Same),
            ("answered too many", answer(u32::MAX, &[], &[], None)),
            ("answered none", answer(0, &[], &[], None)),
            ("masks that say more than there is", answer(1, &[0xff, 0xff], &[], None)),
            ("a next where none was begun", answer(0, &[], &[], backwards)),
            ("what the two do not share", answer(1, &[0, 0], std::slice::from_ref(&foreign), None)),
        ];
        for (case, lie) in lies {
            let lied = Arc::new(AtomicUsize::new(0));
            let count = lied.clone();
            mole.follow(move |question| match question {
                Question::Open(_) => differs(),
                Question::Step(_) => {
                    count.fetch_add(1, Ordering::Relaxed);
                    Some(lie.clone())
                }
            })
            .await;
            let before = counter(&handle, "exchange_offences").await;
            order(&handle, RepairScope::Everything).await;
            until(case, || async {
                lied.load(Ordering::Relaxed) > 0 && counter(&handle, "exchange_offences").await > before
            })
            .await;
            assert_unknown(&nodes, &foreign.key).await;
            assert_serves(&nodes, &mole, case).await;
        }
    });
}

#[test]
fn roots_that_never_match_end_apart_and_do_not_hold_up_the_others() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let (nodes, mole) = town_with_mole(dir.path()).await;
        mole.follow(|question| match question {
            Question::Open(_) => Some(Answer::Differs(Packed(packed::write_below(&Below::Ids(Vec::new()))))),
            Question::Step(_) => {
                let (branches, items) = (Packed::default(), Vec::new());
                Some(Answer::Step(StepAnswer { answered: 0, branches, items, next: None }))
            }
        })
        .await;
        let repair = repair(&nodes[0].running.handle(), RepairScope::Everything, "roots").await;
        assert_eq!((repair.peers_done, repair.taken), (3, 0), "{repair:?}");
        assert!(repair.given > 0, "it was given what it said it lacks");
        assert_serves(&nodes, &mole, "roots").await;
    });
}
