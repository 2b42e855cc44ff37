//! `quorate completions`: what a shell needs to complete our words.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use serde_json::json;

use crate::cli::{
    Cli,
    output::{Answer, Text},
};

/// Arguments of `completions`.
#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    /// The shell.
    pub shell: Shell,
}

/// Makes the script.
pub(crate) fn run(args: CompletionsArgs) -> Answer {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "quorate", &mut script);
    let json = json!({ "ok": true, "script": String::from_utf8_lossy(&script) });
    Answer::one(json, Text::Raw(script))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_knows_our_words() {
        let Text::Raw(script) = run(CompletionsArgs { shell: Shell::Bash }).text else { panic!("bytes") };
        let script = String::from_utf8(script).unwrap();
        assert!(script.contains("members") && script.contains("--swarm-key"));
    }
}
