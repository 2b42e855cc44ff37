//! `quorate status`: whether the cluster serves, as one member sees it.

use serde_json::{Map, Value as Json, json};

use crate::{
    cli::{
        connect::Session,
        error::{CliError, Exit},
        members,
        output::{Answer, Text},
        text::{counted, peer_text},
    },
    ident::NodeId,
    ring::Ring,
    wire::client::{Reach, Status},
};

/// How well the cluster serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// Every row is complete and up.
    Healthy,
    /// Every key can be served, some with fewer replicas than it should have.
    Degraded,
    /// Of some row nobody is up, or too few members are up for any quorum.
    Unavailable,
}

/// Asks.
pub(crate) async fn run(session: &Session) -> Result<Answer, CliError> {
    let status = session.client.status().await.map_err(|error| session.explain(error))?;
    let view = session.client.view();
    Ok(answer(&status, view.ring.as_deref()))
}

fn answer(status: &Status, ring: Option<&Ring>) -> Answer {
    let health = health_of(status, ring);
    let exit = match health {
        Health::Healthy => Exit::Done,
        Health::Degraded => Exit::Degraded,
        Health::Unavailable => Exit::Unavailable,
    };
    Answer::one(to_json(status, health), Text::Lines(to_text(status, ring, health))).ending(exit)
}

/// Judges every row by who is up in the eyes of the member that was asked. `suspect` is not up.
pub(crate) fn health_of(status: &Status, ring: Option<&Ring>) -> Health {
    let (Some(ring), Some(_)) = (ring, status.parameters) else { return Health::Unavailable };
    let is_up = |node: &NodeId| status.members.iter().any(|member| member.node == *node && member.state == Reach::Up);
    let rows = || ring.partitions().iter().map(|partition| ring.row(partition));
    // Fallbacks stand in for the members of a row, whoever they are; only what a row alone holds nobody can stand in for.
    let up_count = ring.members().iter().filter(|member| is_up(&member.id)).count();
    if rows().any(|row| up_count < row.len() / 2 + 1 || !row.iter().any(is_up)) {
        return Health::Unavailable;
    }
    let is_whole = |row: &[NodeId]| row.len() >= usize::from(ring.replicas()) && row.iter().all(is_up);
    if rows().all(is_whole) && status.store_failure.is_none() { Health::Healthy } else { Health::Degraded }
}

fn to_json(status: &Status, health: Health) -> Json {
    json!({
        "state": health.word(),
        "node": { "peer_id": peer_text(&status.node), "name": name_of(status) },
        "cluster": status.cluster.as_str(),
        "members": status.members.iter().map(members::to_json).collect::<Vec<_>>(),
        "history": { "changes": status.change_count, "digest": status.history.to_string() },
        "partitions": {
            "total": status.parameters.map_or(0, |parameters| parameters.partitions.get()),
            "held": status.held_partitions,
            "owned": status.owned_partitions,
            "filling": 0,
        },
        "replicas": status.parameters.map_or(0, |parameters| parameters.replicas),
        "keys": status.key_count,
        "hints": { "count": status.hint_count, "bytes": status.hint_bytes },
        "marked_partitions": status.marked_partitions,
        "alerts": status.alert_count,
        "counters": status.counters.iter().map(|(name, count)| (name.clone(), json!(count))).collect::<Map<_, _>>(),
        "commits": status.commit_count,
        "writes": status.write_count,
        "damaged": status.damaged_count,
        "store_failure": status.store_failure,
    })
}

