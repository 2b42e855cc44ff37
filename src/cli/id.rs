//! `quorate id`: who the node on a data directory is.

use clap::Args;
use serde_json::json;

use crate::{
    cli::{
        error::CliError,
        output::{Answer, Text},
        settings::Settings,
    },
    runtime::{self, IDENTITY_KEY_FILE},
};

/// Arguments of `id`.
#[derive(Debug, Clone, Copy, Args)]
pub struct IdArgs {
    /// Make one where there is none yet, for a node that is started later.
    #[arg(long)]
    pub create: bool,
}

/// Reads the identity; makes one only where that is asked for: a mistyped directory must not become a node.
pub(crate) fn run(settings: &Settings, args: IdArgs) -> Result<Answer, CliError> {
    let path = settings.data_dir.join(IDENTITY_KEY_FILE);
    if !args.create && !path.exists() {
        let detail = format!(
            "{} is not there: no node has been started on it; `quorate start` makes one, and `quorate id --create` \
             before that",
            path.display()
        );
        return Err(CliError::Missing { detail });
    }
    let keypair = runtime::make_identity(&settings.data_dir);
    let keypair = keypair.map_err(|error| CliError::Node { detail: error.to_string() })?;
    let peer = keypair.public().to_peer_id().to_string();
    let data_dir = std::path::absolute(&settings.data_dir).unwrap_or_else(|_| settings.data_dir.clone());
    let json = json!({ "peer_id": peer, "data_dir": data_dir.to_string_lossy() });
    Ok(Answer::one(json, Text::Lines(peer)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::settings::{Raw, Sources},
        runtime::identity,
    };

    #[test]
    fn an_identity_is_made_only_where_that_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("new");
        let flags = vec![("data_dir", "--data-dir", Raw::One(data_dir.to_str().unwrap().to_owned()))];
        let settings = Settings::load(&Sources { flags, host: "h".to_owned(), ..Sources::default() }).unwrap();
        let told =
            |create| run(&settings, IdArgs { create }).map(|answer| answer.into_single_json()["peer_id"].clone());
        assert_eq!(told(false).unwrap_err().exit().code(), 1);
        assert!(!data_dir.exists());

        let made = told(true).unwrap();
        let keypair = identity::load(&data_dir.join(IDENTITY_KEY_FILE)).unwrap().unwrap();
        assert_eq!(made, keypair.public().to_peer_id().to_string());
        assert_eq!((told(true).unwrap(), told(false).unwrap()), (made.clone(), made), "it stays the same");
    }
}
