//! Tests of `leave`, `remove` and `replace`: what is understood, who is meant, and what waits for a yes.

use clap::Parser as _;

use super::*;
use crate::{
    cli::{ClientCommand, error::Exit, samples, shell::Words},
    ident::Name,
    membership::{
        change::{ChangeKind, Profile},
        samples::{Cluster, signer},
    },
};

fn request(line: &str) -> MembershipRequest {
    match Words::try_parse_from(shlex::split(line).unwrap()).unwrap().command {
        ClientCommand::Leave(args) => args.into_request(),
        ClientCommand::Remove(args) => args.into_request(),
        ClientCommand::Replace(args) => args.into_request(),
        other => panic!("{other:?}"),
    }
}

/// Four members; the last two share a name.
fn cluster() -> Cluster {
    let mut cluster = Cluster::settled(4);
    for (number, name) in (1..).zip(["ann", "bob", "cleo", "cleo"]) {
        let name = Name::new(name).unwrap();
        cluster.say(number, |_| ChangeKind::Updated(Profile { name, zone: None, weight: 1, addresses: Vec::new() }));
    }
    cluster
}

fn told(cluster: &Cluster, intent: Intent, away: &[u8]) -> Told {
    let away: Vec<NodeId> = away.iter().map(|number| cluster.id(*number)).collect();
    let is_up = |node: &NodeId| !away.contains(node);
    let view = cluster.view();
    let plan = Plan::new(
        intent,
        &view,
        &Known {
            node: NodeId([0; 32]),
            is_up: &is_up,
            key_counts: &BTreeMap::new(),
            asked: (100, 1_000),
            bytes_per_second: 100,
        },
    )
    .unwrap();
    Told { intent, json: plan_text::to_json(&plan, &view), text: plan_text::to_text(&plan, &view) }
}

#[test]
fn nothing_is_done_without_a_yes_and_nothing_is_forced_without_a_word() {
    let leave = |consent, patience| MembershipRequest::Leave { consent, patience };
    assert_eq!(request("leave"), leave(Consent::Unasked, Patience::None));
    assert_eq!(request("leave --yes --wait"), leave(Consent::Given, Patience::Wait));
    assert_eq!(request("leave --dry-run"), leave(Consent::PlanOnly, Patience::None));
    assert_eq!(request("leave --cancel --yes"), MembershipRequest::Stay);
    let remove = |consent, force| MembershipRequest::Remove { member: "ann".to_owned(), consent, force };
    assert_eq!(request("remove ann"), remove(Consent::Unasked, Force::No));
    assert_eq!(request("remove ann --yes --force"), remove(Consent::Given, Force::Yes));
    let new = signer(20).node_id();
    let line = format!("replace ann {} --dry-run", peer_text(&new));
    let replace =
        MembershipRequest::Replace { old: "ann".to_owned(), new, consent: Consent::PlanOnly, force: Force::No };
    assert_eq!(request(&line), replace);
}

#[test]
fn a_member_is_known_by_its_name_its_peer_id_or_the_beginning_of_that() {
    let cluster = cluster();
    let view = cluster.view();
    let peer = peer_text(&cluster.id(2));
    for typed in ["bob", &peer, &peer[..20]] {
        assert_eq!(find(typed, &view).unwrap(), cluster.id(2), "{typed}");
    }
    let stranger = signer(20).node_id();
    assert_eq!(find(&peer_text(&stranger), &view).unwrap(), stranger, "the node says what to think of it");
    let refused = |typed: &str| find(typed, &view).unwrap_err();
    let ambiguous = refused("cleo");
    assert_eq!(ambiguous.exit(), Exit::Usage);
    assert!([3, 4].iter().all(|number| ambiguous.to_string().contains(&peer_text(&cluster.id(*number)))));
    assert_eq!(refused("12D3KooW").exit(), Exit::Usage);
    for typed in ["dora", "", "12D3KooWzzz"] {
        assert_eq!(refused(typed).exit(), Exit::Failed, "{typed}");
    }
}

#[test]
fn the_plan_is_one_object_and_says_what_was_done() {
    let cluster = cluster();
    let told = told(&cluster, Intent::Leave { node: cluster.id(2) }, &[]);
    let json = told.as_answer().into_single_json();
    assert_eq!((&json["ok"], &json["order"], &json["dry_run"]), (&json!(true), &json!("leave"), &json!(true)));
    assert_eq!((&json["node"], &json["new"]), (&json!(peer_text(&cluster.id(2))), &Json::Null));
    let plan = &json["plan"];
    for field in [
        "partitions",
        "replicas",
        "members",
        "vnodes",
        "moves",
        "moves_between_others",
        "untaken",
        "keys",
        "keys_exact",
        "bytes",
        "seconds",
        "zones",
        "missing",
        "below_quorum",
        "warnings",
    ] {
        assert!(plan.get(field).is_some(), "{field}: {plan:#}");
    }
    let vnodes: u64 = plan["moves"].as_array().unwrap().iter().map(|one| one["vnodes"].as_u64().unwrap()).sum();
    assert_eq!((&plan["vnodes"], &plan["bytes"]), (&json!(vnodes), &Json::Null));
    assert_eq!(told.ordered(&cluster.view()).into_single_json()["leaving"], true);
}

