//! What a command answers, and the one place that prints it.
//!
//! A command computes an [`Answer`] and prints nothing itself; the [`Terminal`] shows it in the asked format. Answers
//! go to the standard output, everything else to the standard error. Nothing is printed with `print!`, which panics
//! when the reader goes away.

use std::{
    fmt,
    io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _},
    time::Duration,
};

use clap::ValueEnum;
use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};
use serde_json::{Value as Json, json};

use crate::cli::error::{CliError, Exit};

/// For whom the output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: JSON, stable.
    Json,
}

/// What a command answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// For programs.
    pub json: Lines,
    /// For people.
    pub text: Text,
    /// How the command ends.
    pub exit: Exit,
}

/// The JSON of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Lines {
    /// One value on one line.
    One(Json),
    /// One object a line; may be none.
    Many(Vec<Json>),
}

/// An answer for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// The value that was asked for, to the byte.
    Raw(Vec<u8>),
    /// Lines for the standard output; without a line break at the end. May be empty: then nothing is printed.
    Lines(String),
    /// That it is done; not what anybody asked to read, so it goes to the standard error.
    Note(String),
}

impl Answer {
    /// A single JSON value and its text.
    pub(crate) fn one(json: Json, text: Text) -> Answer {
        Answer { json: Lines::One(json), text, exit: Exit::Done }
    }

    /// One object a line, and the text.
    pub(crate) fn many(lines: Vec<Json>, text: Text) -> Answer {
        Answer { json: Lines::Many(lines), text, exit: Exit::Done }
    }

    /// The same, ending otherwise.
    pub(crate) fn ending(self, exit: Exit) -> Answer {
        Answer { exit, ..self }
    }

    /// The answer as one value on one line, as the shell gives it.
    pub(crate) fn into_single_json(self) -> Json {
        match self.json {
            Lines::One(json) => json,
            Lines::Many(lines) => json!({ "ok": true, "lines": lines }),
        }
    }
}

/// The standard output and error of this process.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    /// In which format answers are shown.
    pub format: Format,
}

impl Terminal {
    /// Shows an answer. Returns how the command ends.
    pub(crate) fn show(self, answer: Answer) -> Result<Exit, CliError> {
        match self.format {
            Format::Json => match answer.json {
                Lines::One(json) => self.json_line(&json)?,
                Lines::Many(lines) => lines.iter().try_for_each(|json| self.json_line(json))?,
            },
            Format::Table => match answer.text {
                Text::Raw(bytes) => self.raw(&bytes)?,
                Text::Lines(text) if text.is_empty() => {}
                Text::Lines(text) => self.line(&text)?,
                Text::Note(text) => self.note(&text),
            },
        }
        Ok(answer.exit)
    }

    /// Shows a failure. Returns how the command ends.
    pub(crate) fn fail(self, error: &CliError) -> Exit {
        if error.exit() == Exit::Closed {
            return Exit::Closed;
        }
        match self.format {
            // The exit code tells it even if nobody reads the line.
            Format::Json => drop(self.json_line(&error.to_json())),
            Format::Table => self.note(&format!("quorate: {error}")),
        }
        error.exit()
    }

    /// One line of JSON to the standard output.
    pub(crate) fn json_line(self, json: &Json) -> Result<(), CliError> {
        self.line(&json.to_string())
    }

    /// One or more lines to the standard output, at once.
    pub(crate) fn line(self, text: &str) -> Result<(), CliError> {
        write_out(|out| writeln!(out, "{text}"))
    }

    /// One or more lines to the standard error. That nobody reads them is no failure.
    pub(crate) fn note(self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Asks the person at the terminal. Whatever is not a yes is a no.
    pub(crate) fn ask_for_yes(self, question: &str) -> Result<bool, CliError> {
        let mut err = io::stderr().lock();
        // That nobody sees the question is no failure: nobody says yes then.
        let _ = write!(err, "{question} (yes or no) ").and_then(|()| err.flush());
        let mut line = String::new();
        io::stdin().lock().take(ANSWER_LIMIT_BYTES).read_line(&mut line).map_err(CliError::io("standard input"))?;
        Ok(is_yes(&line))
    }

    /// Exactly these bytes; a person's prompt still begins on a line of its own.
    fn raw(self, bytes: &[u8]) -> Result<(), CliError> {
        let ends_line = bytes.ends_with(b"\n") || !io::stdout().is_terminal();
        write_out(|out| {
            out.write_all(bytes)?;
            if ends_line { Ok(()) } else { out.write_all(b"\n") }
        })
    }
}

/// `bar` on the standard error in the form of `template`, which may say `{time_left}`; hidden when that is no terminal.
pub(crate) fn progress(bar: ProgressBar, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the templates are sound");
    bar.set_style(style.with_key("time_left", |state: &ProgressState, out: &mut dyn fmt::Write| {
        // Fails only where the text that is written to does, and that does not.
        let _ = match state.pos() {
            // Nothing to reckon with so far.
            0 => write!(out, "time left unknown"),
            _ => write!(out, "{:#} left", HumanDuration(state.eta())),
        };
    }));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Longest answer to a question that is read.
const ANSWER_LIMIT_BYTES: u64 = 1_024;

fn is_yes(line: &str) -> bool {
    matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

fn write_out(write: impl FnOnce(&mut io::StdoutLock<'_>) -> io::Result<()>) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    write(&mut out).and_then(|()| out.flush()).map_err(CliError::io("standard output"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_a_yes() {
        assert!(["y\n", " Yes ", "YES"].into_iter().all(is_yes));
        assert!(!["", "\n", "no", "yes please", "yy"].into_iter().any(is_yes));
    }

    #[test]
    fn many_lines_become_one_object_in_the_shell() {
        let answer = Answer::many(vec![json!({"key": "a"})], Text::Lines("a".to_owned()));
        assert_eq!(answer.into_single_json().to_string(), r#"{"ok":true,"lines":[{"key":"a"}]}"#);
    }
}
