//! `quorate keygen`: a key for a closed cluster, in kubo's `swarm.key` format.

use serde_json::json;

use crate::{
    cli::output::{Answer, Text},
    runtime::swarm_key,
};

/// Draws a key.
pub(crate) fn run() -> Answer {
    let file = swarm_key::generate().to_key_file();
    Answer::one(json!({ "ok": true, "swarm_key": file }), Text::Raw(file.into_bytes()))
}