fn to_text(status: &Status, ring: Option<&Ring>, health: Health) -> String {
    let total = status.parameters.map_or(0, |parameters| parameters.partitions.get());
    let replicas = status.parameters.map_or(0, |parameters| parameters.replicas);
    let mut lines = vec![
        format!("cluster {} is {}", status.cluster, health.word()),
        format!("asked: {} ({})", name_of(status), peer_text(&status.node)),
        format!(
            "holds {} of {total} partitions, heads {}; {}, tombstones included",
            status.held_partitions,
            status.owned_partitions,
            counted(status.key_count, "key")
        ),
        format!(
            "{} of a key; history: {}, {}",
            counted(replicas.into(), "replica"),
            counted(status.change_count, "change"),
            short(status)
        ),
    ];
    if status.parameters.is_none() {
        lines.push("it has found no cluster yet; wait, or start it with --join".to_owned());
    }
    if replicas as usize > status.members.len() {
        let missing = replicas as usize - status.members.len();
        let replicas = counted(replicas.into(), "replica");
        lines.push(format!(
            "for {replicas} it takes {} more: `quorate start --join …`",
            counted(missing as u64, "member")
        ));
    }
    if let Some(failure) = &status.store_failure {
        lines.push(format!("its store refuses writes: {failure}"));
    }
    if status.hint_count > 0 {
        let hints = counted(status.hint_count, "hint");
        lines.push(format!("keeps {hints} ({} bytes) for members that were away: `quorate hints`", status.hint_bytes));
    }
    if status.marked_partitions > 0 {
        let partitions = counted(status.marked_partitions.into(), "partition");
        lines.push(format!("gave up hints in {partitions}: replicas differ there until keys are read or written"));
    }
    if status.alert_count > 0 {
        lines.push(format!("{} for its administrator: `quorate alerts`", counted(status.alert_count.into(), "alert")));
    }
    if status.damaged_count > 0 {
        lines.push(format!("{} records were found damaged since it started", status.damaged_count));
    }
    lines.push(members::table(&status.members, ring));
    lines.join("\n")
}

fn short(status: &Status) -> String {
    let mut digest = status.history.to_string();
    digest.truncate(12);
    digest
}

/// The name of the node that was asked.
pub(crate) fn name_of(status: &Status) -> String {
    let me = status.members.iter().find(|member| member.node == status.node);
    me.map_or_else(String::new, |member| member.profile.name.to_string())
}

impl Health {
    fn word(self) -> &'static str {
        match self {
            Health::Healthy => "healthy",
            Health::Degraded => "degraded",
            Health::Unavailable => "unavailable",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples::{ring, status};

    #[track_caller]
    fn check(states: &[Reach], expected: Health, code: u8) {
        let (status, ring) = (status(states), ring(states.len()));
        assert_eq!(health_of(&status, Some(&ring)), expected);
        assert_eq!(answer(&status, Some(&ring)).exit.code(), code);
    }

    #[test]
    fn the_cluster_is_as_healthy_as_its_worst_row() {
        use Reach::{Down, Suspect, Up};
        check(&[Up, Up, Up], Health::Healthy, 0);
        check(&[Up, Up, Suspect], Health::Degraded, 10);
        check(&[Up, Up, Down], Health::Degraded, 10);
        check(&[Up, Down, Down], Health::Unavailable, 11);
        check(&[Up, Up, Up, Up, Up], Health::Healthy, 0);
        // Of five members three are in each row: whoever is up stands in for two that are away, but not for a whole row.
        check(&[Up, Up, Up, Down, Down], Health::Degraded, 10);
        check(&[Up, Up, Down, Down, Down], Health::Unavailable, 11);
    }

    #[test]
    fn too_few_members_are_degraded_and_no_cluster_is_unavailable() {
        check(&[Reach::Up], Health::Degraded, 10);
        check(&[Reach::Up, Reach::Up], Health::Degraded, 10);
        assert_eq!(health_of(&status(&[Reach::Up]), None), Health::Unavailable);
    }

    #[test]
    fn a_store_that_refuses_is_degraded_and_said() {
        let failing = Status { store_failure: Some("disk full".to_owned()), ..status(&[Reach::Up; 3]) };
        let answer = answer(&failing, Some(&ring(3)));
        assert_eq!(answer.exit, Exit::Degraded);
        assert!(matches!(answer.text, Text::Lines(text) if text.contains("disk full")));
    }

    #[test]
    fn the_status_has_the_fields_that_scripts_rely_on() {
        let json = answer(&status(&[Reach::Up, Reach::Down, Reach::Up]), Some(&ring(3))).into_single_json();
        for path in [
            "/state",
            "/node/peer_id",
            "/node/name",
            "/members/0/peer_id",
            "/members/0/name",
            "/members/0/state",
            "/members/0/membership",
            "/members/0/zone",
            "/members/0/weight",
            "/history/changes",
            "/history/digest",
            "/partitions/total",
            "/partitions/held",
            "/partitions/owned",
            "/partitions/filling",
            "/keys",
            "/hints/count",
            "/hints/bytes",
        ] {
            assert!(json.pointer(path).is_some(), "{path}");
        }
        assert_eq!((&json["state"], &json["members"][1]["state"]), (&json!("degraded"), &json!("down")));
    }
}
