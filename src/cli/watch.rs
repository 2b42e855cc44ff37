//! Waiting for what a node was ordered to do: it is asked how that stands, again and again, until it is over.
//!
//! The node does not depend on being watched: it goes on when nobody asks any more.

use std::time::Duration;

use async_std::task;
use indicatif::ProgressBar;

use crate::{
    cli::{connect::Session, error::CliError, output},
    wire::administration::ExchangeReport,
};

/// What one look has shown.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look<T> {
    /// It is not over yet.
    GoesOn,
    /// It is over, or need not be waited for.
    Over(T),
}

/// A bar that appears with the first look, and vanishes at the end.
pub(crate) struct Progress {
    template: &'static str,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// As [`output::progress`]; nothing is shown yet.
    pub(crate) fn new(template: &'static str) -> Progress {
        Progress { template, bar: None }
    }

    /// So much is done of so much, and what else there is to say.
    pub(crate) fn show(&mut self, done: u32, total: u32, message: String) {
        let first = || output::progress(ProgressBar::new(total.into()).with_message(message.clone()), self.template);
        let bar = self.bar.get_or_insert_with(first);
        bar.set_message(message);
        bar.set_position(done.into());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Asks until `judge` has seen enough. An answer that does not come is not taken for an end, unless several in a row do
/// not.
pub(crate) async fn watch<T>(
    session: &Session,
    mut judge: impl FnMut(ExchangeReport) -> Result<Look<T>, CliError>,
) -> Result<T, CliError> {
    let mut misses = 0;
    loop {
        match session.client.exchanges().await {
            Ok(report) => {
                misses = 0;
                if let Look::Over(outcome) = judge(report)? {
                    return Ok(outcome);
                }
            }
            Err(error) if misses == MISSES_MAX => return Err(session.explain(error)),
            Err(_) => misses += 1,
        }
        task::sleep(PAUSE).await;
    }
}

/// From one look to the next.
const PAUSE: Duration = Duration::from_millis(200);

/// Looks in a row that may fail.
const MISSES_MAX: u32 = 5;
