//! Goodbyes, and changes of address.

use std::time::Instant;

use async_std::task;

use crate::{
    lan::{self, in_own_network},
    ours::{Ours, acquainted, address, full_address, soon},
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
            let sent = leaver.mdns.counters();
            leaver.listen(&address(4009));
            let mut newcomer = Ours::listening_on(4003);
            let stayer_id = stayer.id;
            soon(leaver.polled_during(newcomer.finds(stayer_id, started))).await;
            assert_eq!(leaver.mdns.counters(), sent);
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
