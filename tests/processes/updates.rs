//! What is new about a member is known everywhere, though nobody tells: its addresses, its zone and its weight.

use serde_json::Value as Json;

use crate::{
    discovery::network,
    harness::{Home, LOOPBACK, Node, Place, poll, system},
    keys::{KEY_COUNT, SWIFT, put_all, read},
};

/// What `node` tells of the member `peer`.
fn member(home: &Home, node: &Node, peer: &str) -> Json {
    let members = home.ask(node, &["members"]).expect(0, &[]).json();
    let found = members.as_array().unwrap().iter().find(|member| member["peer_id"] == peer);
    found.cloned().unwrap_or(Json::Null)
}

fn has_address(home: &Home, node: &Node, peer: &str, address: &str) -> bool {
    let told = member(home, node, peer);
    told["addresses"].as_array().is_some_and(|all| all.iter().any(|it| it.as_str().unwrap().contains(address)))
}

/// How many changes of `peer` are updates, as `node` knows.
fn update_count(home: &Home, node: &Node, peer: &str) -> usize {
    let lines = home.ask(node, &["history"]).expect(0, &[]).lines();
    lines.iter().filter(|line| line["author"] == peer && line["kind"] == "updated").count()
}

/// Gives the interface of a namespace one more address (`add`), or takes it away (`del`).
fn set_address(place: &Place, what: &str, address: &str) {
    let words = [&place.enter[..], &["ip", "addr", what, address, "dev", "eth0"].map(str::to_owned)].concat();
    let (is_done, said) = system(&words);
    assert!(is_done, "{said}");
}

#[test]
fn an_address_that_comes_to_an_interface_or_goes_is_known_to_the_others() {
    let Some(network) = network(2) else { return };
    let home = Home::new();
    let mut nodes: Vec<Node> =
        (0..2).map(|index| home.spawn(&network.place(index), &format!("node-{index}"), &[])).collect();
    for node in &mut nodes {
        node.wait_ready();
        node.wait_members(2);
    }
    let [first, second] = &nodes[..] else { unreachable!("two were started") };
    assert!(poll(|| has_address(&home, first, &second.peer_id, "/10.77.0.2/")));
    let before = update_count(&home, first, &second.peer_id);
    set_address(&network.place(1), "add", "10.77.0.200/24");
    assert!(poll(|| has_address(&home, first, &second.peer_id, "/10.77.0.200/")), "it has come");
    set_address(&network.place(1), "del", "10.77.0.200/24");
    assert!(poll(|| !has_address(&home, first, &second.peer_id, "/10.77.0.200/")), "it has gone");
    assert!(has_address(&home, first, &second.peer_id, "/10.77.0.2/"));
    assert_eq!(update_count(&home, first, &second.peer_id), before + 2);
}

#[test]
fn a_member_that_comes_back_in_another_zone_and_with_more_weight_holds_what_follows_from_that() {
    let home = Home::new();
    let [first, second, third, moved]: [Node; 4] = home.cluster(&SWIFT);
    put_all(&home, &first, "k");
    let (name, peer_id) = (moved.name.clone(), moved.peer_id.clone());
    let vnodes = |node: &Node| member(&home, node, &peer_id)["held"].as_u64().unwrap();
    let before = vnodes(&first);
    moved.stop();
    let words = [&LOOPBACK[..], &SWIFT, &["--zone", "south", "--weight", "4", "--join", &first.addresses[0]]].concat();
    let moved = home.start(&name, &words);
    assert_eq!(moved.peer_id, peer_id);
    for node in [&first, &second, &third, &moved] {
        assert!(poll(|| member(&home, node, &peer_id)["zone"] == "south"), "{}", node.name);
        home.wait_up(node, 4);
    }
    let told = member(&home, &second, &peer_id);
    assert_eq!((&told["weight"], vnodes(&second)), (&4.into(), 64), "alone in its zone it is in every row: {told:#}");
    assert!(before < 64, "before it was in {before} rows");
    for node in [&first, &second, &third, &moved] {
        assert_eq!(read(&home, node, "k"), KEY_COUNT, "{}", node.name);
    }
}
