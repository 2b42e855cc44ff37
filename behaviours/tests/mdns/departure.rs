//! Goodbyes, and changes of address.

use std::{sync::mpsc, time::Instant};

use async_std::task;
use futures::future::join;
use quorate_behaviours::mdns::Config;

use crate::{
    lan::{self, Witness, in_own_network, is_response, run},
    ours::{Ours, SOON, acquainted, address, full_address, soon},
};

#[test]
fn a_farewell_expires_us_everywhere_at_once() {
    in_own_network(|| {
        lan::add_interface();
        task::block_on(async {
            let (mut leaver, mut stayer) = acquainted().await;
            let started = Instant::now();
            leaver.mdns.farewell().await;
            let expired = soon(stayer.expired()).await;
            eprintln!("farewell: noticed after {:?}", started.elapsed());
            assert_eq!(expired, vec![(leaver.id, full_address(4001, leaver.id))]);
            // It stays silent, whatever happens.
            let before = leaver.mdns.counters();
            run("ip addr add 10.99.0.1/24 dev near");
            let elsewhere = |port: u16| format!("/ip4/10.99.0.1/tcp/{port}").parse().unwrap();
            let mut newcomer = Ours::new(Config::default());
            for (ours, port) in [(&mut leaver, 4001), (&mut stayer, 4002), (&mut newcomer, 4003)] {
                ours.listen(&elsewhere(port));
            }
            let (stayer_id, newcomer_id) = (stayer.id, newcomer.id);
            let both = join(newcomer.finds(stayer_id, started), stayer.finds(newcomer_id, started));
            soon(leaver.polled_during(both)).await;
            assert_eq!(leaver.mdns.counters(), before);
            assert!(newcomer.addresses_of(leaver.id).is_empty());
        });
    });
}

#[test]
fn dropping_the_behaviour_says_goodbye_too() {
    in_own_network(|| {
        lan::add_interface();
        task::block_on(async {
            let (leaver, mut stayer) = acquainted().await;
            let leaver_id = leaver.id;
            drop(leaver);
            assert_eq!(soon(stayer.expired()).await, vec![(leaver_id, full_address(4001, leaver_id))]);
        });
    });
}

#[test]
fn dropping_says_goodbye_though_no_task_runs_any_more() {
    in_own_network(|| {
        lan::add_interface();
        let witness = Witness::new();
        let mut leaver = Ours::listening_on(4001);
        task::block_on(soon(leaver.asked(1)));
        assert!(witness.hears(SOON, |message| is_response(message, 360)));
        // The tests have one thread for tasks, and this occupies it.
        let (began, beginning) = mpsc::sync_channel(1);
        let (_release, released) = mpsc::sync_channel::<()>(1);
        task::spawn(async move {
            began.send(()).unwrap();
            released.recv().unwrap_err();
        });
        beginning.recv().unwrap();
        drop(leaver);
        assert!(witness.hears(SOON, |message| is_response(message, 0)));
    });
}

#[test]
fn a_changed_listen_address_is_announced_and_the_old_one_taken_back() {
    in_own_network(|| {
        lan::add_interface();
        task::block_on(async {
            let (mut changer, mut other) = acquainted().await;
            let id = changer.id;
            changer.stop_listening(&address(4001));
            assert_eq!(soon(other.expired()).await, vec![(id, full_address(4001, id))]);
            let started = Instant::now();
            changer.listen(&address(4005));
            let waited = soon(other.finds(id, started)).await;
            eprintln!("a new address was known after {waited:?}");
            assert_eq!(other.addresses_of(id), vec![full_address(4005, id)]);
        });
    });
}