#[test]
fn without_a_yes_the_plan_is_told_and_nothing_is_done() {
    let cluster = cluster();
    let told = told(&cluster, Intent::Remove { node: cluster.id(1) }, &[1]);
    let refused = told.without_yes();
    assert_eq!(refused.exit(), Exit::Usage);
    let text = refused.to_string();
    for part in ["ann", &peer_text(&cluster.id(1)), "--yes", "nothing moves between others", "lack 1 copy", "quorum"] {
        assert!(text.contains(part), "it lacks {part:?}: {text}");
    }
}

#[test]
fn people_are_warned_of_what_speaks_against_it() {
    let cluster = cluster();
    let text = |intent, away: &[u8]| told(&cluster, intent, away).text;
    let alive = text(Intent::Remove { node: cluster.id(1) }, &[]);
    assert!(alive.contains("WARNING") && alive.contains("alive") && alive.contains("--force"), "{alive}");
    let short = text(Intent::Remove { node: cluster.id(1) }, &[1, 2, 3]);
    assert!(short.contains("fewer copies can be reached than a quorum needs"), "{short}");
    let heir = text(Intent::Replace { old: cluster.id(1), new: cluster.id(2) }, &[1]);
    assert!(heir.contains("a member already") && heir.contains("placed anew as well"), "{heir}");
    let stranger = text(Intent::Replace { old: cluster.id(1), new: signer(20).node_id() }, &[1]);
    assert!(stranger.contains("has not joined"), "{stranger}");
    let few = Cluster::settled(3);
    let few = told(&few, Intent::Leave { node: few.id(1) }, &[]).text;
    assert!(few.contains("2 members will be left for 3 replicas") && few.contains("nobody takes over"), "{few}");
}

#[test]
fn zones_that_cannot_be_balanced_are_a_warning() {
    let mut cluster = Cluster::settled(4);
    for (number, zone) in (1..).zip(["north", "south", "west", "west"]) {
        let profile = |zone| Profile { name: Name::new("ann").unwrap(), zone, weight: 1, addresses: Vec::new() };
        cluster.say(number, |_| ChangeKind::Updated(profile(Some(Name::new(zone).unwrap()))));
    }
    let text = |number: u8| told(&cluster, Intent::Remove { node: cluster.id(number) }, &[number]).text;
    let lost = text(1);
    for part in
        ["last of zone north", "2 zones will be left for 3 replicas", "8 partitions will have two replicas", "(0 now)"]
    {
        assert!(lost.contains(part), "it lacks {part:?}: {lost}");
    }
    assert!(!text(3).contains("zone west"), "{}", text(3));

    // What was so before, and is no worse afterwards, does not speak against it.
    let mut crowded = Cluster::settled(4);
    for (number, zone) in (1..).zip(["north", "north", "south", "south"]) {
        let profile = |zone| Profile { name: Name::new("ann").unwrap(), zone, weight: 1, addresses: Vec::new() };
        crowded.say(number, |_| ChangeKind::Updated(profile(Some(Name::new(zone).unwrap()))));
    }
    let text = told(&crowded, Intent::Leave { node: crowded.id(1) }, &[]).text;
    assert!(!text.contains("WARNING"), "{text}");
}

#[test]
fn a_leaver_is_followed_until_it_is_out_and_a_change_of_mind_is_told() {
    let leaver = samples::node(0);
    let mut status = samples::status(&[Reach::Up; 3]);
    let mut watched = Leaver::new();
    watched.look(&leaver, &status).unwrap();
    assert_eq!(watched.stand, Stand::Ordered, "nobody has heard of it so far");
    status.members[0].is_leaving = true;
    status.leftover_partitions = 4;
    watched.look(&leaver, &status).unwrap();
    assert_eq!((watched.stand, watched.total, watched.left), (Stand::Leaving, 20, 20));
    status.held_partitions = 0;
    watched.look(&leaver, &status).unwrap();
    assert_eq!((watched.total, watched.left), (20, 4));
    let stays = samples::status(&[Reach::Up; 3]);
    assert!(watched.look(&leaver, &stays).unwrap_err().to_string().contains("stay"));
    status.members.remove(0);
    watched.look(&leaver, &status).unwrap();
    assert_eq!(watched.stand, Stand::Out);
}
