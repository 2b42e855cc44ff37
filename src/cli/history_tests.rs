//! What `history` shows of every kind of change, and what it does not let pass.

use super::*;
use crate::{
    membership::{
        change::{Parameters, Removal, Signature},
        label::Label,
        samples::{Cluster, signer},
    },
    ring::{partition_set::PartitionSet, token::Partition},
};

fn name() -> Name {
    Name::new("quorate").unwrap()
}

/// A history in which everything has been said that can be: by four members and a newcomer.
fn cluster() -> Cluster {
    let mut cluster = Cluster::settled(4);
    cluster.say(2, |cluster| {
        let profile = cluster.view().members[&cluster.id(2)].profile.clone();
        ChangeKind::Updated(Profile { zone: Some(Name::new("north").unwrap()), ..profile })
    });
    cluster.say(3, |_| ChangeKind::Leaving);
    cluster.say(3, |_| ChangeKind::Left);
    cluster.say(1, |cluster| ChangeKind::Removed(cluster.removal(3)));
    cluster.say(1, |cluster| ChangeKind::Replaced(Replacement { old: cluster.removal(4), new: cluster.id(5) }));
    cluster.join(5);
    cluster
}

fn changes() -> Vec<Change> {
    cluster().history.iter().cloned().collect()
}

/// The first change of this kind, as it is shown.
fn shown(changes: &[Change], wanted: &str) -> (Json, String) {
    let change = changes.iter().find(|change| kind(change) == wanted).expect("it was said");
    (to_json(change), to_text(change))
}

#[test]
fn each_change_is_an_object_on_its_own_line_with_what_its_kind_says() {
    let (cluster, changes) = (cluster(), changes());
    let json = answer(&changes, None).into_single_json();
    assert_eq!(json["lines"].as_array().unwrap().len(), changes.len());
    let of = |kind| shown(&changes, kind).0;
    assert_eq!((&of("founded")["replicas"], &of("founded")["partitions"]), (&json!(3), &json!(8)));
    assert_eq!((&of("joined")["name"], &of("joined")["zone"]), (&json!("ann"), &json!(null)));
    assert_eq!((&of("updated")["zone"], &of("updated")["weight"]), (&json!("north"), &json!(1)));
    assert_eq!(of("leaving")["author"], json!(peer_text(&cluster.id(3))));
    assert_eq!(of("left")["previous"], of("leaving")["digest"], "each names the one before it");
    assert_eq!(of("removed")["node"], json!(peer_text(&cluster.id(3))));
    assert_eq!(of("replaced")["old"], json!(peer_text(&cluster.id(4))));
    assert_eq!(of("replaced")["new"], json!(peer_text(&cluster.id(5))));
    assert_eq!(of("filled")["partitions"], json!(filled_by(&changes, &cluster.id(1))));
    assert_eq!(of("filled")["label"], of("retired")["label"], "both were said under one label");
}

/// The partitions that the first statement of `node` is about.
fn filled_by(changes: &[Change], node: &NodeId) -> Vec<u64> {
    let statement = changes.iter().find_map(|change| match &change.kind {
        ChangeKind::Filled(statement) if change.author == *node => Some(statement),
        _ => None,
    });
    statement.expect("it has filled").partitions.iter().map(|partition| u64::from(partition.0)).collect()
}

#[test]
fn people_read_what_each_kind_says() {
    let (cluster, changes) = (cluster(), changes());
    let ends = |kind: &str, end: &str| {
        let text = shown(&changes, kind).1;
        assert!(text.trim_end().ends_with(end), "{text:?}");
    };
    ends("founded", "founded  8 partitions, 3 replicas");
    ends("joined", "joined  ann");
    ends("updated", "updated  ann");
    ends("leaving", "leaving");
    ends("left", "left");
    ends("removed", &format!("removed  {}", peer_text(&cluster.id(3))));
    ends("replaced", &format!("replaced  {} by {}", peer_text(&cluster.id(4)), peer_text(&cluster.id(5))));
    ends("filled", "of 8 partitions");
    ends("retired", "retired  8 of 8 partitions");
}

