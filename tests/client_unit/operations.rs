//! Operations against nodes that fail as the script says: who is asked, how often, and what the caller is told.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use quorate::{
    causality::{
        context::{Context, ContextKey},
        seen::Seen,
    },
    client::{Client, ClientConfig, ClientError, OPERATIONS_IN_FLIGHT_MAX, Write},
    ident::{Key, Name, NodeId, OpId, Value},
    membership::{history::History, view::View},
    wire::{
        administration::{MembershipOrder, Order},
        client::{
            ClientRequest, ClientResponse, Consistency, Cursor, Failure, Found, Keys, Put, ReadFrom, Scan, Stored,
        },
    },
};

use crate::stage::{Extra, Node, Script, cluster_of, config, play, until};

fn key(text: &str) -> Key {
    Key::new(text.as_bytes()).unwrap()
}

fn context() -> Context {
    let secret = ContextKey::of(&Name::new("stage").unwrap(), None);
    Context::seal(&Seen::default(), &key("cart"), &secret).unwrap()
}

fn stored() -> Option<ClientResponse> {
    let (hinted, context) = (Vec::new(), context());
    Some(ClientResponse::Stored(Stored { acks: 2, primaries: 2, hinted, context, degraded: false }))
}

fn found() -> Option<ClientResponse> {
    Some(ClientResponse::Found(Found { siblings: Vec::new(), context: context(), degraded: false, local: None }))
}

fn failed(failure: Failure) -> Option<ClientResponse> {
    Some(ClientResponse::Failed(failure))
}

fn unavailable() -> Option<ClientResponse> {
    failed(Failure::Unavailable { detail: "still looking for a cluster".into() })
}

fn overloaded() -> Option<ClientResponse> {
    failed(Failure::Overloaded { detail: "4096 operations".into() })
}

fn always(answer: fn() -> Option<ClientResponse>) -> Script {
    Arc::new(move |_| answer())
}

/// Where `extra` stands in the order in which nodes should serve the key `cart`.
fn place(extra: &Extra, history: &History) -> usize {
    let ring = View::fold(history).ring.unwrap();
    let ranking = ring.ranking(ring.partition_of(&key("cart")));
    ranking.iter().position(|node| *node == extra.id()).unwrap()
}

/// A client connected to all of three nodes; the nodes are in the order in which they should serve the key `cart`.
async fn three(scripts: [Script; 3], change: impl FnOnce(&mut ClientConfig)) -> (Client, Vec<Node>) {
    let (mut extras, history) = cluster_of(3).await;
    extras.sort_by_key(|extra| place(extra, &history));
    let play_one = |(extra, script): (Extra, Script)| extra.play(history.clone(), script);
    let nodes: Vec<Node> = extras.into_iter().zip(scripts).map(play_one).collect();
    // Only the last is given; the others are found by the addresses in their profiles.
    let mut config = config(vec![nodes[2].address.clone()]);
    change(&mut config);
    let client = Client::connect(config).await.unwrap();
    for node in &nodes {
        let ready = || client.connected().contains(&node.id);
        until("the client is connected to every member", ready).await;
    }
    (client, nodes)
}

fn puts(node: &Node) -> Vec<Put> {
    let put = |request: &ClientRequest| match request {
        ClientRequest::Put(put) => Some(put.clone()),
        _ => None,
    };
    node.asked.lock().unwrap().iter().filter_map(put).collect()
}

fn counts(nodes: &[Node]) -> Vec<usize> {
    nodes.iter().map(|node| node.asked.lock().unwrap().len()).collect()
}

async fn put(client: &Client) -> Result<Stored, ClientError> {
    client.put(&key("cart"), Value::new(b"a lamp").unwrap(), Write::default()).await
}

#[test]
fn a_request_goes_straight_to_the_first_of_the_row() {
    play(async {
        let (client, nodes) = three([always(stored), always(stored), always(stored)], |_| {}).await;
        assert_eq!(client.home(), nodes[2].id);
        put(&client).await.unwrap();
        assert_eq!(counts(&nodes), [1, 0, 0]);
        let asked = puts(&nodes[0]);
        assert!(asked[0].budget_ms > 2_000 && asked[0].budget_ms <= 3_200, "{}", asked[0].budget_ms);
        put(&client).await.unwrap();
        assert_ne!(puts(&nodes[0])[1].op, asked[0].op);
    });
}

