//! `quorate id`: who the node on a data directory is.

use serde_json::json;

use crate::{
    cli::{
        error::CliError,
        output::{Answer, Text},
        settings::Settings,
    },
    runtime::identity,
};

/// Reads the identity; never makes one.
pub(crate) fn run(settings: &Settings) -> Result<Answer, CliError> {
    let path = settings.data_dir.join("identity.key");
    if !path.exists() {
        let detail =
            format!("{} is not there: no node has been started on it; `quorate start` makes one", path.display());
        return Err(CliError::Missing { detail });
    }
    let keypair = identity::load_or_create(&path).map_err(|error| CliError::Node { detail: error.to_string() })?;
    let peer = keypair.public().to_peer_id().to_string();
    let data_dir = std::path::absolute(&settings.data_dir).unwrap_or_else(|_| settings.data_dir.clone());
    let json = json!({ "peer_id": peer, "data_dir": data_dir.to_string_lossy() });
    Ok(Answer::one(json, Text::Lines(peer)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::settings::{Raw, Sources};

    #[test]
    fn an_identity_is_told_but_never_made() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = Raw::One(dir.path().to_str().unwrap().to_owned());
        let flags = vec![("data_dir", "--data-dir", data_dir)];
        let settings = Settings::load(&Sources { flags, host: "h".to_owned(), ..Sources::default() }).unwrap();
        assert_eq!(run(&settings).unwrap_err().exit().code(), 1);
        assert!(!dir.path().join("identity.key").exists());

        let keypair = identity::load_or_create(&dir.path().join("identity.key")).unwrap();
        let json = run(&settings).unwrap().into_single_json();
        assert_eq!(json["peer_id"], keypair.public().to_peer_id().to_string());
    }
}
