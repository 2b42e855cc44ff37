//! Connecting: to nobody, to strangers, to the wrong cluster, to the right one.

use std::{
    io::{Read, Write as _},
    net::TcpListener,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, pnet::PreSharedKey};
use quorate::{
    client::{Client, ClientConfig, ClientError},
    ident::Name,
};

use crate::stage::{Extra, cluster_of, config, history_of, play, until};

fn at(listener: &TcpListener) -> Multiaddr {
    format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port()).parse().unwrap()
}

#[track_caller]
fn unreachable_detail(outcome: Result<Client, ClientError>) -> String {
    match outcome {
        Err(ClientError::Unreachable { detail }) => detail,
        other => panic!("expected Unreachable, not {other:?}"),
    }
}

#[test]
fn without_addresses_and_mdns_there_is_nothing_to_try() {
    let detail = unreachable_detail(play(Client::connect(config(Vec::new()))));
    assert!(detail.contains("mDNS is off"), "{detail}");
}

#[test]
fn where_nobody_listens_connecting_fails_at_once_and_says_so() {
    let free = at(&TcpListener::bind("127.0.0.1:0").unwrap());
    let began = Instant::now();
    let detail = unreachable_detail(play(Client::connect(config(vec![free.clone()]))));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(detail.starts_with("127.0.0.1:") && detail.contains("refused"), "{detail}");
    assert!(!detail.contains("but not as a libp2p peer"), "{detail}");
}

#[test]
fn a_web_server_is_told_from_a_node() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = at(&listener);
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut request = [0; 64];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        }
    });
    let detail = unreachable_detail(play(Client::connect(config(vec![address]))));
    assert!(detail.starts_with("127.0.0.1:") && detail.contains("answered, but not as a libp2p peer"), "{detail}");
}

#[test]
fn a_silent_listener_is_given_up_at_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = ClientConfig { connect_within: Duration::from_millis(500), ..config(vec![at(&listener)]) };
    let began = Instant::now();
    let detail = unreachable_detail(play(Client::connect(config)));
    assert!((Duration::from_millis(500)..Duration::from_secs(4)).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert!(detail.contains("has not completed a libp2p handshake within 500ms"), "{detail}");
}

#[test]
fn an_address_that_cannot_be_dialled_is_explained() {
    let detail = unreachable_detail(play(Client::connect(config(vec!["/memory/7".parse().unwrap()]))));
    assert!(detail.contains("cannot be dialled"), "{detail}");
}

#[test]
fn a_node_of_another_cluster_is_refused_and_both_names_are_told() {
    play(async {
        let extra = Extra::listen("elsewhere").await;
        let history = history_of(std::slice::from_ref(&extra));
        let node = extra.play(history, Arc::new(|_| None));
        let error = Client::connect(config(vec![node.address.clone()])).await.unwrap_err();
        let name = |text| Name::new(text).unwrap();
        let expected =
            ClientError::OtherCluster { address: node.address.clone(), theirs: name("elsewhere"), ours: name("stage") };
        assert_eq!(error, expected);
        assert!(error.to_string().contains("\"elsewhere\", not to \"stage\""), "{error}");
    });
}

#[test]
fn a_closed_cluster_is_reached_with_its_key_only() {
    play(async {
        let extra = Extra::listen_under(Some(PreSharedKey::new([7; 32])), "stage").await;
        let history = history_of(std::slice::from_ref(&extra));
        let node = extra.play(history, Arc::new(|_| None));
        let with = |swarm_key| ClientConfig { swarm_key, ..config(vec![node.address.clone()]) };
        for wrong in [None, Some(PreSharedKey::new([8; 32]))] {
            let detail = unreachable_detail(Client::connect(with(wrong)).await);
            assert!(detail.contains("swarm key"), "{detail}");
        }
        let client = Client::connect(with(Some(PreSharedKey::new([7; 32])))).await.unwrap();
        assert_eq!(client.home(), node.id);
    });
}

#[test]
fn one_good_address_among_bad_ones_is_enough_and_the_whole_history_is_learned() {
    play(async {
        let free = at(&TcpListener::bind("127.0.0.1:0").unwrap());
        let stranger = Extra::listen("elsewhere").await;
        let stranger_history = history_of(std::slice::from_ref(&stranger));
        let stranger = stranger.play(stranger_history, Arc::new(|_| None));
        let (mut extras, history) = cluster_of(4).await;
        let node = extras.remove(0).play(history.clone(), Arc::new(|_| None));
        let client = Client::connect(config(vec![free, stranger.address.clone(), node.address.clone()])).await.unwrap();
        assert_eq!(client.home(), node.id);
        // Told two changes at a time.
        assert_eq!(client.view().members.len(), 4);
        assert_eq!(client.history().await.unwrap(), history.iter().cloned().collect::<Vec<_>>());
    });
}

#[test]
fn the_task_ends_with_the_last_handle() {
    play(async {
        let (mut extras, history) = cluster_of(1).await;
        let node = extras.remove(0).play(history, Arc::new(|_| None));
        let client = Client::connect(config(vec![node.address.clone()])).await.unwrap();
        // Besides the handles only the task holds on to the view.
        let view = Arc::downgrade(&client.view());
        let clone = client.clone();
        drop(client);
        assert!(view.upgrade().is_some());
        drop(clone);
        until("the task lets go of the view", || view.upgrade().is_none()).await;
    });
}