#[test]
fn a_local_read_goes_to_the_home_node_whoever_serves_the_key() {
    play(async {
        let (client, nodes) = three([always(found), always(found), always(found)], |_| {}).await;
        client.get_local(&key("cart")).await.unwrap();
        assert_eq!(counts(&nodes), [0, 0, 1]);
        let asked = nodes[2].asked.lock().unwrap().clone();
        assert!(matches!(&asked[0], ClientRequest::Get(get) if get.from == ReadFrom::Local));
    });
}

#[test]
fn a_write_that_may_be_tried_again_goes_to_the_next_node_under_the_same_name() {
    play(async {
        let (client, nodes) = three([always(unavailable), always(overloaded), always(stored)], |_| {}).await;
        put(&client).await.unwrap();
        assert_eq!(counts(&nodes), [1, 1, 1]);
        let ops: BTreeSet<OpId> = nodes.iter().map(|node| puts(node)[0].op).collect();
        assert_eq!(ops.len(), 1);
    });
}

#[test]
fn three_retries_are_the_most_and_the_last_word_is_told() {
    play(async {
        let (client, nodes) = three([always(overloaded), always(overloaded), always(overloaded)], |_| {}).await;
        let error = put(&client).await.unwrap_err();
        assert_eq!(error, ClientError::Failed(Failure::Overloaded { detail: "4096 operations".into() }));
        assert_eq!(counts(&nodes).iter().sum::<usize>(), 4);
        assert!(counts(&nodes).iter().all(|count| *count >= 1));
    });
}

#[test]
fn a_final_failure_is_told_as_it_is_and_not_tried_again() {
    let quorum_not_met = Failure::QuorumNotMet { acks: 1, needed: 2, maybe_stored: true };
    let answer = quorum_not_met.clone();
    play(async {
        let script: Script = Arc::new(move |_| failed(answer.clone()));
        let (client, nodes) = three([script, always(stored), always(stored)], |_| {}).await;
        assert_eq!(put(&client).await, Err(ClientError::Failed(quorum_not_met)));
        assert_eq!(counts(&nodes), [1, 0, 0]);
    });
}

#[test]
fn when_a_node_dies_with_a_write_the_next_is_asked_under_the_same_name() {
    play(async {
        let (client, mut nodes) = three([always(|| None), always(stored), always(stored)], |_| {}).await;
        let first = nodes.remove(0);
        let asked = first.asked.clone();
        let dying = async {
            until("the write has arrived", || !asked.lock().unwrap().is_empty()).await;
            drop(first);
        };
        let began = Instant::now();
        let (outcome, ()) = futures::join!(put(&client), dying);
        outcome.unwrap();
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        let ClientRequest::Put(lost) = asked.lock().unwrap()[0].clone() else { panic!("not a put") };
        assert_eq!(puts(&nodes[0])[0].op, lost.op);
    });
}

#[test]
fn beside_a_silent_node_another_is_asked_at_half_time() {
    play(async {
        let silent = || always(|| None);
        let quick = |config: &mut ClientConfig| config.deadline = Duration::from_secs(2);
        let (client, nodes) = three([silent(), always(stored), always(stored)], quick).await;
        let began = Instant::now();
        put(&client).await.unwrap();
        // The silent node's own behaviour would give up for it after seven eighths of the time.
        let half = Duration::from_secs(1)..Duration::from_millis(1_600);
        assert!(half.contains(&began.elapsed()), "{:?}", began.elapsed());
        assert_eq!(counts(&nodes), [1, 1, 0]);
    });
}

/// A client of three nodes, of which the first for the key `cart` is played by `spoil`.
async fn three_with_first(spoil: fn(Extra) -> Node) -> (Client, Node, Vec<Node>) {
    let (mut extras, history) = cluster_of(3).await;
    extras.sort_by_key(|extra| place(extra, &history));
    let spoilt = spoil(extras.remove(0));
    let nodes: Vec<Node> = extras.into_iter().map(|extra| extra.play(history.clone(), always(stored))).collect();
    let config = ClientConfig { deadline: Duration::from_secs(2), ..config(vec![nodes[0].address.clone()]) };
    let client = Client::connect(config).await.unwrap();
    until("the client is connected", || client.connected().len() == 3).await;
    (client, spoilt, nodes)
}

/// How long a put takes that succeeds.
async fn time_to_put(client: &Client) -> Duration {
    let began = Instant::now();
    put(client).await.unwrap();
    began.elapsed()
}

