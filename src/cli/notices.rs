//! What a running node tells, in words and as JSON.

use serde_json::{Value as Json, json};

use crate::{
    cli::{alerts, text::peer_text},
    membership::change::Parameters,
    node::effect::{Event, Stop},
    runtime::Notice,
};

/// For programs.
pub(crate) fn to_json(notice: &Notice) -> Json {
    match notice {
        Notice::Ready { .. } => json!({ "event": "ready" }),
        Notice::Listening(address) => json!({ "event": "listening", "address": address.to_string() }),
        Notice::Warning(detail) => json!({ "event": "warning", "detail": detail }),
        Notice::Fatal(detail) => json!({ "event": "fatal", "detail": detail }),
        Notice::Event(event) => match event {
            Event::Ready => json!({ "event": "ready" }),
            Event::Founded(Parameters { partitions, replicas }) => {
                json!({ "event": "founded", "partitions": partitions.get(), "replicas": replicas })
            }
            Event::MemberJoined(node) => json!({ "event": "member_joined", "peer_id": peer_text(node) }),
            Event::MemberGone(node) => json!({ "event": "member_gone", "peer_id": peer_text(node) }),
            Event::Stopped(stop) => json!({ "event": "stopped", "reason": stop_word(*stop) }),
            Event::HistoryRefused { from, reason } => {
                json!({ "event": "history_refused", "peer_id": peer_text(from), "detail": reason })
            }
            Event::StoreIsOld { seen } => json!({ "event": "store_is_old", "seen": seen }),
            Event::Namesake { node, name } => {
                json!({ "event": "namesake", "peer_id": peer_text(node), "name": name.as_str() })
            }
            Event::StoreFailed { detail } => json!({ "event": "store_failed", "detail": detail }),
            Event::AlertRaised(alert) => with_event("alert", alerts::to_json(alert)),
            Event::AlertCleared(alert) => with_event("alert_cleared", alerts::to_json(alert)),
        },
    }
}

/// The JSON of something else, as an event.
fn with_event(name: &str, mut json: Json) -> Json {
    json["event"] = name.into();
    json
}

/// For people.
pub(crate) fn to_text(notice: &Notice) -> String {
    match notice {
        Notice::Ready { .. } => "it serves".to_owned(),
        Notice::Listening(address) => format!("listens   {address}"),
        Notice::Warning(detail) => format!("WARNING   {detail}"),
        Notice::Fatal(detail) => format!("ERROR     {detail}"),
        Notice::Event(event) => match event {
            Event::Ready => "it serves".to_owned(),
            Event::Founded(Parameters { partitions, replicas }) => {
                format!("founded   a cluster of {partitions} partitions, {replicas} replicas of a key")
            }
            Event::MemberJoined(node) => format!("joined    {}", peer_text(node)),
            Event::MemberGone(node) => format!("gone      {}", peer_text(node)),
            Event::Stopped(stop) => format!("stopped   {}", stop_text(*stop)),
            Event::HistoryRefused { from, reason } => {
                format!("WARNING   what {} says of the cluster is refused: {reason}", peer_text(from))
            }
            Event::StoreIsOld { seen } => format!(
                "WARNING   others have seen start number {seen} of this node, which its store does not know: the store \
                 was restored or cloned; it begins new epochs"
            ),
            Event::Namesake { node, name } => format!(
                "WARNING   this node is a new member, and another one called {name} cannot be reached: {old}. If that was \
                 this machine before it lost its data directory, have this node take its place: quorate replace {old} PEER, \
                 with the peer id of this node",
                old = peer_text(node)
            ),
            Event::StoreFailed { detail } => format!("ERROR     the store failed: {detail}"),
            Event::AlertRaised(alert) => format!("ALERT     {}", alert.detail),
            Event::AlertCleared(alert) => format!("over      {}", alert.detail),
        },
    }
}

fn stop_word(stop: Stop) -> &'static str {
    match stop {
        Stop::Left => "left",
        Stop::Removed => "removed",
        Stop::Twin => "twin",
    }
}

/// Why a node has stopped, for people.
pub(crate) fn stop_text(stop: Stop) -> &'static str {
    match stop {
        Stop::Left => "it has handed over all that it held, and has left the cluster",
        Stop::Removed => {
            "this node was removed from the cluster for ever: its identity is not taken back; to use this machine again, \
             start it with an empty --data-dir"
        }
        Stop::Twin => {
            "another process, started before this one, serves with the same identity.key: its data directory was copied, or \
             two machines started from one image. Two of them would be taken for one. Run only one of the two; to make this \
             one a new member, delete its identity.key and its store and start it again; to have it take over from the \
             other, stop that one first"
        }
    }
}
