//! `quorate alerts`: what the administrator of a node should know.

use serde_json::{Value as Json, json};

use crate::{
    cli::text::{peer_text, time_text},
    wire::administration::Alert,
};

/// One alert as programs read it.
pub(crate) fn to_json(alert: &Alert) -> Json {
    json!({
        "alert": alert.kind.name(),
        "peer_id": alert.kind.node().map(peer_text),
        "since": time_text(alert.since),
        "detail": alert.detail,
    })
}