#[test]
fn a_node_that_does_not_answer_slows_down_one_operation_only() {
    play(async {
        let (client, mute, _nodes) = three_with_first(Extra::play_mute).await;
        assert!(time_to_put(&client).await >= Duration::from_secs(1));
        // Longer than it takes to find out whether it answers at all.
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(4) {
            assert!(time_to_put(&client).await < Duration::from_millis(700));
            async_std::task::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(counts(std::slice::from_ref(&mute)), [1]);
        assert!(client.connected().contains(&mute.id));
    });
}

#[test]
fn a_node_that_has_frozen_slows_down_one_operation_and_is_disconnected() {
    play(async {
        let (client, frozen, _nodes) = three_with_first(Extra::play_frozen).await;
        assert!(time_to_put(&client).await >= Duration::from_secs(1));
        assert!(time_to_put(&client).await < Duration::from_millis(700));
        until("the frozen node is disconnected", || !client.connected().contains(&frozen.id)).await;
        assert!(time_to_put(&client).await < Duration::from_millis(700));
    });
}

#[test]
fn a_write_that_nobody_answers_is_unknown_and_a_read_is_not() {
    play(async {
        let silent = || always(|| None);
        let quick = |config: &mut ClientConfig| config.deadline = Duration::from_millis(600);
        let (client, _nodes) = three([silent(), silent(), silent()], quick).await;
        assert_eq!(put(&client).await, Err(ClientError::TimedOut { maybe_stored: true }));
        let read = client.get(&key("cart"), Consistency::Quorum).await;
        assert_eq!(read, Err(ClientError::TimedOut { maybe_stored: false }));
    });
}

#[test]
fn an_order_about_members_that_nobody_answers_is_unknown_and_one_to_look_around_is_not() {
    play(async {
        let silent = || always(|| None);
        let quick = |config: &mut ClientConfig| config.deadline = Duration::from_millis(600);
        let (client, _nodes) = three([silent(), silent(), silent()], quick).await;
        let leave = client.administer(Order::Membership(MembershipOrder::Leave)).await;
        assert_eq!(leave, Err(ClientError::TimedOut { maybe_stored: true }));
        let check = client.administer(Order::Check).await;
        assert_eq!(check, Err(ClientError::TimedOut { maybe_stored: false }));
    });
}

#[test]
fn after_an_unknown_attempt_a_clean_refusal_is_still_unknown() {
    play(async {
        let (client, mut nodes) = three([always(|| None), always(unavailable), always(unavailable)], |_| {}).await;
        let first = nodes.remove(0);
        let asked = first.asked.clone();
        let dying = async {
            until("the write has arrived", || !asked.lock().unwrap().is_empty()).await;
            drop(first);
        };
        let (outcome, ()) = futures::join!(put(&client), dying);
        assert_eq!(outcome, Err(ClientError::TimedOut { maybe_stored: true }));
    });
}

#[test]
fn when_all_nodes_are_gone_an_operation_says_whom_it_cannot_reach() {
    play(async {
        let quick = |config: &mut ClientConfig| config.deadline = Duration::from_millis(500);
        let (client, nodes) = three([always(stored), always(stored), always(stored)], quick).await;
        drop(nodes);
        until("the client notices", || client.connected().is_empty()).await;
        let Err(ClientError::Unreachable { detail }) = put(&client).await else { panic!("expected Unreachable") };
        assert!(detail.contains("127.0.0.1:"), "{detail}");
    });
}

#[test]
fn an_answer_of_the_wrong_kind_is_an_error_that_names_the_node() {
    play(async {
        let (client, nodes) = three([always(found), always(stored), always(stored)], |_| {}).await;
        match put(&client).await {
            Err(error @ ClientError::Unexpected { node, .. }) => {
                assert_eq!(node, nodes[0].id);
                assert!(error.maybe_stored());
            }
            other => panic!("expected Unexpected, not {other:?}"),
        }
    });
}

#[test]
fn one_operation_too_many_fails_at_once() {
    play(async {
        let silent = || always(|| None);
        let quick = |config: &mut ClientConfig| config.deadline = Duration::from_secs(2);
        let (client, _nodes) = three([silent(), silent(), silent()], quick).await;
        let refused = AtomicUsize::new(0);
        let attempts = (0..=OPERATIONS_IN_FLIGHT_MAX).map(|_| async {
            if let Err(ClientError::Failed(Failure::Overloaded { .. })) =
                client.get(&key("cart"), Consistency::One).await
            {
                refused.fetch_add(1, Ordering::Relaxed);
            }
        });
        join_all(attempts).await;
        assert_eq!(refused.into_inner(), 1);
        // All places have been given back.
        assert_eq!(
            client.get(&key("cart"), Consistency::One).await,
            Err(ClientError::TimedOut { maybe_stored: false })
        );
    });
}

/// Lists `keys`, two to a page.
fn lister(keys: &[&str]) -> Script {
    let keys: Vec<Key> = keys.iter().copied().map(key).collect();
    Arc::new(move |request| {
        let ClientRequest::Scan(Scan { prefix, after, limit }) = request else { return None };
        assert_eq!(*limit, 1_000);
        let start = after.as_ref().map_or(0, |cursor| usize::from(cursor.0[0]));
        let page = keys.iter().skip(start).take(2);
        let page = page.filter(|key| key.as_bytes().starts_with(prefix)).cloned().collect();
        let next = (start + 2 < keys.len()).then(|| Cursor(vec![u8::try_from(start).unwrap() + 2]));
        Some(ClientResponse::Keys(Keys { keys: page, next }))
    })
}

#[test]
fn a_scan_lists_every_key_once_in_order() {
    play(async {
        // By token, as a member would, hence in no order of their own.
        let lists = [["c", "a", "d"], ["d", "b", "a"], ["b", "c", "d"]].map(|keys| lister(&keys));
        let (client, _nodes) = three(lists, |_| {}).await;
        // Each key is with two of three, so that any two lists hold them all.
        let expected: Vec<Key> = ["a", "b", "c", "d"].map(key).into();
        assert_eq!(client.scan(b"", None).await.unwrap(), expected);
        assert_eq!(client.scan(b"", Some(2)).await.unwrap(), expected[..2]);
        assert_eq!(client.scan(b"c", None).await.unwrap(), [key("c")]);
    });
}

#[test]
fn a_scan_goes_on_without_a_minority_and_fails_without_a_majority() {
    play(async {
        let quick = |config: &mut ClientConfig| config.deadline = Duration::from_millis(500);
        let (client, _nodes) = three([lister(&["a"]), lister(&["a"]), always(|| None)], quick).await;
        assert_eq!(client.scan(b"", None).await.unwrap(), [key("a")]);

        let (client, _nodes) = three([lister(&["a"]), always(|| None), always(|| None)], quick).await;
        match client.scan(b"", None).await {
            Err(ClientError::Failed(Failure::Unavailable { detail })) => {
                assert!(detail.starts_with("1 of the 2 members needed of the row of partition 0"), "{detail}");
            }
            other => panic!("expected Unavailable, not {other:?}"),
        }
    });
}

#[test]
fn a_scan_under_a_tag_stops_reading_pages_when_it_has_enough() {
    play(async {
        let keys = ["{t}1", "{t}2", "{t}3", "{t}4", "{t}5"];
        let (client, nodes) = three([lister(&keys), lister(&keys), lister(&keys)], |_| {}).await;
        assert_eq!(client.scan(b"{t}", Some(1)).await.unwrap(), [key("{t}1")]);
        assert!(counts(&nodes).iter().all(|count| *count <= 1), "{:?}", counts(&nodes));
        assert_eq!(client.scan(b"{t}", None).await.unwrap(), keys.map(key));
    });
}

#[test]
fn a_scan_ends_though_a_node_repeats_its_page_for_ever() {
    play(async {
        let looping = || -> Option<ClientResponse> {
            Some(ClientResponse::Keys(Keys { keys: vec![key("a")], next: Some(Cursor(vec![7])) }))
        };
        let (client, nodes) = three([always(looping), always(looping), always(looping)], |_| {}).await;
        assert!(matches!(client.scan(b"", None).await, Err(ClientError::Failed(Failure::Unavailable { .. }))));
        assert!(counts(&nodes).iter().all(|count| *count <= 2), "{:?}", counts(&nodes));
    });
}

#[test]
fn a_forged_history_is_not_believed() {
    play(async {
        let (mut extras, history) = cluster_of(2).await;
        let mut changes: Vec<_> = history.iter().cloned().collect();
        // The second member claims to be somebody else; the first change it depends on stays.
        let forged = changes.last_mut().unwrap();
        forged.author = NodeId([7; 32]);
        let mut believed = History::new(Name::new("stage").unwrap());
        let accepted = changes.iter().filter(|change| believed.insert((*change).clone()).is_ok()).count();
        assert_eq!(accepted, 2);

        let node = extras.remove(0).play_changes(changes, always(stored));
        let client = Client::connect(config(vec![node.address.clone()])).await.unwrap();
        assert_eq!(client.view().members.keys().copied().collect::<Vec<_>>(), [node.id]);
    });
}
