//! `quorate shell`: the commands of a client, one a line.
//!
//! On a terminal: a prompt with history, answers as asked with `-o`. Else, for programs: one line in, one JSON line out.
//! A line is the same words as on the command line, or a JSON object with an `op`. Lines whose object has an `id` may
//! be under way together, and their answers come as they are ready; any other line waits for all before it, and is
//! waited for.

use std::io::{self, IsTerminal as _};

use async_std::channel::Receiver;
use clap::Parser;
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use rustyline::{DefaultEditor, error::ReadlineError};
use serde_json::Value as Json;

use crate::cli::{
    ClientCommand,
    connect::Session,
    error::{CliError, Exit},
    lines,
    output::{Format, Terminal},
    put::ValueSource,
    settings::Settings,
    shell_line::{self, Order},
};

/// Runs until the input ends.
pub(crate) async fn run(session: &Session, settings: &Settings, terminal: Terminal) -> Result<Exit, CliError> {
    if io::stdin().is_terminal() {
        prompt(session, settings, terminal).await
    } else {
        serve(session, &lines::read(io::BufReader::new(io::stdin())), terminal).await
    }
}

/// A line of words.
#[derive(Debug, Parser)]
#[command(
    name = "",
    no_binary_name = true,
    disable_version_flag = true,
    override_usage = "COMMAND [OPTIONS] …",
    about = "The commands of the shell. Words are quoted as in a shell; `COMMAND --help` says more, `exit` or Ctrl-D ends"
)]
pub(crate) struct Words {
    #[command(subcommand)]
    pub(crate) command: ClientCommand,
}

/// Lines under way at once.
const IN_FLIGHT_MAX: usize = 64;

/// Lines that the prompt remembers.
const HISTORY_FILE: &str = "shell_history";

/// One line in, one JSON line out.
async fn serve(
    session: &Session,
    receiver: &Receiver<io::Result<Vec<u8>>>,
    terminal: Terminal,
) -> Result<Exit, CliError> {
    let mut in_flight: FuturesUnordered<BoxFuture<'_, Json>> = FuturesUnordered::new();
    loop {
        let room = in_flight.len() < IN_FLIGHT_MAX;
        let read = futures::select_biased! {
            answer = in_flight.select_next_some() => {
                terminal.json_line(&answer)?;
                continue;
            }
            read = receive(receiver, room) => read,
        };
        let Some(read) = read else { break };
        let line = read.map_err(CliError::io("standard input"))?;
        if lines::is_blank(&line) {
            continue;
        }
        let order = shell_line::parse(&line);
        if order.id.is_none() {
            while let Some(answer) = in_flight.next().await {
                terminal.json_line(&answer)?;
            }
            terminal.json_line(&carry_out(session, order).await)?;
        } else {
            in_flight.push(Box::pin(carry_out(session, order)));
        }
    }
    while let Some(answer) = in_flight.next().await {
        terminal.json_line(&answer)?;
    }
    Ok(Exit::Done)
}

/// The next line; never, while there is no room for it.
fn receive(
    receiver: &Receiver<io::Result<Vec<u8>>>,
    room: bool,
) -> futures::future::Fuse<BoxFuture<'_, Option<io::Result<Vec<u8>>>>> {
    use futures::FutureExt as _;
    let receiver = receiver.clone();
    let next: BoxFuture<'_, _> = match room {
        true => Box::pin(async move { receiver.recv().await.ok() }),
        false => Box::pin(futures::future::pending()),
    };
    next.fuse()
}

/// Does what a line says; a failure is an answer too.
async fn carry_out(session: &Session, order: Order) -> Json {
    let Order { id, command } = order;
    let result = match command {
        Ok(command) => command.run(session, ValueSource::ArgumentsOnly, Terminal { format: Format::Json }).await,
        Err(error) => Err(error),
    };
    let json = match result {
        Ok(answer) => answer.into_single_json(),
        Err(error) => error.to_json(),
    };
    shell_line::with_id(json, id)
}

/// A prompt for a person. Blocks its thread while it waits for a line; the client has threads of its own.
async fn prompt(session: &Session, settings: &Settings, terminal: Terminal) -> Result<Exit, CliError> {
    let failed =
        |error: ReadlineError| CliError::Io { subject: "the prompt".to_owned(), source: io::Error::other(error) };
    let mut editor = DefaultEditor::new().map_err(failed)?;
    let history = settings.data_dir.join(HISTORY_FILE);
    // The first time there is none; and a prompt without its history still works.
    let _ = editor.load_history(&history);
    terminal.note(&format!("asking {}; `help` lists the commands, Ctrl-D ends", session.target.tried));
    loop {
        let line = match editor.readline("quorate> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(failed(error)),
        };
        if line.trim().is_empty() {
            continue;
        }
        // A line that cannot be remembered can still be carried out.
        let _ = editor.add_history_entry(line.as_str());
        if matches!(line.trim(), "exit" | "quit") {
            break;
        }
        match shell_line::parse(line.as_bytes()).command {
            Ok(command) => match command.run(session, ValueSource::ArgumentsOnly, terminal).await {
                Ok(answer) => drop(terminal.show(answer)?),
                Err(error) => drop(terminal.fail(&error)),
            },
            Err(error) => terminal.note(&error.to_string()),
        }
    }
    // Without a data directory here there is no place for a history.
    let _ = editor.save_history(&history);
    Ok(Exit::Done)
}