/// Something else of the same kind.
fn tampered(kind: &ChangeKind, other: NodeId) -> ChangeKind {
    let restated = |Statement { label, partitions }: &Statement| {
        let all = partitions.partitions();
        let fewer = PartitionSet::new(all, partitions.iter().filter(|partition| *partition != Partition(0)));
        let same = fewer == *partitions;
        Statement { label: if same { Label::default() } else { label.clone() }, partitions: fewer }
    };
    match kind {
        ChangeKind::Founded(parameters) => ChangeKind::Founded(Parameters { replicas: 2, ..*parameters }),
        ChangeKind::Joined(profile) => ChangeKind::Joined(Profile { weight: profile.weight + 1, ..profile.clone() }),
        ChangeKind::Updated(profile) => ChangeKind::Updated(Profile { zone: None, ..profile.clone() }),
        ChangeKind::Leaving => ChangeKind::Left,
        ChangeKind::Left => ChangeKind::Leaving,
        ChangeKind::Removed(removal) => ChangeKind::Removed(Removal { node: other, ..*removal }),
        ChangeKind::Replaced(replacement) => ChangeKind::Replaced(Replacement { new: other, ..*replacement }),
        ChangeKind::Filled(statement) => ChangeKind::Filled(restated(statement)),
        ChangeKind::Retired(statement) => ChangeKind::Retired(restated(statement)),
    }
}

#[track_caller]
fn check_refused(changes: &[Change], why: &str) {
    let error = verify(changes, &name()).err().expect("it is refused");
    assert!(error.to_string().contains(why), "{error}");
    assert_eq!(error.exit().code(), 1);
}

#[test]
fn a_history_verifies_and_one_in_which_any_kind_was_tampered_with_does_not() {
    let changes = changes();
    let verified = verify(&changes, &name()).unwrap();
    assert_eq!((verified.digest, verified.forked), (cluster().history.digest().to_string(), Vec::new()));
    let mut kinds = std::collections::BTreeSet::new();
    for index in 0..changes.len() {
        kinds.insert(kind(&changes[index]));
        let mut other = changes.clone();
        other[index].kind = tampered(&changes[index].kind, signer(2).node_id());
        check_refused(&other, "signature");
        let mut other = changes.clone();
        other[index].lamport += 1;
        check_refused(&other, "signature");
        let mut other = changes.clone();
        other[index].signature = Signature([7; 64]);
        check_refused(&other, "signature");
    }
    assert_eq!(kinds.len(), 9, "every kind there is");
}

#[test]
fn a_history_of_which_something_is_missing_in_the_middle_does_not_verify() {
    let changes = changes();
    for (index, change) in changes.iter().enumerate() {
        let is_last = !changes[index + 1..].iter().any(|later| later.author == change.author);
        if !is_last {
            let mut other = changes.clone();
            other.remove(index);
            check_refused(&other, if index == 0 { "founding" } else { "the next change of this author" });
        }
    }
}

#[test]
fn a_change_whose_author_signed_the_wrong_predecessor_does_not_verify() {
    let mut changes = changes();
    let last = changes.iter().rposition(|change| change.author == signer(2).node_id()).unwrap();
    let Change { cluster, sequence, lamport, kind, .. } = changes[last].clone();
    let wrong = Some(changes[0].digest());
    changes[last] = Change::sign(&signer(2), cluster, sequence, wrong, lamport, kind);
    check_refused(&changes, "continues one that is not known");
}

#[test]
fn a_forked_history_verifies_and_says_who_forked() {
    let mut cluster = cluster();
    let fork = |kind| cluster.history.next_change(&signer(2), kind);
    let forks = [fork(ChangeKind::Leaving), fork(ChangeKind::Left)];
    forks.into_iter().for_each(|change| assert!(cluster.history.insert(change).is_ok()));
    let changes: Vec<Change> = cluster.history.iter().cloned().collect();
    let verified = verify(&changes, &name()).unwrap();
    let Text::Lines(text) = answer(&changes, Some(verified)).text else { panic!("lines") };
    let told = format!("forked: {} has signed different changes under one number", peer_text(&cluster.id(2)));
    assert!(text.contains(&told), "{text}");
    assert!(text.contains("verified: "), "{text}");
}
