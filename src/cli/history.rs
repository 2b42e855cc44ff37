//! `quorate history`: every membership change there ever was, in canonical order.

use clap::Args;
use serde_json::{Value as Json, json};

use crate::{
    cli::{
        connect::Session,
        error::CliError,
        output::{Answer, Text},
        text::{counted, peer_text},
    },
    ident::Name,
    membership::{
        change::{Change, ChangeKind, Profile, Replacement, Statement},
        history::History,
    },
};

/// Arguments of `history`.
#[derive(Debug, Clone, Args)]
pub struct HistoryArgs {
    /// Check every signature and every link, here.
    #[arg(long)]
    pub verify: bool,
}

/// Asks, and checks if that was asked.
pub(crate) async fn run(session: &Session, args: HistoryArgs) -> Result<Answer, CliError> {
    let changes = session.client.history().await.map_err(|error| session.explain(error))?;
    let verified = if args.verify { Some(verify(&changes, &session.target.cluster)?) } else { None };
    Ok(answer(&changes, verified))
}

/// Builds the history anew from nothing. Returns its digest.
fn verify(changes: &[Change], cluster: &Name) -> Result<String, CliError> {
    let mut history = History::new(cluster.clone());
    for change in changes {
        let refused = |error| CliError::History {
            detail: format!("change {} of {}: {error}", change.sequence, peer_text(&change.author)),
        };
        history.insert(change.clone()).map_err(refused)?;
    }
    Ok(history.digest().to_string())
}

fn answer(changes: &[Change], verified: Option<String>) -> Answer {
    let mut text: Vec<String> = changes.iter().map(to_text).collect();
    if let Some(digest) = verified {
        text.push(format!("verified: {}, digest {digest}", counted(changes.len() as u64, "change")));
    }
    Answer::many(changes.iter().map(to_json).collect(), Text::Lines(text.join("\n")))
}

fn to_json(change: &Change) -> Json {
    let mut json = json!({
        "lamport": change.lamport,
        "author": peer_text(&change.author),
        "sequence": change.sequence,
        "digest": change.digest().to_string(),
        "previous": change.previous.map(|digest| digest.to_string()),
        "kind": kind(change),
    });
    match &change.kind {
        ChangeKind::Founded(parameters) => {
            json["partitions"] = parameters.partitions.get().into();
            json["replicas"] = parameters.replicas.into();
        }
        ChangeKind::Joined(profile) | ChangeKind::Updated(profile) => add_profile(&mut json, profile),
        ChangeKind::Leaving | ChangeKind::Left => {}
        ChangeKind::Removed(removal) => json["node"] = peer_text(&removal.node).into(),
        ChangeKind::Replaced(Replacement { old, new }) => {
            json["old"] = peer_text(&old.node).into();
            json["new"] = peer_text(new).into();
        }
        ChangeKind::Filled(Statement { label, partitions }) | ChangeKind::Retired(Statement { label, partitions }) => {
            json["label"] = label.digest().to_string().into();
            json["partitions"] = partitions.iter().map(|partition| partition.0).collect::<Vec<u16>>().into();
        }
    }
    json
}

fn add_profile(json: &mut Json, profile: &Profile) {
    json["name"] = profile.name.as_str().into();
    json["zone"] = profile.zone.as_ref().map(Name::as_str).into();
    json["weight"] = profile.weight.into();
    json["addresses"] = profile.addresses.clone().into();
}

fn to_text(change: &Change) -> String {
    let what = match &change.kind {
        ChangeKind::Founded(parameters) => {
            format!("{} partitions, {} replicas", parameters.partitions, parameters.replicas)
        }
        ChangeKind::Joined(profile) | ChangeKind::Updated(profile) => profile.name.to_string(),
        ChangeKind::Leaving | ChangeKind::Left => String::new(),
        ChangeKind::Removed(removal) => peer_text(&removal.node),
        ChangeKind::Replaced(Replacement { old, new }) => {
            format!("{} by {}", peer_text(&old.node), peer_text(new))
        }
        ChangeKind::Filled(Statement { partitions, .. }) | ChangeKind::Retired(Statement { partitions, .. }) => {
            format!("{} of {} partitions", partitions.len(), partitions.partitions())
        }
    };
    format!("{:>6}  {}  #{}  {}  {what}", change.lamport, peer_text(&change.author), change.sequence, kind(change))
}

fn kind(change: &Change) -> &'static str {
    match change.kind {
        ChangeKind::Founded(_) => "founded",
        ChangeKind::Joined(_) => "joined",
        ChangeKind::Updated(_) => "updated",
        ChangeKind::Leaving => "leaving",
        ChangeKind::Left => "left",
        ChangeKind::Removed(_) => "removed",
        ChangeKind::Replaced(_) => "replaced",
        ChangeKind::Filled(_) => "filled",
        ChangeKind::Retired(_) => "retired",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        membership::change::{Parameters, Signer},
        ring::token::PartitionCount,
    };

    fn changes() -> Vec<Change> {
        let name = Name::new("quorate").unwrap();
        let signer = Signer::from_seed([7; 32]);
        let parameters = Parameters { partitions: PartitionCount::new(16).unwrap(), replicas: 3 };
        let profile = Profile { name: name.clone(), zone: None, weight: 1, addresses: Vec::new() };
        let mut history = History::new(name);
        let mut changes = Vec::new();
        for kind in [ChangeKind::Founded(parameters), ChangeKind::Joined(profile)] {
            let change = history.next_change(&signer, kind);
            history.insert(change.clone()).unwrap();
            changes.push(change);
        }
        changes
    }

    #[test]
    fn each_change_is_an_object_on_its_own_line() {
        let json = answer(&changes(), None).into_single_json();
        assert_eq!((&json["lines"][0]["kind"], &json["lines"][0]["replicas"]), (&json!("founded"), &json!(3)));
        assert_eq!((&json["lines"][1]["kind"], &json["lines"][1]["name"]), (&json!("joined"), &json!("quorate")));
    }

    #[test]
    fn a_history_that_was_tampered_with_does_not_verify() {
        let name = Name::new("quorate").unwrap();
        let mut changes = changes();
        assert!(verify(&changes, &name).is_ok());
        changes[1].lamport += 1;
        let error = verify(&changes, &name).unwrap_err();
        assert!(error.to_string().contains("signature"), "{error}");
        assert_eq!(error.exit().code(), 1);
    }
}
