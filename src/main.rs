//! The `quorate` command.

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    ExitCode::from(quorate::cli::run(env::args_os().collect()))
}
