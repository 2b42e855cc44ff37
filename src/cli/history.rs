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
    ident::{Name, NodeId},
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

/// Builds the history anew from nothing: every signature, link and number of every kind is checked. Returns its digest, and who
/// has signed different changes under one number.
fn verify(changes: &[Change], cluster: &Name) -> Result<Verified, CliError> {
    let mut history = History::new(cluster.clone());
    for change in changes {
        let refused = |error| CliError::History {
            detail: format!("change {} of {}: {error}", change.sequence, peer_text(&change.author)),
        };
        history.insert(change.clone()).map_err(refused)?;
    }
    Ok(Verified { digest: history.digest().to_string(), forked: history.forked().copied().collect() })
}

/// What a history comes to that is sound.
struct Verified {
    digest: String,
    forked: Vec<NodeId>,
}

fn answer(changes: &[Change], verified: Option<Verified>) -> Answer {
    let mut text: Vec<String> = changes.iter().map(to_text).collect();
    if let Some(Verified { digest, forked }) = verified {
        let double =
            |node: &NodeId| format!("forked: {} has signed different changes under one number", peer_text(node));
        text.extend(forked.iter().map(double));
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
#[path = "history_tests.rs"]
mod tests;
